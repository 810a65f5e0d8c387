"""Hostile inputs by the thousand: mutated models, importance matrices, overrides, chat templates, conversations and questions.

    python -m tests.fuzz                          2,000 cases of each target, another seed each time
    python -m tests.fuzz model --cases 10000      one target; --seed N repeats a run

Whatever is read ends in a value or in a `CerebellumError` whose message is short; anything else is a failure, shown with the smallest input
that has it. The slowest case and the most memory of a target are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import struct
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from cerebellum.domain import Model
from cerebellum.errors import CerebellumError
from cerebellum.evals import local
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.model_file import open_weights, read_model
from cerebellum.gguf.override_file import read_overrides
from cerebellum.gguf.overrides import resolve
from cerebellum.gguf.vocabulary import token_list
from cerebellum.quoting import printable, strict_json
from cerebellum.text.chat import ChatTemplate, read_conversations
from cerebellum.verbs.inspect import describe, tables
from tests.gguf.raw import ARRAY, FLOAT32, STRING, UINT8, UINT32, entry, gguf_bytes, pair, spelled
from tests.templates import CHATML, GEMMA, LLAMA3, REASONING

#: Longest message of an error, characters, before it is cut for the terminal.
LONGEST = 100_000


@dataclass(frozen=True)
class Target:
    """Inputs, and what reads one: it writes what it needs into a folder of its own. ``share``: of the cases of all targets together."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], None]
    share: float


# -- inputs ------------------------------------------------------------------------------------------------------------

#: Numbers at the borders of what a reader counts with.
EDGES = tuple(
    n % (1 << 64) for bits in (0, 5, 7, 8, 16, 31, 32, 62, 63, 64) for n in ((1 << bits) - 1, 1 << bits, -(1 << bits))
)
Edit = tuple[str, float, int, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(("cut", "drop", "write", "insert", "repeat", "u32", "u64", "bit")),
        st.floats(0, 1),
        st.sampled_from(EDGES) | st.integers(0, 255),
        st.binary(max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def edited(whole: bytes, edits: list[Edit], head: float = 1.0) -> bytes:
    """``whole`` with some bytes changed, most of them in its first part ``head``."""
    data = bytearray(whole)
    for kind, place, number, block in edits:
        at = int(place * head * len(data))
        if kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + number % 64]
        elif kind == "repeat":
            data[at:at] = data[at : at + number % 4096]
        elif kind == "insert":
            data[at:at] = block
        elif kind == "bit" and at < len(data):
            data[at] ^= 1 << number % 8
        else:
            new = {"u32": struct.pack("<I", number % (1 << 32)), "u64": struct.pack("<Q", number)}.get(kind, block)
            data[at : at + len(new)] = new
    return bytes(data)


def _model(template: str = CHATML) -> bytes:
    pairs = [
        pair("general.architecture", STRING, spelled("llama")),
        pair("general.name", STRING, spelled("small")),
        pair("general.alignment", UINT32, struct.pack("<I", 32)),
        pair("general.file_type", UINT32, struct.pack("<I", 0)),
        pair("llama.block_count", UINT32, struct.pack("<I", 1)),
        pair("some.flags", ARRAY, struct.pack("<IQ3B", UINT8, 3, 1, 2, 3)),
        pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 3) + spelled("a") + spelled("b") + spelled("<s>")),
        pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ3f", FLOAT32, 3, 0.0, 1.0, 2.0)),
        pair("tokenizer.chat_template", STRING, spelled(template)),
    ]  # fmt: skip
    names = ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_gate.weight", "output.weight")
    tensors = [entry(name, (32, 4), 512 * i) for i, name in enumerate(names)]
    return gguf_bytes(pairs, tensors, bytes(512 * len(names)))


