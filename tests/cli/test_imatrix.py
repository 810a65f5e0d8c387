"""`cerebellum imatrix` as a user runs it: one message for bad input, JSON on request."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cerebellum.gguf.imatrix_write import read_importance, write_importance
from cerebellum.gguf.importance import Sums
from tests.cli.command import cerebellum, refused, start
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("imatrix")
    tiny.llama(made / "model.gguf")
    (made / "text.txt").write_text(tiny.text(400))
    (made / "empty.txt").write_text("\n")
    (made / "short.txt").write_text("once upon")
    return made


def test_it_is_made_read_back_and_said_in_json(folder: Path) -> None:
    done = cerebellum(
        folder, "imatrix", "model.gguf", "-f", "text.txt", "-c", "64", "--chunks", "2", "-o", "m.gguf", "--json"
    )
    found = json.loads(done.stdout)
    assert (found["entries"], found["chunks"], found["chunk_size"]) == (21, 2, 64)
    assert found["cannot_have"]["token_embd.weight"] == ["IQ1_S", "IQ2_XS", "IQ2_XXS"]
    refused(
        cerebellum(folder, "imatrix", "m.gguf", "-f", "text.txt", "-o", "o.gguf"), 2, "importance matrix", "not a model"
    )


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("-o", "o.gguf"), 2, ("--text", "--add")),
        (("-f", "empty.txt", "-o", "o.gguf"), 2, ("empty.txt", "empty")),
        (("-f", "absent.txt", "-o", "o.gguf"), 2, ("absent.txt",)),
        (("-f", "short.txt", "-o", "o.gguf"), 2, ("short.txt", "tokens", "--ctx")),
        (("-f", "text.txt", "-o", "o.bin"), 2, ("o.bin", ".gguf", ".dat")),
        (("-f", "text.txt", "-o", "model.gguf"), 3, ("model.gguf", "which this command reads")),
        (("-f", "text.txt", "-o", "text.txt"), 2, ("text.txt", ".gguf")),
        (("--add", "text.txt", "-o", "o.gguf"), 2, ("text.txt",)),
        (("--add", "model.gguf", "-o", "o.gguf"), 2, ("model.gguf", "imatrix.datasets")),
    ],
)
def test_bad_input_is_one_clear_message(
    folder: Path, options: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    refused(cerebellum(folder, "imatrix", "model.gguf", "-q", *options), code, *words)
    assert not (folder / "o.gguf").exists()


def test_killed_in_the_middle_the_same_command_goes_on_to_the_same_bits(folder: Path) -> None:
    """SIGKILL, not an exception: the engine ends too, what was kept is taken over, and the file is that of a command never killed."""
    (folder / "long.txt").write_text(tiny.text(9_000))
    words = ("imatrix", "model.gguf", "-f", "long.txt", "-c", "64", "-t", "1")
    partial, out = folder / ".killed.gguf.partial", folder / "killed.gguf"
    process = start(folder, *words, "-o", "killed.gguf")
    try:
        deadline = time.monotonic() + 120
        while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and partial.exists() and not out.exists()
    done = int(read_importance(partial, 64).origin["chunks_done"])
    again = json.loads(cerebellum(folder, *words, "-o", "killed.gguf", "--json", "-q").stdout)
    whole = json.loads(cerebellum(folder, *words, "-o", "whole.gguf", "--json", "-q").stdout)
    assert 0 < again["chunks_before"] == done < again["chunks"] == whole["chunks"] and whole["chunks_before"] == 0
    assert again["sha256"] == whole["sha256"] and not partial.exists()


def test_a_matrix_of_another_model_is_named_as_such(folder: Path) -> None:
    """Same names, other sizes: before anything is quantized, in words of ours."""
    made = cerebellum(
        folder, "imatrix", "model.gguf", "-f", "text.txt", "-c", "64", "--chunks", "2", "-o", "ours.gguf", "-q"
    )
    assert made.returncode == 0
    entries = read_importance(folder / "ours.gguf", 64)
    short = {name: Sums(sums.values[:128], sums.counts) for name, sums in entries.entries.items()}
    write_importance(replace(entries, entries=short), folder / "theirs.gguf", folder / "p")
    done = cerebellum(folder, "quantize", "model.gguf", "Q3_K_M", "--imatrix", "theirs.gguf", "-o", "q.gguf", "-q")
    refused(done, 2, "theirs.gguf isn't of model.gguf", "another size", "another model")
