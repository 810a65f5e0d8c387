"""`View` of the ``report.json`` of `compare`."""

from __future__ import annotations

from cerebellum.gguf.types import STORED
from cerebellum.report.grids import batches_of, chunks_of
from cerebellum.report.markdown import comparison_facts
from cerebellum.report.short_names import short_names
from cerebellum.report.values import Data, flat_mean, lines, maybe, mean, number, percent, whole, words
from cerebellum.report.views import (
    DOMINATED,
    UNPROVEN,
    WORTH,
    Command,
    Compared,
    Mean,
    Pair,
    Point,
    Rate,
    Rung,
    View,
)

#: Percentiles of the divergence of single tokens, as the data calls them.
TAIL = ("median", "p99", "p999")


def comparison(value: Data) -> View:
    """What it says; raises as `cerebellum.report.values` does."""
    facts = value["facts"]
    files = tuple(sorted((_compared(entry) for entry in value["files"]), key=_distance))
    sizes = {file.file: file.file_bytes for file in files}
    reference, command = words(facts["reference"]["file"]), value["commands"]["cerebellum"]
    return View(
        kind="comparison",
        title=f"{len(files)} files against {reference}" if len(files) > 1 else f"{files[0].file} against {reference}",
        subtitle="Any files of one model, each measured on the same text.",
        verdict=lines(value["verdict"]),
        more=(),
        warnings=lines(facts.get("warnings", ())),
        report_text=f"Text {chunks_of(facts['text'])}{batches_of(facts)}.",
        search_text="",
        floor=0.0,
        noise="",
        facts=tuple(comparison_facts(facts, words(value["version"]))),
        commands=(Command("repeat the whole work", words(command)),) if command else (),
        points=_points(files),
        compared=files,
        pairs=tuple(_pair(pair, sizes) for pair in value["pairs"]),
        rungs=_rungs(files, number(value["files"][0]["reference_perplexity"])),
        speed=_ground(value["speed"]),
    )


def _distance(file: Compared) -> tuple[float, int]:
    return (file.change.estimate if file.kld is None else file.kld.estimate, file.file_bytes)


def _compared(entry: Data) -> Compared:
    has_kld, speed = "kld" in entry, entry["speed"] or {}
    dominated, unproven = (lines(entry.get(key, ())) for key in ("dominated_by", "unproven_against"))
    worth = f"no: {', '.join(dominated)}" if dominated else f"not shown: {', '.join(unproven)}" if unproven else "yes"
    return Compared(
        file=words(entry["model"]),
        sha256=words(entry["sha256"]),
        file_bytes=whole(entry["file_bytes"]),
        bits=number(entry["bits_per_weight"]),
        rank=whole(entry.get("rank", 1)),
        series=DOMINATED if dominated else UNPROVEN if unproven else WORTH,
        worth=worth,
        kld=flat_mean(entry, "kld") if has_kld else None,
        tail=tuple(flat_mean(entry, f"kld_{name}") for name in TAIL) if has_kld else (),
        largest=number(entry["kld_max"]) if has_kld else None,
        same_top=flat_mean(entry, "same_top") if has_kld else None,
        ppl=flat_mean(entry, "perplexity"),
        change=flat_mean(entry, "log_ratio", percent),
        types=tuple(
            (words(r), STORED[k].name, whole(n)) for r, kinds in entry["types"].items() for k, n in kinds.items()
        ),
        prompt=_rate(speed.get("prompt")),
        generation=_rate(speed.get("generation")),
    )


def _rate(test: Data | None) -> Rate | None:
    return None if test is None else Rate(number(test["rate"]), maybe(test["spread"]))


def _points(files: tuple[Compared, ...]) -> tuple[Point, ...]:
    names = short_names([file.file for file in files])
    return tuple(
        Point(name, file.series, file.file_bytes, file.kld)
        for name, file in zip(names, files, strict=True)
        if file.kld is not None
    )


def _pair(pair: Data, sizes: dict[str, int]) -> Pair:
    file, less = words(pair["file"]), words(pair["less"])
    kld = None if pair["kld"] is None else mean(pair["kld"])
    return Pair(file, less, sizes[file] - sizes[less], kld, mean(pair["log_ratio"], percent))


def _rungs(files: tuple[Compared, ...], reference: float) -> tuple[Rung, ...]:
    """Perplexity beside KL divergence, where there are enough files to see whether the one grows with the other."""
    known = [file for file in files if file.kld is not None]
    if len(known) < 3:
        return ()
    names = dict(zip([f.file for f in files], short_names([f.file for f in files]), strict=True))
    rungs = (Rung(names[f.file], f.ppl.estimate, f.change, f.kld.estimate) for f in known if f.kld is not None)
    return (Rung("reference", reference, Mean(0.0), 0.0), *rungs)


def _ground(speed: Data | None) -> tuple[str, ...]:
    """On what the speed was timed."""
    if speed is None:
        return ()
    layers = f"{whole(speed['gpu_layers'])} layers on the GPU" if speed["gpu_layers"] else "the processor alone"
    packed = (
        () if speed["repack"] else ("Weights were not repacked: llama.cpp's kernels for that fail on this machine.",)
    )
    return (
        f"Prompt of {whole(speed['n_prompt'])} tokens read together; {whole(speed['n_generate'])} tokens written one by one, as "
        f"llama-bench times them. {words(str(speed['threads']))} threads, {layers}, {words(speed['hardware'])}.",
        *packed,
    )