def _imatrix() -> bytes:
    pairs = [
        pair("general.type", STRING, spelled("imatrix")),
        pair("imatrix.datasets", ARRAY, struct.pack("<IQ", STRING, 1) + spelled("wiki.train")),
        pair("imatrix.chunk_count", UINT32, struct.pack("<I", 4)),
        pair("imatrix.chunk_size", UINT32, struct.pack("<I", 512)),
    ]
    tensors = [entry("blk.0.attn_q.weight.in_sum2", (8,), 0), entry("blk.0.attn_q.weight.counts", (1,), 32)]
    return gguf_bytes(pairs, tensors, struct.pack("<9f", *range(9)) + bytes(28))


def _legacy_imatrix() -> bytes:
    name = b"blk.0.attn_q.weight"
    one = struct.pack("<i", len(name)) + name + struct.pack("<ii4f", 3, 4, 1.0, 2.0, 3.0, 4.0)
    return struct.pack("<i", 2) + one + one.replace(b".0.", b".1.") + struct.pack("<ii", 4, 4) + b"text"


MODEL, IMATRIX, LEGACY = _model(), _imatrix(), _legacy_imatrix()
TALK = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}]}\n'
TYPES = ("q4_k", "Q8_0", "f16", "iq2_xs", "tq1_0", "Q3_K_M", "i32", "")
PIECES = (
    "blk", "0", "ffn_gate", "weight", ".", "\\.", "*", "+", "?", "{1,3}", "{", "(", ")", "(?:", "(?=", "(?!", "(?<=", "|", "[a-z0-9_.]",
    "[", "]", "[^", "^", "$", "\\d", "\\b", "\\1", "\\x", ")+", ")*", ")+!", "ü", "\\", "-", "&&",
)  # fmt: skip
LINES = st.lists(
    st.tuples(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(TYPES)), max_size=6
).map(lambda lines: "\n".join(f"{pattern}={kind}" for pattern, kind in lines).encode())
SPLICES = (
    "{{",
    "}}",
    "{%",
    "%}",
    "for x in range(10**9)",
    "messages",
    "| tojson(indent=5e8)",
    "| join",
    "* 10**9",
    "'a'",
    "()",
    "[0]",
    "**",
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "label", "choices", "text")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
QUESTIONS: Mapping[str, tuple[str, Callable[[Path], Any], dict[str, Any]]] = {
    "humaneval": ("humaneval/HumanEval.jsonl", local.humaneval, {
        "task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n"}),
    "arc": ("arc/arc_challenge.jsonl", local.arc_challenge, {
        "id": "x", "question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "A"}),
    "arc in plain": ("arc/arc_challenge.jsonl", local.arc_challenge, {"query": "Why?", "choices": ["so", "no"], "gold": 1}),
    "hellaswag": ("hellaswag/hellaswag.jsonl", local.hellaswag, {
        "ctx_a": "He", "ctx_b": "", "endings": ["a", "b", "c", "d"], "label": "0", "activity_label": "x"}),
}  # fmt: skip


@st.composite
def _questions(draw: st.DrawFn) -> tuple[str, bytes]:
    """(a set, its lines): fields left out or of another kind, lines that are damaged."""
    name = draw(st.sampled_from(sorted(QUESTIONS)))
    row = dict(QUESTIONS[name][2])
    for field in draw(st.lists(st.sampled_from(sorted(row)), max_size=2)):
        row[field] = draw(VALUES)
    line = json.dumps(row).encode() + b"\n"
    return name, line + draw(st.just(line) | EDITS.map(lambda edits: edited(line, edits)))


@st.composite
def _templates(draw: st.DrawFn) -> bytes:
    """A template with pieces of others put into it."""
    text = draw(st.sampled_from((CHATML, LLAMA3, GEMMA, REASONING)))
    for piece, place in draw(st.lists(st.tuples(st.sampled_from(SPLICES), st.floats(0, 1)), min_size=1, max_size=3)):
        at = int(place * len(text))
        text = text[:at] + piece + text[at + draw(st.integers(0, 5)) :]
    return _model(text)


# -- readers -----------------------------------------------------------------------------------------------------------


def _read_model(data: bytes, folder: Path) -> None:
    path = _file(folder / "model.gguf", data)
    model = read_model(path)
    strict_json(describe(model))
    tables(model)
    with contextlib.suppress(CerebellumError):
        token_list(model)
    source = open_weights(path)
    assert all(source.raw(t.name).size == t.n_bytes for t in model.tensors)


def _read_imatrix(data: bytes, folder: Path) -> None:
    read_importance(_file(folder / "imatrix", data), 512)


def _read_overrides(data: bytes, folder: Path) -> None:
    resolve(read_overrides(_file(folder / "overrides.txt", data)), _known_model(folder))


def _read_template(data: bytes, folder: Path) -> None:
    (talk,) = read_conversations(_file(folder / "talk.jsonl", TALK.encode())).items
    ChatTemplate(read_model(_file(folder / "model.gguf", data)), "<s>", "</s>").segments(talk)


def _read_conversations(data: bytes, folder: Path) -> None:
    read_conversations(_file(folder / "talk.jsonl", data))


def _read_questions(data: tuple[str, bytes], folder: Path) -> None:
    name, lines = data
    file, read, _ = QUESTIONS[name]
    (folder / file).parent.mkdir(exist_ok=True)
    _file(folder / file, lines)
    read(folder)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _known_model(folder: Path) -> Model:
    return read_model(_file(folder / "known.gguf", MODEL))


TARGETS: Mapping[str, Target] = {
    "model": Target(EDITS.map(lambda edits: edited(MODEL, edits, 0.4)), _read_model, 0.4),
    "imatrix": Target(EDITS.map(lambda edits: edited(IMATRIX, edits)) | EDITS.map(lambda e: edited(LEGACY, e)), _read_imatrix, 0.2),
    "overrides": Target(LINES | EDITS.map(lambda e: edited(b"blk.0.ffn_gate.weight=q4_k\n", e)), _read_overrides, 0.15),
    "template": Target(_templates(), _read_template, 0.05),
    "conversations": Target(EDITS.map(lambda edits: edited(TALK.encode(), edits)), _read_conversations, 0.1),
    "questions": Target(_questions(), _read_questions, 0.1),
}  # fmt: skip


# -- running -----------------------------------------------------------------------------------------------------------


def read_one(target: Target, data: Any, folder: Path) -> bool:
    """Read one input; whether it was taken. Raises what no input may cause."""
    try:
        target.read(data, folder)
    except CerebellumError as error:
        assert str(error) and len(str(error)) < LONGEST, "a message that is empty or without bound"
        assert printable(str(error)).isprintable()
        return False
    return True


def run(name: str, n_cases: int, seed: int) -> tuple[int, float]:
    """(inputs that were taken, seconds of the slowest) of ``n_cases`` inputs; raises with the smallest input that fails."""
    target, taken, slowest = TARGETS[name], 0, 0.0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")

        def case(data: Any) -> None:
            nonlocal taken, slowest
            begun = time.perf_counter()
            taken += read_one(target, data, Path(folder))
            slowest = max(slowest, time.perf_counter() - begun)

        no_checks = settings(
            max_examples=n_cases, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )  # fmt: skip
        hypothesis.seed(seed)(no_checks(hypothesis.given(target.inputs)(case)))()
    return taken, slowest


def shares(n_cases: int) -> Iterator[tuple[str, int]]:
    """(target, cases) of ``n_cases`` for all targets together."""
    return ((name, round(n_cases * target.share)) for name, target in TARGETS.items())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    for name in given.targets or TARGETS:
        taken, slowest = run(name, given.cases, given.seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name}: {given.cases} inputs, {taken} taken; the slowest took {1000 * slowest:.0f} ms; {peak:.0f} MiB so far",
            flush=True,
        )


if __name__ == "__main__":
    main()
