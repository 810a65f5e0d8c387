"""Overrides: read as llama.cpp reads them, written so that each line hits one tensor, pinned where llama.cpp's counters shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.domain import Model, Tensor, role_of, tensor_types_of
from cerebellum.errors import OverrideError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.overrides import (
    Override,
    Pairs,
    Realized,
    format_overrides,
    overrides_for,
    pairs,
    parse_overrides,
    pin,
    prove,
    requested_types,
    resolve,
)
from cerebellum.gguf.patterns import compiled_pattern

ROLES = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
OUTSIDE = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight", "output_norm.weight")


def names(n_blocks: int) -> list[str]:
    blocks = [f"blk.{i}.{role}.weight" for i in range(n_blocks) for role in ROLES]
    return [*OUTSIDE, *blocks, "blk.0.ffn_gate_inp.weight"]


def fake_model(n_blocks: int = 35, extra: tuple[str, ...] = ()) -> Model:
    tensors = tuple(
        Tensor(name, (256,) if "norm" in name else (256, 256), "BF16") for name in (*names(n_blocks), *extra)
    )
    return Model(Path("model.gguf"), "llama", "fake", n_blocks, "BF16", 512, tensors, 0)


MODEL = fake_model()


def mix(model: Model) -> tuple[Realized, list[Pairs]]:
    """A stand-in for llama.cpp's dry run of Q3_K_M: counters of attn_v and ffn_down that overridden tensors don't move."""
    calls: list[Pairs] = []

    def realized(given: Pairs) -> Mapping[str, str]:
        calls.append(given)
        asked = requested_types(resolve([Override(*pair) for pair in given], model))
        types, counts = {}, {"attn_v": 0, "ffn_down": 0}
        for tensor in model.tensors:
            role = role_of(tensor.name)
            if tensor.name in asked:
                types[tensor.name] = asked[tensor.name]
            elif role == "attn_v":
                types[tensor.name] = "Q5_K" if counts[role] < 2 else "Q4_K"
                counts[role] += 1
            elif role == "ffn_down":
                types[tensor.name] = "Q5_K" if counts[role] < model.n_blocks // 16 else "Q4_K"
                counts[role] += 1
            else:
                types[tensor.name] = "F32" if "norm" in role or "_inp" in role else "Q3_K"
        return types

    return realized, calls


# -- reading -------------------------------------------------------------------------------------------------------------


def test_reads_what_llama_quantize_reads() -> None:
    """Any whitespace separates, patterns are lower-cased (classes too), types are known in any case, an empty file is none."""
    found = parse_overrides(r"BLK.\D+.FFN_gate=q2_k" + "\tattn_v=Q8_0\n\n\v  output=iq4_NL")
    assert [str(o) for o in found] == [r"blk.\d+.ffn_gate=Q2_K", "attn_v=Q8_0", "output=IQ4_NL"]
    assert parse_overrides(" \n") == ()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("blk.0", "write pattern=type"),
        ("# comment", "no comments"),
        ("=Q2_K", "is not an override"),
        ("blk.0=", "is not an override"),
        ("blk.0=Q9_Z", "unknown type 'Q9_Z'"),
        ("a=b=Q2_K", "unknown type 'b=Q2_K'"),
        ("blk.(0=Q2_K", "not a valid regular expression"),
        ("*=Q2_K", "not a valid regular expression"),
        ("(?i)blk=Q2_K", "the group"),
        ("(?<!x)blk=Q2_K", "the group"),
        ("[[:digit:]]=Q2_K", "the set operation"),
        ("[]a]=Q2_K", "an empty set"),
        ("a{,2}=Q2_K", "a bare {"),
        ("a++=Q2_K", "one quantifier after another"),
        (r"\zblk=Q2_K", "the escape"),
        ("blk\u00e9=Q2_K", "outside printable ASCII"),
        ("a\\=Q2_K", "not a valid regular expression"),
    ],
)
def test_malformed_lines_say_where_and_why(word: str, message: str) -> None:
    """Each malformed line is an error with its number, the word and the reason."""
    with pytest.raises(OverrideError, match=message) as caught:
        parse_overrides(f"\nblk.1=Q2_K\n{word}\n")
    assert str(caught.value).startswith("line 3: ")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever a file holds: overrides that can be written and read again, or an `OverrideError`."""
    try:
        found = parse_overrides(text)
    except OverrideError:
        return
    assert parse_overrides(format_overrides(found)) == found


