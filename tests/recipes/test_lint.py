"""Every fault that lint knows, in a file, caught with its line and its tensor; and sound files without one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from cerebellum.domain import Model, Tensor
from cerebellum.gguf.overrides import resolve
from cerebellum.recipes.lint import Finding, Level, LintSubject, lint_lines, lint_shifts, read_lines

ROLES = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def model(kind: str = "BF16", row: int = 256, n_blocks: int = 12) -> Model:
    names = ["token_embd.weight", "per_layer_token_embd.weight", "output.weight"]
    names += [f"blk.{i}.{role}.weight" for i in range(n_blocks) for role in ROLES]
    tensors = [Tensor(n, (row if "ffn_down" in n else 256, 64), kind) for n in names]
    tensors.append(Tensor("output_norm.weight", (256,), "F32"))
    return Model(Path("model.gguf"), "llama", "toy", n_blocks, kind, 512, tuple(tensors), 0)


GROUND = LintSubject(model(), "Q3_K_M")
#: The first tensor is one that llama.cpp never quantizes.
NORM_FIRST = replace(GROUND, model=replace(model(), tensors=tuple(reversed(model().tensors))))


def lint(text: str, ground: LintSubject = GROUND) -> list[Finding]:
    lines, wrong = read_lines(text)
    return [*wrong, *lint_lines(lines, ground)]


def faults(found: Iterable[Finding]) -> list[tuple[str, str, int, str]]:
    return [(str(f.level), f.code, f.line, f.tensor) for f in found if f.level is not Level.NOTE]


PLAIN = "blk.1.ffn_gate.weight=Q2_K\n"


@pytest.mark.parametrize(
    ("text", "ground", "wanted"),
    [
        ("# mine", GROUND, ("error", "malformed", 2, "")),
        ("blk.0.ffn_up.weight=Q9_K", GROUND, ("error", "malformed", 2, "")),
        ("blk.0.(ffn_up=Q2_K", GROUND, ("error", "malformed", 2, "")),
        ("blk.99.ffn_up.weight=Q2_K", GROUND, ("error", "hits-nothing", 2, "blk.99.ffn_up.weight")),
        ("blk.1.ffn_gate=Q3_K", GROUND, ("error", "changes-nothing", 2, "blk.1.ffn_gate.weight")),
        ("output_norm=Q8_0", GROUND, ("error", "changes-nothing", 2, "output_norm.weight")),
        ("output.weight=Q6_K", GROUND, ("error", "hits-more", 2, "blk.0.attn_output.weight")),
        ("token_embd.weight=Q6_K", GROUND, ("error", "hits-more", 2, "per_layer_token_embd.weight")),
        ("blk.0.*ffn_up=Q2_K blk.1=Q4_K", GROUND, ("warning", "hits-more", 2, "blk.10.attn_q.weight")),
        ("blk.2.=Q2_K blk.1.=Q4_K", GROUND, ("warning", "hits-more", 2, "blk.10.attn_q.weight")),
        (".1.ffn_up=Q2_K", GROUND, ("warning", "hits-more", 2, "blk.11.ffn_up.weight")),
        (r"0\.ffn_up=Q2_K", GROUND, ("warning", "hits-more", 2, "blk.10.ffn_up.weight")),
        ("blk.[1-12].ffn_up=Q2_K", GROUND, ("warning", "hits-more", 2, "blk.1.ffn_up.weight")),
        ("blk.{1,2}.ffn_up=Q2_K", GROUND, ("warning", "hits-more", 2, "blk.0.ffn_up.weight")),
        ("^output.w=Q2_K attn=Q2_K output=Q4_K", NORM_FIRST, ("error", "changes-nothing", 2, "blk.11.attn_output.weight")),
        ("blk.3.ffn_up=Q2_K\u00a0", GROUND, ("error", "malformed", 2, "")),
        ("\u00a0blk.3.ffn_up=Q2_K", GROUND, ("error", "malformed", 2, "")),
        ("blk.3.ffn_down.weight=Q2_K", LintSubject(model(row=320), "Q4_0"), ("error", "row-cannot-hold", 2, "blk.3.ffn_down.weight")),
        ("blk.3.ffn_up.weight=IQ2_XS", GROUND, ("error", "needs-imatrix", 2, "blk.3.ffn_up.weight")),
        (
            "blk.3.ffn_up.weight=IQ2_XS",
            replace(GROUND, important=("blk.2.ffn_up.weight",)),
            ("error", "needs-imatrix", 2, "blk.3.ffn_up.weight"),
        ),
        ("", LintSubject(model(row=320), "Q3_K_M"), ("warning", "falls-back", 0, "blk.0.ffn_down.weight")),
        ("", LintSubject(model("Q8_0"), "Q3_K_M"), ("warning", "requantized", 0, "token_embd.weight")),
        ("", LintSubject(model(), "IQ2_XS"), ("error", "needs-imatrix", 0, "")),
        ("", LintSubject(model(), "F16"), ("error", "base-not-quantized", 0, "blk.1.ffn_gate.weight")),
        ("", LintSubject(model(), "Q3_K_M", complete=True), ("warning", "not-covered", 0, "token_embd.weight")),
    ],
)  # fmt: skip
def test_a_fault_is_caught_with_its_line_and_tensor(
    text: str, ground: LintSubject, wanted: tuple[str, str, int, str]
) -> None:
    assert faults(lint(PLAIN + text, ground)) == [wanted]


@pytest.mark.parametrize(
    "text",
    ["", r"^output\.weight$=Q6_K", "ffn_up=Q2_K", r"blk\.1\.=Q2_K", "blk.1.ffn_up.weight=Q2_K", "attn_(q|v)=Q4_K", "blk.*.ffn_up=Q2_K",
     "blk.1..ffn_up=Q2_K", "blk.[1-9].ffn_up=Q2_K", "blk.(1|2|10).ffn_up=Q2_K\r", "attn_output=Q2_K\toutput.weight=Q6_K"],
)  # fmt: skip
def test_a_sound_file_has_none(text: str) -> None:
    found = lint(text + "\n")
    assert faults(found) == []
    assert "not-covered" in [f.code for f in found]


def test_an_importance_matrix_that_has_it() -> None:
    assert faults(lint("blk.3.ffn_up.weight=IQ2_XS", replace(GROUND, important=("blk.3.ffn_up.weight",)))) == []


def test_what_shifts_without_being_named() -> None:
    """llama.cpp's counters: blk.2.attn_v changes since blk.1.attn_v no longer counts."""
    lines, _ = read_lines("\nblk.1.attn_v.weight=Q5_K blk.1.ffn_up.weight=Q2_K\n")
    hits = resolve([line.override for line in lines], GROUND.model)
    base = dict.fromkeys(GROUND.model.types, "Q3_K")
    real = {**base, "blk.1.attn_v.weight": "Q5_K", "blk.1.ffn_up.weight": "Q4_0", "blk.2.attn_v.weight": "Q4_K"}
    found = lint_shifts(hits, base, real, {"blk.1.ffn_up.weight": 2, "blk.1.attn_v.weight": 2})
    assert faults(found) == [
        ("error", "not-stored", 2, "blk.1.ffn_up.weight"),
        ("warning", "shifts", 0, "blk.2.attn_v.weight"),
    ]
    assert "from Q3_K to Q4_K" in found[1].message


