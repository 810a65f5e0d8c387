"""What a header counts and spells has bounds: no file takes long to read, and nothing that it holds breaks `inspect`."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from cerebellum.errors import ModelFileError
from cerebellum.gguf import header
from cerebellum.gguf.model_file import open_weights, read_model
from cerebellum.verbs.inspect import MOST_ROLES, describe, tables
from tests.cli.command import cerebellum
from tests.gguf.raw import ARCHITECTURE, ARRAY, ONE, STRING, UINT8, entry, gguf, pair, spelled, strings


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([pair(b"k" * 65_536, UINT8, b"\1")], "65,536 bytes in a string of the metadata, where 65,535 is the most"),
        ([pair("general.name", STRING, spelled(b"n" * (header.MAX_STRING_BYTES + 1)))], "16,777,217 bytes in a string of"),
        ([pair("x", ARRAY, strings(header.MAX_ELEMENTS + 1))], "4,194,305 elements in its metadata"),
        ([pair(f"x{i}", ARRAY, strings(1 << 20)) for i in range(5)], "5,242,880 elements in its metadata"),
        ([pair(f"x{i}", UINT8, b"\1") for i in range(header.MAX_PAIRS)], "65,537 metadata pairs"),
    ],
)  # fmt: skip
def test_more_than_any_model_has_is_refused(tmp_path: Path, pairs: list[bytes], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_model(gguf(tmp_path / "x.gguf", [ARCHITECTURE, *pairs], ONE))


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path) -> None:
    entries = [entry(f"t{i}", (8,), 32 * i) for i in range(header.MAX_TENSORS + 1)]
    with pytest.raises(ModelFileError, match="65,537 tensors"):
        read_model(gguf(tmp_path / "x.gguf", [ARCHITECTURE], entries, 32 * len(entries)))


def test_what_a_large_model_has_is_read(tmp_path: Path) -> None:
    """A long chat template, 800,000 tokens and merges, numbers without bound: they are passed over as one."""
    pairs = [
        pair("tokenizer.chat_template", STRING, spelled("x" * 1_000_000)),
        pair("tokenizer.ggml.tokens", ARRAY, strings(262_144)),
        pair("tokenizer.ggml.merges", ARRAY, strings(514_906)),
        pair("numbers", ARRAY, struct.pack("<IQ", UINT8, 1 << 23) + bytes(1 << 23)),
    ]
    found = read_model(gguf(tmp_path / "x.gguf", [ARCHITECTURE, *pairs], ONE))
    assert found.metadata["tokenizer.ggml.merges"] == header.LongArray(STRING, 514_906)


@pytest.mark.parametrize("shapes", [[(0,)], [(8,), (8, 0)], [(8,), (1 << 29, 0, 1 << 29)]])
def test_tensors_without_a_weight_are_shown(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    entries = [entry(f"t{i}.weight", shape, 32 * i) for i, shape in enumerate(shapes)]
    gguf(tmp_path / "x.gguf", [ARCHITECTURE], entries)
    done = cerebellum(tmp_path, "inspect", "x.gguf", "--json")
    assert done.returncode == 0, done.stderr
    roles = {role["role"]: role["bits_per_weight"] for role in json.loads(done.stdout)["roles"]}
    assert roles == {f"t{i}": 32.0 * (0 not in shape) for i, shape in enumerate(shapes)}
    assert cerebellum(tmp_path, "inspect", "x.gguf").returncode == 0


def test_a_table_shows_as_many_roles_as_can_be_read(tmp_path: Path) -> None:
    """And says how many more there are; the JSON has all."""
    entries = [entry(f"t{i}", (8,), 32 * i) for i in range(3000)]
    model = read_model(gguf(tmp_path / "x.gguf", [ARCHITECTURE], entries, 32 * len(entries)))
    _, table, more = tables(model)
    assert getattr(table, "row_count", None) == MOST_ROLES
    assert str(more) == "and 2,900 roles more: --json lists all"
    assert len(describe(model)["roles"]) == 3000


def test_a_long_list_of_row_lengths_is_cut(tmp_path: Path) -> None:
    at, placed = 0, list[bytes]()
    for i in range(600):
        placed.append(entry(f"blk.{i}.ffn_gate.weight", (8 * i + 8,), at))
        at += 32 * (i + 1)
    gguf(tmp_path / "x.gguf", [ARCHITECTURE], placed, at)
    done = cerebellum(tmp_path, "inspect", "x.gguf")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) < 400


def test_a_dimension_of_zero_hides_no_size_beyond_counting(tmp_path: Path) -> None:
    """Rows of 2^62 values can't be counted in bytes, though there are none of them."""
    with pytest.raises(ModelFileError, match="can't have the shape"):
        read_model(gguf(tmp_path / "x.gguf", [ARCHITECTURE], [entry("a.weight", (1 << 62, 0), 0)]))
    found = gguf(tmp_path / "x.gguf", [ARCHITECTURE], [entry("a.weight", (64, 0), 0)])
    assert open_weights(found).raw("a.weight").shape == (0, 256)