def test_first_match_wins() -> None:
    """Each tensor goes to the first line that finds it anywhere in its name; what llama.cpp never quantizes goes to none."""
    hits = resolve(parse_overrides("blk.1.*ffn_gate=Q2_K output.weight=Q8_0 ffn_gate=Q4_K"), MODEL)
    types = requested_types(hits)
    assert [t for t in types if types[t] == "Q2_K"][:2] == ["blk.1.ffn_gate.weight", "blk.10.ffn_gate.weight"]
    assert types["output.weight"] == types["blk.7.attn_output.weight"] == "Q8_0"
    assert types["blk.20.ffn_gate.weight"] == "Q4_K"
    assert "blk.0.ffn_gate_inp.weight" not in types and "blk.0.ffn_gate_inp.weight" in hits[2].matched


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blk.99.=Q2_K", "hits no tensor of model.gguf"),
        ("output_norm=Q2_K", r"never quantizes \(output_norm.weight\)"),
        ("ffn_gate=Q2_K blk.1.ffn_gate=Q4_K", "ffn_gate=Q2_K comes first"),
    ],
)
def test_lines_without_effect_are_errors(text: str, message: str) -> None:
    """A line that can change nothing says why: no such tensor, never quantized, or an earlier line was first."""
    with pytest.raises(OverrideError, match=message):
        resolve(parse_overrides(text), MODEL)
    assert resolve(parse_overrides(text), MODEL, strict=False)[-1].tensors == ()


# -- writing -------------------------------------------------------------------------------------------------------------


def test_plain_where_one_is_hit_anchored_where_not() -> None:
    """Plain names for blocks; `output.weight` and `token_embd.weight` also hit others, so they are anchored; in block order."""
    tensor_types = tensor_types_of(
        {
            "blk.11.ffn_gate.weight": "Q2_K",
            "blk.2.ffn_up.weight": "Q4_K",
            "output.weight": "Q6_K",
            "token_embd.weight": "Q8_0",
        }
    )
    assert format_overrides(overrides_for(tensor_types, MODEL)) == (
        "^output\\.weight$=Q6_K\n^token_embd\\.weight$=Q8_0\nblk.2.ffn_up.weight=Q4_K\nblk.11.ffn_gate.weight=Q2_K\n"
    )


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from([n for n in names(35) if "norm" not in n and "_inp" not in n]), st.just("Q2_K"), min_size=1
    )
)
def test_every_line_is_proven(chosen: dict[str, str]) -> None:
    """For any set of tensors: one line each, each hits its tensor and no other, and reading the file gives the swaps back."""
    tensor_types = tensor_types_of(chosen)
    written = overrides_for(tensor_types, MODEL)
    proof = prove(parse_overrides(format_overrides(written)), MODEL)
    assert all(hit.tensors == hit.matched and len(hit.matched) == 1 for hit in proof)
    assert tensor_types_of(requested_types(proof)) == tensor_types


def test_what_cannot_be_written() -> None:
    """No such tensor, one that llama.cpp never quantizes, a pattern that hits two, names that differ only in case: errors."""
    for name, message in (("blk.99.x.weight", "has no tensor"), ("output_norm.weight", "never quantizes")):
        with pytest.raises(OverrideError, match=message):
            overrides_for(tensor_types_of({name: "Q2_K"}), MODEL)
    with pytest.raises(OverrideError, match="hits 2 tensors"):
        prove([Override("blk.1.ffn_(gate|up)", "Q2_K")], MODEL)
    twins = fake_model(1, ("blk.0.Extra.weight", "blk.0.extra.weight", "blk.0.ONE.weight"))
    assert str(overrides_for(tensor_types_of({"blk.0.ONE.weight": "Q2_K"}), twins)[0]) == r"^blk\.0\....\.weight$=Q2_K"
    with pytest.raises(OverrideError, match=r"no override can name blk\.0\.Extra\.weight alone"):
        overrides_for(tensor_types_of({"blk.0.Extra.weight": "Q2_K"}), twins)


# -- pinning -------------------------------------------------------------------------------------------------------------


def test_nothing_shifts_nothing_is_pinned() -> None:
    """The published recipe touches no counter: three lines, one dry run."""
    realized, calls = mix(MODEL)
    tensor_types = tensor_types_of({f"blk.{i}.ffn_gate.weight": "Q2_K" for i in (11, 13, 14)})
    assert format_overrides(pin(tensor_types, realized(()), realized, MODEL)) == (
        "blk.11.ffn_gate.weight=Q2_K\nblk.13.ffn_gate.weight=Q2_K\nblk.14.ffn_gate.weight=Q2_K\n"
    )
    assert len(calls) == 2


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([n for n in names(35) if "blk" in n and "_inp" not in n]), st.sampled_from(["Q2_K", "Q6_K"])
    )
)
def test_pinned_is_exact(chosen: dict[str, str]) -> None:
    """For any swaps: with the pins, realized types are the base's with the swaps, exactly; without a shift there are no pins."""
    realized, calls = mix(MODEL)
    base = realized(())
    lines = pin(tensor_types_of(chosen), base, realized, MODEL)
    assert realized(pairs(lines)) == {**base, **chosen}
    assert len(calls) < 12
    assert [o.why == "" for o in lines] == [True] * len(chosen) + [False] * (len(lines) - len(chosen))
    if realized(pairs(lines[: len(chosen)])) == {**base, **chosen}:
        assert len(lines) == len(chosen)


