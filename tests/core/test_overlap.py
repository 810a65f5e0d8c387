"""Shared passages: a slow obvious reference, planted copies, and what a job makes of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum import api
from cerebellum.errors import TextError
from cerebellum.testing import FakeBackend, write_fake_model
from cerebellum.text.overlap import N_GRAM, Overlap, overlap, run_length, shared_tokens

RNG = np.random.default_rng(0)


def slow(tokens: list[int], other: list[int], n: int) -> list[bool]:
    """Every run of one text beside every run of the other."""
    n = min(n, len(tokens), len(other))
    shared = [False] * len(tokens)
    for i in range(len(tokens) - n + 1 if n else 0):
        if any(tokens[i : i + n] == other[j : j + n] for j in range(len(other) - n + 1)):
            shared[i : i + n] = [True] * n
    return shared


few_tokens = st.lists(st.integers(0, 2), max_size=40)


@given(few_tokens, few_tokens, few_tokens, st.integers(1, 12))
def test_what_is_shared_is_what_a_slow_search_finds(a: list[int], b: list[int], c: list[int], n: int) -> None:
    found = shared_tokens(np.array(a, np.int32), [np.array(x, np.int32) for x in (b, c)], n)
    assert found.tolist() == [x or y for x, y in zip(slow(a, b, n), slow(a, c, n), strict=True)]


@pytest.mark.parametrize("n", [2, 3, 31, 32, 33, 100])
def test_a_planted_copy_is_found_wherever_it_lies(n: int) -> None:
    """To the token, and one token short of a run nothing is."""
    text, other = (RNG.integers(0, 1 << 30, 1000).astype(np.int32) for _ in range(2))
    other[500 : 500 + n] = text[123 : 123 + n]
    assert np.flatnonzero(shared_tokens(text, [other], n)).tolist() == list(range(123, 123 + n))
    other[500 + n - 1] += 1
    assert not shared_tokens(text, [other], n).any()


def test_how_much_is_shared_counts_what_counts() -> None:
    """Half of a text is another's: a half, one stretch; of the tokens that count only those."""
    text = np.arange(1000, dtype=np.int32)
    other = np.concatenate([np.arange(5000, 5300), text[400:900], np.arange(6000, 6300)]).astype(np.int32)
    assert overlap(text, [other]) == Overlap(0.5, 500)
    counted = np.zeros(1000, np.bool_)
    counted[800:] = True
    assert overlap(text, [other], counted) == Overlap(0.5, 100)
    assert overlap(text, [np.arange(2000, 3000, dtype=np.int32)]) == overlap(text, []) == Overlap(0.0, 0)


