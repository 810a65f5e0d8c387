"""Parts of a job on machines that don't know of each other: merged they are one run, row by row; what doesn't belong is refused by name."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import TensorType, TrialKind
from cerebellum.errors import InputError, StudyError
from cerebellum.report.part import merged_lines
from cerebellum.study.shards import Shard
from cerebellum.study.store import Study
from cerebellum.testing import Effect, FakeBackend, FakeEngine, Fault, write_fake_model

BLOCKS = 6
EFFECTS = {
    TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.04),
    **{TensorType(f"blk.{i}.ffn_gate.weight", "Q2_K"): Effect(nll=0.01, kld=0.001 * (i + 1)) for i in range(BLOCKS)},
    **{TensorType(f"blk.{i}.ffn_down.weight", "Q2_K"): Effect(nll=0.02, kld=0.002 * (i + 1)) for i in range(BLOCKS)},
}
SWEEP: dict[str, Any] = {"role": "ffn_gate,ffn_down", "ctx": 64, "chunks": 6}


class Counting(FakeBackend):
    """Counts what its engines score."""

    engines: list[FakeEngine]

    def __init__(self, **fields: Any) -> None:
        super().__init__(EFFECTS, **fields)
        object.__setattr__(self, "engines", [])

    def open(self, *arguments: Any) -> FakeEngine:
        self.engines.append(super().open(*arguments))
        return self.engines[-1]

    @property
    def n_scored(self) -> int:
        return sum(engine.n_scored for engine in self.engines)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 80)))
    (tmp_path / "other.txt").write_text(" ".join(f"word{i * i % 8971}" for i in range(64 * 80)))
    return write_fake_model(tmp_path / "model.gguf", BLOCKS)


def part(model: Path, shard: str, name: str, backend: FakeBackend | None = None, **more: Any) -> Path:
    out = model.parent / name
    given = {**SWEEP, "text": model.parent / "text.txt", **more}
    api.sweep_part(model, shard, out=out, backend=backend or FakeBackend(EFFECTS), **given)
    return out


def sweep(model: Path, name: str, backend: FakeBackend | None = None) -> Any:
    given = {**SWEEP, "text": model.parent / "text.txt"}
    return api.sweep(model, out=model.parent / name, backend=backend or FakeBackend(EFFECTS), **given)


#: Everything that a study says of its measurements, without the numbers of rows.
ROWS = """
    SELECT series.key, series.name, series.facts, trial.key, label, kind, swaps, chunk, n_tokens, nll, nll2, tempered, kld, kld2, kld_var,
           same_top, dp, dp2, dp4, kld_tokens, digest
    FROM score JOIN trial ON trial.id = score.trial JOIN series ON series.id = trial.series ORDER BY series.key, trial.key, chunk
"""


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "study.sqlite") as db:
        return db.execute(ROWS).fetchall()


def singles(folder: Path) -> list[str]:
    """Labels of the single trials that are measured."""
    with sqlite3.connect(folder / "study.sqlite") as db:
        query = "SELECT label FROM trial WHERE kind = ? AND EXISTS (SELECT 1 FROM score WHERE score.trial = trial.id)"
        return sorted(label for (label,) in db.execute(query, (TrialKind.SINGLE.value,)))


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_each_trial_is_one_part_s_and_parts_are_equal(n: int) -> None:
    keys = {f"types:{i * 7919 % 1000:04d}": 4 if i % 5 else 2 for i in range(103)}
    own = [Shard(i, n).own(keys) for i in range(1, n + 1)]
    assert sorted(key for each in own for key in each) == sorted(keys)
    sizes, work = [len(each) for each in own], [sum(keys[key] for key in each) for each in own]
    assert max(sizes) - min(sizes) <= 1 and max(work) - min(work) <= 4
    assert [Shard(i, n).own(dict(reversed(keys.items()))) for i in range(1, n + 1)] == own


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/1000000", "١/٣"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--shard.*2/5"):
        Shard.parse(text)


def test_parts_merged_are_one_run_row_by_row(model: Path) -> None:
    """Each part measures its own trials, the base beside them; merged in any order they are the run on one machine."""
    whole = sweep(model, "whole")
    parts = [part(model, f"{i}/3", f"part{i}") for i in (1, 2, 3)]
    assert sorted(label for each in parts for label in singles(each)) == singles(model.parent / "whole")
    assert [len(singles(each)) for each in parts] == [4, 4, 4]
    for order, name in ((parts, "merged"), (parts[::-1], "reversed")):
        merged = api.merge(model.parent / name, order)
        assert rows(model.parent / name) == rows(model.parent / "whole")
        assert merged.n_new == len(rows(model.parent / "whole"))
    counting = Counting()
    again = sweep(model, "merged", counting)
    assert again.sweep == whole.sweep and counting.n_scored == 0


def test_a_part_goes_on_where_it_was_stopped_and_says_what_is_lacking(model: Path) -> None:
    given: dict[str, Any] = {"backend": FakeBackend(EFFECTS), "text": model.parent / "text.txt", **SWEEP}
    first, again = (api.sweep_part(model, "1/3", out=model.parent / "p", **given) for _ in range(2))
    assert (first.n_trials, first.n_lacking, again.n_new) == (5, 8 * 6, 0)  # the base and four of twelve
    assert api.sweep_part(model, "1/1", out=model.parent / "q", **given).n_lacking == 0


def test_a_trial_that_failed_shifts_no_other_to_another_part(model: Path) -> None:
    """Its failure is merged too: the final run leaves it out and measures nothing."""
    faulty = FakeBackend(EFFECTS, faults=(Fault(TensorType("blk.2.ffn_gate.weight", "Q2_K")),))
    for name in ("once", "twice"):
        parts = [part(model, f"{i}/3", f"f{i}", faulty) for i in (1, 2, 3)]
        api.merge(model.parent / name, parts)
    assert len({label for each in parts for label in singles(each)}) == 2 * BLOCKS - 1
    assert rows(model.parent / "once") == rows(model.parent / "twice")
    counting = Counting()
    result = sweep(model, "once", counting)
    assert [f.label for f in result.sweep.failed] == ["blk.2.ffn_gate.weight=Q2_K"] and counting.n_scored == 0


def test_a_part_twice_changes_nothing_and_is_said(model: Path) -> None:
    parts = [part(model, f"{i}/2", f"part{i}") for i in (1, 2)]
    api.merge(model.parent / "study", parts)
    before = rows(model.parent / "study")
    again = api.merge(model.parent / "study", [parts[1], parts[1]])
    assert [(p.n_new, p.n_known > 0) for p in again.parts] == [(0, True), (0, True)]
    assert rows(model.parent / "study") == before and "nothing new" in merged_lines(again)[0]


def refusal(study: Path, parts: Sequence[Path], **more: Any) -> str:
    """The message; the study is as it was, or isn't there."""
    file = study / "study.sqlite"
    before = rows(study) if file.exists() else None
    with pytest.raises((StudyError, InputError)) as caught:
        api.merge(study, parts, **more)
    assert (rows(study) if file.exists() else None) == before
    return str(caught.value)