def test_pins_say_why() -> None:
    """Overriding the first attn_v lends its place to the third, which is pinned with the reason."""
    realized, _ = mix(MODEL)
    lines = pin(tensor_types_of({"blk.0.attn_v.weight": "Q2_K"}), realized(()), realized, MODEL)
    assert str(lines[1]) == "blk.2.attn_v.weight=Q4_K"
    assert lines[1].why == "holds the base's Q4_K: next to the lines above llama.cpp's mix would store Q5_K"


def test_a_type_that_is_not_stored_is_an_error() -> None:
    """Where llama.cpp stores another type than the line says (a fallback, say), it is named instead of tried for ever."""
    realized, _ = mix(MODEL)

    def falls_back(given: Pairs) -> Mapping[str, str]:
        return {name: "Q4_0" if kind == "Q2_K" else kind for name, kind in realized(given).items()}

    with pytest.raises(OverrideError, match=r"stores blk\.3\.ffn_up\.weight as Q4_0 where Q2_K was asked for"):
        pin(tensor_types_of({"blk.3.ffn_up.weight": "Q2_K"}), realized(()), falls_back, MODEL)


# -- against llama.cpp ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A GGUF of 16 blocks that llama.cpp's quantizer reads; no weights worth the name."""
    path = tmp_path_factory.mktemp("llama") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(16)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_head_count(2)
    writer.add_feed_forward_length(256)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    for name in names(16):
        writer.add_tensor(name, np.zeros((256,) if "norm" in name else (2, 256), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_model(path)


@pytest.fixture(scope="module")
def dry_run(llama_model: Model) -> Callable[[str], Realized]:
    from cerebellum.llamacpp.files import realized_types

    return lambda ftype: lambda given: realized_types(llama_model.path, ftype, given, None)


@pytest.mark.engine
@pytest.mark.parametrize("ftype", ["Q3_K_M", "Q4_K_M", "Q5_K_M", "Q4_K_S", "Q2_K_S"])
def test_pins_hold_llama_cpp(ftype: str, llama_model: Model, dry_run: Callable[[str], Realized]) -> None:
    """Against the real quantizer: tensors that its counters see, at the front, in the middle, several; always exact."""
    realized = dry_run(ftype)
    base = realized(())
    for chosen in (
        {"blk.0.attn_v.weight": "Q8_0"},
        {"blk.0.ffn_down.weight": "Q8_0", "blk.9.ffn_down.weight": "Q3_K"},
        {"blk.15.ffn_down.weight": "Q4_0", "output.weight": "Q4_K", "token_embd.weight": "Q8_0"},
        {f"blk.{i}.attn_v.weight": "Q6_K" for i in range(3)} | {"blk.3.ffn_gate.weight": "Q3_K"},
    ):
        lines = pin(tensor_types_of(chosen), base, realized, llama_model)
        assert realized(pairs(lines)) == {**base, **chosen}


PIECES = r"""b 0 1 5 9 k . ^ $ | ( ) [ ] - _ blk ffn gate down attn_v .weight \. \d \w \b \s [0-9] [^1] (?: (?! * + ? {1,2} {2} {1,}
*? +? (a|f) [a-f] [\d_] \- \/ \1 (b)""".split()


@pytest.mark.engine
@settings(max_examples=60, deadline=None)
@given(pattern=st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join))
def test_patterns_mean_what_llama_cpp_means(
    pattern: str, llama_model: Model, dry_run: Callable[[str], Realized]
) -> None:
    """A pattern that we accept hits, in llama.cpp's own dry run, exactly the tensors that we say."""
    try:
        compiled_pattern(pattern)
    except OverrideError:
        return
    base = dry_run("Q4_0")(())
    said = resolve([Override(pattern, "Q5_1")], llama_model, strict=False)[0].tensors
    try:
        found = dry_run("Q4_0")(((pattern, "Q5_1"),))
    except Exception as error:  # an expression that llama.cpp refuses changes nothing silently
        assert "regex" in str(error).lower() or "could not quantize" in str(error)
        return
    assert {name for name in found if found[name] != base[name]} == set(said)
