"""What a folder holds of a finished job: its file, report and card are replaced by the same job alone, or by one that was told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebellum.errors import OutputError
from cerebellum.files import STUDY_FILE
from cerebellum.keys import sha256_file
from cerebellum.quoting import name as quoted
from cerebellum.scoring.summary import as_json
from cerebellum.study.store import Study
from cerebellum.verbs.bench import BenchOptions
from cerebellum.verbs.options import SessionOptions

#: The fact that holds the settings of the job whose results lie in the folder.
FACT = "job"
REPORT = "report.json"
#: Settings that hold lists: more of the same is no other job, since nothing that is there goes.
_GROWING = ("ladder", "bench")
#: Settings that folders of before hold beside another one that says the same.
_SAID_TWICE = ("max_growth_share",)


def claimed(options: SessionOptions, settings: Mapping[str, Any], bench: BenchOptions | None) -> SessionOptions:
    """``options`` with the job's settings, by the names of their options.

    Raises `OutputError` where the folder holds another job's results, unless ``options.force``.
    """
    job = {**settings, **of_session(options), **of_bench(bench)}
    if not options.force:
        files = [options.out / REPORT, *sorted(options.out.glob("*-cerebellum*.gguf"))]
        check_free(options.out, job, [path for path in files if path != options.model])
    return replace(options, job=job)


def of_session(options: SessionOptions) -> dict[str, Any]:
    """The settings that change figures: all but threads, workers and memory. Files are known by their content; the reference, which may be
    as large as a model, by its name and size."""
    reference = options.reference
    fields = {
        "text": sha256_file(options.text),
        "report-text": None if options.report_text is None else sha256_file(options.report_text),
        "chat": options.chat,
        "chunks": options.n_chunks,
        "base": options.base,
        "reference": None if reference is None else f"{reference.name}, {reference.stat().st_size} bytes",
        "imatrix": options.make_imatrix if options.imatrix is None else sha256_file(options.imatrix),
        "calibration-text": None if options.calibration is None else sha256_file(options.calibration),
        "base-overrides": None if options.mix.overrides is None else sha256_file(options.mix.overrides),
        "pure": options.mix.pure,
        "exclude": sorted(options.mix.exclude),
        "split": None if options.split is None else str(options.split),
    }
    return {**fields, **{_OPTIONS.get(name, name): value for name, value in options.settings.as_key().items()}}


#: Settings of the engine by the name of their option.
_OPTIONS = {"n_ctx": "ctx", "n_ubatch": "ubatch-size", "n_gpu_layers": "gpu-layers"}


def of_bench(bench: BenchOptions | None) -> dict[str, Any]:
    """The benchmarks' settings; nothing where none is asked for."""
    if bench is None:
        return {"bench": []}
    names = {"limit": bench.limit, "margin": bench.margin, "shots": bench.shots}
    return {"bench": sorted(bench.tasks), **{f"bench-{name}": value for name, value in names.items()}}


def check_free(out: Path, job: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Raises `OutputError` where one of ``files`` is there and is not this job's."""
    there = [path for path in files if path.exists()]
    if not there:
        return
    known = noted(out)
    if known is None:
        raise OutputError(
            f"{there[0]} is there already and is no result of the study in {out}: give another --out, or --force to replace it"
        )
    if changed := differences(known, as_json(job)):
        raise OutputError(
            f"{out} holds the finished result of other settings ({'; '.join(changed)}): give another --out, or --force to replace "
            f"{there[0].name} and what lies beside it"
        )


def noted(out: Path) -> Mapping[str, Any] | None:
    """The settings of the job whose results the folder holds; None where its study knows of none."""
    path = out / STUDY_FILE
    if not path.exists():
        return None
    with Study.open(path) as study:
        known = study.fact(FACT)
    return known if isinstance(known, dict) else None


def differences(known: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words; none where the job only adds to what is known."""
    asked_more = not known.get("bench")
    names = [
        n for n in dict.fromkeys([*job, *known]) if not (asked_more and n.startswith("bench")) and n not in _SAID_TWICE
    ]
    if known.get("policy") != job.get("policy"):  # the others are of one policy each
        names = ["policy"]
    return [told(n, known.get(n), job.get(n)) for n in names if not _goes_on(n, known.get(n), job.get(n))]


def _goes_on(name: str, before: Any, now: Any) -> bool:
    if name in _GROWING and isinstance(before, list) and isinstance(now, list):
        return set(map(str, before)) <= set(map(str, now))
    return bool(before == now)


def told(name: str, before: Any, now: Any) -> str:
    """``--chunks 16, now 64``; of files only that they differ."""
    if any(isinstance(value, str) and len(value) == 64 for value in (before, now)):
        return f"--{name}: another file"
    return f"--{name} {_word(before)}, now {_word(now)}"


def _word(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return quoted(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def note_job(study: Study, options: SessionOptions) -> None:
    """What is published from now on is this job's."""
    if options.job:
        study.set_fact(FACT, as_json(options.job))