def test_a_byte_order_mark_is_named() -> None:
    """Stock llama-quantize takes it for a part of the pattern; the lines after it are read all the same."""
    lines, found = read_lines("\ufeffblk.1.ffn_up=Q2_K\nffn_down=Q3_K\n")
    assert [(f.code, f.line) for f in found] == [("malformed", 1)] and "byte order mark" in found[0].message
    assert [line.number for line in lines] == [1, 2]


def test_what_comes_first_is_told() -> None:
    notes = [f for f in lint("blk.3.ffn_up=Q6_K\nffn_up=Q2_K\n") if f.code == "taken-before"]
    assert [(f.level, f.line, f.tensor) for f in notes] == [(Level.NOTE, 2, "blk.3.ffn_up.weight")]


@pytest.mark.parametrize("kind", ["I32", "I8", "F64"])
def test_types_that_are_only_copied(kind: str) -> None:
    """A tensor that no mix quantizes is no fault."""
    odd = replace(GROUND.model, tensors=(*GROUND.model.tensors, Tensor("position_ids", (512,), kind)))
    assert faults(lint(PLAIN, replace(GROUND, model=odd))) == []


def test_every_pattern_does_what_a_warning_says() -> None:
    """The pattern that a finding tells to write hits exactly the tensors that the author named."""
    for text, wanted in (("blk.1.", 6), ("blk.1", 6), (".1.ffn_up", 1), ("1.ffn_up", 1), ("output.weight", 1)):
        (finding,) = [f for f in lint(f"{text}=Q2_K\n") if f.code == "hits-more"]
        advised = finding.message.rpartition("write ")[2]
        (hit,) = resolve([line.override for line in read_lines(f"{advised}=Q2_K")[0]], GROUND.model)
        assert len(hit.tensors) == wanted, advised
