"""What a base is made of beside its file type, and that one tensor that can't be stored doesn't end everything."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.errors import InputError, OverrideError, TensorStoreError
from cerebellum.gguf.imatrix import Imatrix
from cerebellum.gguf.mix import Mix, MixOptions
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.overrides import pairs
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.verbs.base_mix import barrier, from_plain, mix_of, plain, without_entries, write_mix

BAD = "blk.2.ffn_gate.weight"


@dataclass(frozen=True)
class Overflowing(FakeBackend):
    """Can't store one tensor but as it is, as llama.cpp can't where a scale overflows."""

    def quantize(
        self,
        source: Path,
        out: Path,
        ftype: str,
        overrides: Sequence[tuple[str, str]] = (),
        imatrix: Path | None = None,
    ) -> None:
        if (kind := self.types(source, ftype, overrides, imatrix)[BAD]) == "Q4_0":
            raise TensorStoreError(f"quantizing: {BAD} can't be stored as {kind}: its values are too large", BAD, kind)
        super().quantize(source, out, ftype, overrides, imatrix)


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    for name, n in (("text", 97), ("other", 89)):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name}{i * i % n}" for i in range(64 * 30)))
    write_fake_model(tmp_path / "model.gguf")
    return tmp_path


def run(ground: Path, backend: FakeBackend | None = None, **more: Any) -> Any:
    effects = {TensorType(f"blk.{i}.ffn_gate.weight", "Q2_K"): Effect(kld=0.001 * i) for i in range(4)}
    given = {"text": ground / "text.txt", "report_text": ground / "other.txt", "ctx": 64, "out": ground / "out", **more}
    return api.choose(ground / "model.gguf", backend=backend or FakeBackend(effects), **given)


def test_pure_is_one_type_for_all(ground: Path) -> None:
    """As a line that hits every tensor that llama.cpp quantizes, after those that say otherwise."""
    source = read_model(ground / "model.gguf")
    (ground / "lines.txt").write_text("attn_v=Q6_K\n")
    mix = mix_of(MixOptions(("ffn_down",), ground / "lines.txt", True), source, "Q3_K_M")
    types = FakeBackend().types(source.path, "Q3_K_M", pairs(mix.lines))
    assert {kind for name, kind in types.items() if "ffn_down" in name} == {"F16"}
    assert {kind for name, kind in types.items() if "attn_v" in name} == {"Q6_K"}
    assert {types["token_embd.weight"], types["blk.0.attn_q.weight"]} == {"Q3_K"}
    assert from_plain(plain(mix)) == mix


def test_a_pattern_that_is_found_nowhere(ground: Path) -> None:
    """Refused, and so is a mix where the file type takes no lines."""
    source = read_model(ground / "model.gguf")
    with pytest.raises(OverrideError, match=r"--exclude ffn_gat[0-9] is found in no tensor"):
        mix_of(MixOptions(("ffn_gat0",)), source, "Q3_K_M")
    with pytest.raises(OverrideError, match=r"under the file type F16 llama\.cpp stores every tensor as F16"):
        mix_of(MixOptions(pure=True), source, "F16")
    with pytest.raises(OverrideError, match="output_norm is found in no tensor"):
        mix_of(MixOptions(("output_norm",)), source, "Q3_K_M")


def test_a_tensor_that_overflows_is_left_out(ground: Path) -> None:
    """The others are stored; the reason is known afterwards, and that pair isn't tried again."""
    source = read_model(ground / "model.gguf")
    mix = write_mix(Overflowing(), source, ground / "out.gguf", "Q4_0", Mix(), None)
    types = read_model(ground / "out.gguf").types
    assert types[BAD] == "F16" and types["blk.1.ffn_gate.weight"] == "Q4_0"
    assert mix.left_out == {BAD: "its values are too large for Q4_0"}
    barred = barrier(mix, source, None)
    assert "can't be Q4_0" in barred(TensorType(BAD, "Q4_0")) and not barred(TensorType(BAD, "Q8_0"))


def test_what_an_override_asks_for_is_not_left_out(ground: Path) -> None:
    """Who names a tensor is told that it can't be."""
    (ground / "lines.txt").write_text(f"{BAD}=Q4_0\n")
    with pytest.raises(InputError, match=f"{BAD} can't be Q4_0 as an override says: its values are too large"):
        api.quantize(
            ground / "model.gguf",
            "Q8_0",
            out=ground / "out.gguf",
            overrides=ground / "lines.txt",
            backend=Overflowing(),
        )
    assert not (ground / "out.gguf").exists()


def test_the_reason_is_in_what_quantize_says(ground: Path) -> None:
    """In words and as data; excluded tensors too."""
    found = api.quantize(
        ground / "model.gguf", "Q4_0", out=ground / "out.gguf", exclude=("attn_v",), backend=Overflowing()
    )
    assert f"left out: {BAD} stays F16: its values are too large for Q4_0" in found.summary()
    assert found.as_json()["left_out"]["blk.0.attn_v.weight"] == "excluded"


def test_a_tensor_without_an_entry_is_left_out(ground: Path) -> None:
    """Where its type needs one: not an embedding, and not at a type that needs none. An entry of another size is none."""
    source = read_model(ground / "model.gguf")
    whole = np.ones(256, np.float32)
    entries = {t.name: whole for t in source.tensors if t.name not in (BAD, "blk.0.attn_v.weight")}
    imatrix = Imatrix({**entries, "blk.1.attn_q.weight": whole[:7]}, (), 0, "")
    types = {**FakeBackend().types(source.path, "IQ3_XXS"), "blk.0.attn_v.weight": "Q4_K"}
    mix = without_entries(Mix(), types, source, "IQ3_XXS", imatrix)
    assert set(mix.left_out) == {BAD, "blk.1.attn_q.weight"}
    assert dict(pairs(mix.lines)) == {BAD: "F16", "blk.1.attn_q.weight": "F16"}
    barred = barrier(Mix(), source, imatrix)
    assert "no entry" in barred(TensorType(BAD, "IQ2_S")) and not barred(TensorType(BAD, "Q2_K"))