def test_a_part_of_something_else_is_refused_by_name(model: Path) -> None:
    """Another model, text, context, reference; and nothing of the good part beside it is taken."""
    good, second = part(model, "1/2", "good"), part(model, "2/2", "second")
    api.merge(model.parent / "study", [good])
    other, q8 = write_fake_model(model.parent / "second.gguf", BLOCKS + 1), model.parent / "q8.gguf"
    FakeBackend().quantize(model, q8, "Q8_0")
    cases = {
        r"p is of another model, second.gguf; the study is of model.gguf": part(other, "2/2", "p"),
        r"text2 was measured with another text, so its search figures": part(model, "2/2", "text2", text=model.parent / "other.txt"),
        r"ctx was measured with .*n_ctx 32 \(the study: 64\)": part(model, "2/2", "ctx", ctx=32),
        r"ref was measured with another reference": part(model, "2/2", "ref", reference=q8),
    }  # fmt: skip
    for pattern, wrong in cases.items():
        for parts in ([wrong], [second, wrong]):
            text = refusal(model.parent / "study", parts)
            assert re.search(pattern, text) and text.endswith("Nothing was merged")
    refusal(model.parent / "new", [good, wrong])
    assert not list((model.parent / "new").iterdir())


def test_another_importance_matrix_is_refused(model: Path) -> None:
    good, other = part(model, "1/2", "good"), part(model, "2/2", "other")
    with Study.open(other / "study.sqlite") as study:
        known = study.fact("subject")
        known["facts"]["imatrix_sha256"] = "ab" * 32
        study.set_fact("subject", known)
    text = refusal(model.parent / "study", [good, other])
    assert "with the importance matrix abababababab…, the study with no importance matrix" in text


def test_the_same_cell_with_other_sums_is_refused(model: Path) -> None:
    """What only a broken machine gives."""
    good = part(model, "1/2", "good")
    odd = {**EFFECTS, TensorType("blk.0.attn_q.weight", "Q3_K"): Effect(nll=1e-6)}
    text = refusal(model.parent / "study", [good, part(model, "1/2", "broken", FakeBackend(odd))])
    assert re.search(r"broken has other sums for trial .*, chunk \d, than the study.*computes wrongly", text)


def test_an_altered_row_and_what_is_no_study_are_refused(model: Path) -> None:
    good, bad = part(model, "1/2", "good"), part(model, "2/2", "bad")
    with sqlite3.connect(bad / "study.sqlite") as db:
        db.execute("UPDATE score SET nll = nll + 1 WHERE chunk = 2")
    (model.parent / "junk.sqlite").write_bytes(b"no database")
    assert "is damaged" in refusal(model.parent / "s", [good, bad])
    assert "there is no study in" in refusal(model.parent / "s", [good, model.parent / "nothing"])
    assert "junk.sqlite" in refusal(model.parent / "s", [good, model.parent / "junk.sqlite"])
    assert "is the study itself" in refusal(good, [good])
    assert "is a file" in refusal(model, [good])