def test_stories_in_single_characters_may_begin_alike_and_a_copy_is_still_found() -> None:
    """The same texts in words of 32 in a run, and in characters: what a vocabulary is changes nothing of what is refused."""
    rng, letters = np.random.default_rng(3), np.array(list("abcdefghijklmno pqr st"))
    begin = "once upon a time, there was a little boy named "
    stories = [[begin + "".join(rng.choice(letters, 90)) for _ in range(40)] for _ in range(2)]
    searched, reported = (" ".join(text) for text in stories)
    copied = reported + searched[700:1400]
    for text, is_apart in ((reported, True), (copied, False)):
        tokens, others = (np.frombuffer(t.encode(), np.uint8).astype(np.int32) for t in (text, searched))
        assert overlap(tokens, [others]).is_too_much(128)  # in runs of 32 characters
        n = run_length(text, len(tokens))
        assert n == 96 and overlap(tokens, [others], n=n).is_too_much(128) is not is_apart
    assert run_length(searched, len(searched) // 4) == N_GRAM


# -- a job's texts -----------------------------------------------------------------------------------------------------


def words(seed: int, n: int) -> list[str]:
    return [f"word{i}" for i in np.random.default_rng(seed).integers(0, 5000, n)]


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    write_fake_model(tmp_path / "model.gguf")
    (tmp_path / "search.txt").write_text(" ".join(words(0, 64 * 20)))
    (tmp_path / "report.txt").write_text(" ".join(words(1, 64 * 20)))
    return tmp_path


def sweep(ground: Path, **more: Any) -> None:
    given = {"text": ground / "search.txt", "report_text": ground / "report.txt", "ctx": 64, "blocks": [1], **more}
    api.sweep(ground / "model.gguf", out=ground / "out", backend=FakeBackend(), **given)


def write(ground: Path, name: str, text: list[str]) -> Path:
    (ground / name).write_text(" ".join(text))
    return ground / name


def test_the_search_text_without_its_first_word_is_still_the_search_text(ground: Path) -> None:
    """No chunk is equal, and all of it was searched."""
    search = words(0, 64 * 20)
    for other in (search[1:], [*search[:5], "new", *search[5:]], [w for i, w in enumerate(search) if i % 50]):
        write(ground, "report.txt", other)
        with pytest.raises(
            TextError, match=r"% of report\.txt, which reports,.* is also in search\.txt, which chooses"
        ):
            sweep(ground)
    assert not (ground / "out" / "base-Q3_K_M.gguf").exists()


def test_texts_of_their_own_pass_and_may_share_a_sentence(ground: Path) -> None:
    sweep(ground)
    write(ground, "report.txt", words(1, 600) + words(0, N_GRAM + 8) + words(2, 600))
    sweep(ground)


def test_a_tenth_is_too_much_and_so_is_a_passage(ground: Path) -> None:
    write(ground, "report.txt", words(1, 64 * 20) + words(0, 64 * 3)[1:])
    with pytest.raises(TextError, match=r"1[0-9.]+ % of report\.txt"):
        sweep(ground)
    write(ground, "report.txt", [*words(1, 64 * 50), *words(0, 301)[1:], *words(2, 64 * 50)])
    with pytest.raises(TextError, match=r"the longest passage: 300 tokens"):
        sweep(ground)


def test_the_halves_of_one_text_are_compared_too(ground: Path) -> None:
    """A text that says everything twice can't report on itself."""
    twice = write(ground, "twice.txt", [*words(0, 64 * 10), "between", *words(0, 64 * 10)])
    with pytest.raises(
        TextError, match=r"is also in the half that chooses; the report needs another text \(--report-text\)"
    ):
        sweep(ground, text=twice, report_text=None)


def test_only_chunks_that_measure_are_compared(ground: Path) -> None:
    """What lies past --chunks is not searched."""
    write(ground, "report.txt", [*words(1, 64 * 10), *words(0, 64 * 10)])
    sweep(ground, chunks=8)
    with pytest.raises(TextError):
        sweep(ground)


def imatrix(path: Path, dataset: str) -> Path:
    """As older llama-imatrix writes it, with one entry."""
    name = b"blk.1.ffn_gate.weight"
    data = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, 256) + struct.pack("<256f", *[1.0] * 256)
    path.write_bytes(data + struct.pack("<ii", 4, len(dataset)) + dataset.encode())
    return path


@pytest.mark.parametrize("measures", ["search", "report"])
def test_a_text_that_holds_what_made_the_importance_matrix_measures_nothing(ground: Path, measures: str) -> None:
    """Whichever split it is for, and wherever in the other text it lies; where that text isn't at hand nothing can be said."""
    own = words(0 if measures == "search" else 1, 64 * 20)
    made_from = write(ground, "calibration.txt", [*words(7, 33), *own[5:], *words(8, 500)])
    given = imatrix(ground / "imatrix.dat", "elsewhere/calibration.txt")
    with pytest.raises(TextError, match=rf"calibration.txt, which made the importance matrix.* {measures}\.txt"):
        sweep(ground, imatrix=given)
    made_from.unlink()
    sweep(ground, imatrix=given)