def test_a_tensor_that_the_matrix_knows_too_little_of_is_left_out(ground: Path) -> None:
    """Of a sweep, with the reason; the others are measured. Where no tensor is left the choice is refused."""
    source = read_model(ground / "model.gguf")
    barred = barrier(Mix(), source, None, {BAD: frozenset({"IQ1_S"})})
    assert "too little" in barred(TensorType(BAD, "IQ1_S"))
    assert not barred(TensorType(BAD, "Q2_K")) and not barred(TensorType("blk.1.attn_q.weight", "IQ1_S"))


def test_excluded_tensors_are_not_tried(ground: Path) -> None:
    """And stay as the model has them, in the base and in the written file; a second call finds the base as it is."""
    given: dict[str, Any] = {
        "exclude": ["ffn_gate", "attn_v"],
        "role": "ffn_gate,ffn_up",
        "to": "Q2_K",
        "allow": 1000.0,
    }
    with pytest.raises(InputError, match="nothing to measure"):
        run(ground, **{**given, "role": "ffn_gate"})
    found = run(ground, **given)
    assert {row.effect.tensor.split(".")[2] for row in found.sweep.rows} == {"ffn_up"}
    types = read_model(found.written.path).types
    assert {kind for name, kind in types.items() if "attn_v" in name or "ffn_gate" in name} == {"F16"}
    base = ground / "out" / "base-Q3_K_M.gguf"
    before = base.stat().st_mtime_ns
    assert run(ground, **given).written.sha256 == found.written.sha256
    assert base.stat().st_mtime_ns == before
    run(ground, **{**given, "exclude": "attn_v"}, force=True)
    assert base.stat().st_mtime_ns != before


def test_a_run_whose_base_leaves_a_tensor_out(ground: Path) -> None:
    """The reason is among the report's warnings, and the file is proven."""
    found = run(ground, Overflowing(), base="Q4_0", to="Q2_K", allow=1000.0)
    assert any(f"{BAD} stays F16: its values are too large for Q4_0" in said for said in found.facts["warnings"])
    assert found.written is not None


def test_a_base_that_is_not_made_takes_no_lines(ground: Path) -> None:
    """A quantized model is its own base; what can be asked of it is to leave tensors alone."""
    FakeBackend().quantize(ground / "model.gguf", ground / "q.gguf", "Q4_0")
    given: dict[str, Any] = {
        "text": ground / "text.txt",
        "report_text": ground / "other.txt",
        "ctx": 64,
        "out": ground / "o",
        "backend": FakeBackend(),
        "role": "all",
        "to": "Q2_K",
    }
    with pytest.raises(InputError, match="it is its own base"):
        api.choose(ground / "q.gguf", pure=True, **given)
    found = api.choose(ground / "q.gguf", exclude=["ffn"], **given)
    assert not any("ffn" in row.effect.tensor for row in found.sweep.rows)


@pytest.mark.parametrize("ftype", ["F16", "BF16", "F32"])
def test_overrides_that_cant_act_are_refused_first(ftype: str, ground: Path) -> None:
    """Before anything is measured or written; the measurements of a sweep alone make sense all the same."""
    (ground / "lines.txt").write_text("blk.0.ffn_gate=Q8_0\n")
    with pytest.raises(OverrideError, match="ignores overrides"):
        api.quantize(
            ground / "model.gguf", ftype, out=ground / "o.gguf", overrides=ground / "lines.txt", backend=FakeBackend()
        )
    with pytest.raises(OverrideError, match="ignores overrides"):
        run(ground, base=ftype, to="Q8_0")
    assert not (ground / "out").exists()


@dataclass(frozen=True)
class Deaf(FakeBackend):
    """Ignores overrides, whatever the file type."""

    def types(self, source: Path, ftype: str, overrides: Any = (), imatrix: Path | None = None) -> Any:
        return super().types(source, ftype, (), imatrix)


def test_what_would_be_stored_is_compared_with_what_was_said(ground: Path) -> None:
    """By a dry run, before a byte is written."""
    (ground / "lines.txt").write_text("blk.0.ffn_gate=Q8_0\n")
    with pytest.raises(
        OverrideError, match=r"would store blk\.0\.ffn_gate\.weight as Q4_0 where an override says Q8_0"
    ):
        api.quantize(
            ground / "model.gguf", "Q4_0", out=ground / "o.gguf", overrides=ground / "lines.txt", backend=Deaf()
        )
    assert not (ground / "o.gguf").exists()


def test_a_quantized_file_that_says_f16(ground: Path) -> None:
    """Its label is no file type that a recipe could start from."""
    from cerebellum.testing.fake_backend import _write

    source = read_model(ground / "model.gguf")
    _write(ground / "q.gguf", source, FakeBackend().types(source.path, "Q4_0"), 1)
    with pytest.raises(InputError, match=r"says that its file type is F16.* --base"):
        api.choose(ground / "q.gguf", out=ground / "o", text=ground / "text.txt", ctx=64, backend=FakeBackend())
    assert not (ground / "o").exists()


def test_the_error_keeps_its_tensor_between_processes() -> None:
    """It comes from the process that holds llama.cpp."""
    error = TensorStoreError("message", "blk.0.x", "Q4_0")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.tensor, again.kind) == ("message", "blk.0.x", "Q4_0")
