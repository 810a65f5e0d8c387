"""Parts of a job by the real engine, merged: one run's rows, bit for bit, as are those of two engines side by side."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerebellum.domain import Trial, TrialKind, tensor_types_of
from cerebellum.errors import StudyError
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.study.merge import merge_parts
from cerebellum.study.runner import TrialRunner
from cerebellum.study.shards import PartDone, Shard
from cerebellum.study.store import Study
from tests.llamacpp import tiny

BASE = Trial("base", TrialKind.BASE)
ROLES = ("ffn_down", "ffn_up", "attn_output")
TRIALS = [Trial(f"{role} {i}", TrialKind.SINGLE, tensor_types_of({f"blk.{i}.{role}.weight": "Q2_K"}))
          for role in ROLES for i in range(tiny.BLOCKS)]  # fmt: skip


def rows(study: Study) -> dict[str, Any]:
    """Content key of a trial → its scores."""
    return {key: study.scores(number) for series, *_ in study.all_series() for number, key, *_ in study.trials(series)}


def test_parts_merged_and_two_engines_are_one_run_bit_for_bit(tmp_path: Path) -> None:
    """A part twice changes nothing; a part with one other bit is refused."""
    path = tiny.llama(tmp_path / "model.gguf")
    model, backend = read_model(path), LlamaBackend()
    with contextlib.ExitStack() as stack:
        engines = [backend.open(path, Settings(n_ctx=32, n_threads=1), Sources(path)) for _ in range(2)]
        for engine in engines:
            stack.callback(engine.close)
        corpus = engines[0].corpus("text", tiny.text(400), 32)

        def measured(name: str, n_engines: int, shard: str | None = None) -> Study:
            study = stack.enter_context(Study.open(tmp_path / name / "study.sqlite"))
            study.bind({"weights_sha256": "ab" * 32}, path.name)
            series = study.series("search", {"text": corpus.tokens_sha256})
            own = Shard.parse(shard) if shard else None
            runner = TrialRunner(engines[:n_engines], study, series, model.types, corpus, shard=own)
            with contextlib.suppress(PartDone):
                runner.measure([BASE, *TRIALS], range(3))
            return study

        whole, two = measured("whole", 1), measured("two", 2)
        parts = [(f"part {i}", measured(f"part{i}", 1, f"{i}/3")) for i in (3, 1, 2)]
        assert rows(two) == rows(whole) and all(len(scores) == 3 for scores in rows(whole).values())
        assert len(rows(whole)) == 10 and len({scores[0].nll for scores in rows(whole).values()}) == 10
        merged = stack.enter_context(Study.open(tmp_path / "merged" / "study.sqlite"))
        taken = merge_parts(merged, parts)
        assert rows(merged) == rows(whole) and [part.n_new for part in taken] == [12, 9, 9]
        assert [part.n_new for part in merge_parts(merged, parts[:1])] == [0]
        odd = measured("odd", 1, "1/3")
        number, scores = next((n, s) for n, *_ in odd.trials(1) if (s := odd.scores(n)))
        broken = stack.enter_context(Study.open(tmp_path / "broken" / "study.sqlite"))
        broken.bind({"weights_sha256": "ab" * 32}, path.name)
        key, label, kind, swaps = next(rest for n, *rest in odd.trials(1) if n == number)
        trial = broken.add_trial(broken.series("search", odd.series_facts(1)), key, label, kind, swaps)
        broken.add_score(trial, replace(scores[0], nll=scores[0].nll * (1.0 + 1e-12)))
        with pytest.raises(StudyError, match=r"broken has other sums for trial .*, chunk 0"):
            merge_parts(merged, [("broken", broken)])