def test_an_interrupted_merge_leaves_the_study_whole(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it had taken by then is gone again; the same merge succeeds after it."""
    parts = [part(model, f"{i}/2", f"part{i}") for i in (1, 2)]
    api.merge(model.parent / "study", parts[:1])
    real, calls = Study.add_score, []

    def stopped(self: Study, trial: int, score: Any) -> None:
        calls.append(trial)
        if len(calls) == 7:
            raise KeyboardInterrupt
        real(self, trial, score)

    before = rows(model.parent / "study")
    monkeypatch.setattr(Study, "add_score", stopped)
    with pytest.raises(KeyboardInterrupt):
        api.merge(model.parent / "study", parts[1:])
    monkeypatch.undo()
    assert rows(model.parent / "study") == before and len(calls) == 7
    api.merge(model.parent / "study", parts[1:])
    assert len(rows(model.parent / "study")) > len(before)


# -- other builds ------------------------------------------------------------------------------------------------------


def test_a_build_with_the_same_bits_is_one_with_the_study_and_the_report_says_so(model: Path) -> None:
    """Another name of the build, equal bytes and sums: its rows count, for either build."""
    whole = sweep(model, "whole").sweep
    parts = [part(model, "1/2", "one"), part(model, "2/2", "two", FakeBackend(EFFECTS, id="fake elsewhere"))]
    merged = api.merge(model.parent / "study", parts)
    assert "bit for bit: taken for the same" in merged.parts[1].notes[0]
    for name in ("fake 1", "fake elsewhere"):
        counting = Counting(id=name)
        result = sweep(model, "study", counting)
        assert [row.contrast for row in result.sweep.rows] == [row.contrast for row in whole.rows]
        told = "another build or processor (fake elsewhere). It is taken for the same"
        assert any(told in warning for warning in result.facts["warnings"])
    text = refusal(model.parent / "strict", parts, same_build_only=True)
    assert re.search(r"two was measured by another build.*--same-build-only", text)


def test_a_build_with_other_bits_is_compared_with_its_own_base(model: Path) -> None:
    """Its sums stand in a series of their own; the differences to its own base are those of one machine."""
    whole = sweep(model, "whole").sweep
    other = FakeBackend(EFFECTS, id="fake 2", rounding=3)
    merged = api.merge(model.parent / "study", [part(model, "1/2", "one"), part(model, "2/2", "two", other)])
    assert "the quantized bytes of" in merged.parts[1].notes[0] and "its own base alone" in merged.parts[1].notes[0]
    counting = Counting()
    result = sweep(model, "study", counting)
    assert any("whose figures differ" in warning for warning in result.facts["warnings"])
    for ours, theirs in zip(result.sweep.rows, whole.rows, strict=True):
        assert ours.effect.swap == theirs.effect.swap
        assert ours.contrast.ppl.estimate == pytest.approx(theirs.contrast.ppl.estimate, abs=1e-6)
    shifted = [ours for ours, theirs in zip(result.sweep.rows, whole.rows, strict=True) if ours.base != theirs.base]
    assert len(shifted) == BLOCKS and counting.n_scored == 0  # the other machine's half stands beside its own base


def test_a_part_of_another_build_without_its_base_is_refused(model: Path) -> None:
    one, two = part(model, "1/2", "one"), part(model, "2/2", "two", FakeBackend(EFFECTS, id="fake 2", rounding=3))
    with sqlite3.connect(two / "study.sqlite") as db:
        db.execute("DELETE FROM score WHERE chunk = 3 AND trial IN (SELECT id FROM trial WHERE kind = 'base')")
    assert "chunk 3, has no base of the same build" in refusal(model.parent / "study", [one, two])


# -- allocation --------------------------------------------------------------------------------------------------------


def test_anchors_in_parts_look_by_look_are_those_of_one_run(model: Path) -> None:
    """Merged after every look; each part goes on from a copy of the study. The recipe is that of one machine."""
    given: dict[str, Any] = {
        "text": model.parent / "text.txt",
        "ctx": 64,
        "chunks": 8,
        "bpw": 3.5,
        "n_shuffled": 0,
        "refine": False,
    }
    backend, study, looks = FakeBackend(EFFECTS), model.parent / "study", list[str]()
    whole = api.allocate(model, out=model.parent / "whole", backend=backend, **given)
    for look in range(6):
        parts = []
        for i in (1, 2):
            folder = model.parent / f"look{look}-{i}"
            if study.exists():
                folder.mkdir()
                shutil.copy(study / "study.sqlite", folder)
            parts.append(api.run_part(model, f"{i}/2", out=folder, backend=backend, **given))
        if not any(each.n_lacking for each in parts):
            break
        looks.append(parts[0].what)
        api.merge(study, [each.out for each in parts])
    assert looks[0] == "anchors" and len(looks) >= 2 and look < 5
    result = api.allocate(model, out=study, backend=backend, **given)
    assert result.recipe == whole.recipe and result.anchors == whole.anchors


def test_a_race_has_no_parts(model: Path) -> None:
    with pytest.raises(InputError, match="a race chooses its next trials"):
        part(model, "1/2", "p", race=True)
    assert not (model.parent / "p").exists()
