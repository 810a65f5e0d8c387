"""Files that are compared have the same tokens, not only as many: read from the files, compared, the first difference named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from cerebellum.errors import InputError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.vocabulary import check_same_tokens, other_rules, token_list
from cerebellum.verbs.tokenization import check_token_lists

SHORT, LONG = 300, 3000


def written(
    path: Path, texts: Sequence[str], types: Sequence[int] = (), merges: Sequence[str] = (), pre: str = "default"
) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(texts))
    writer.add_token_types(list(types or [1] * len(texts)))
    writer.add_token_merges(list(merges or ["a b", "b c"]))
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def words(n: int) -> list[str]:
    return [f"w{i}ä" for i in range(n)]


@pytest.mark.parametrize("n", [SHORT, LONG])
def test_read_from_the_file(n: int, tmp_path: Path) -> None:
    """Long lists are passed over by the reader of headers, and found again."""
    own = token_list(read_model(written(tmp_path / "a.gguf", words(n), range(1, n + 1))))
    assert own.texts == tuple(words(n))
    assert own.types == tuple(range(1, n + 1))
    assert own.file == "a.gguf"


@pytest.mark.parametrize("n", [SHORT, LONG])
def test_another_order_is_another_vocabulary(n: int, tmp_path: Path) -> None:
    """As many tokens, two stretches of them swapped: the first that differs is named with both its texts."""
    swapped = words(n)
    swapped[100:300] = swapped[200:300] + swapped[100:200]
    paths = [written(tmp_path / "a.gguf", words(n)), written(tmp_path / "b.gguf", swapped)]
    with pytest.raises(InputError, match=r"token 100 is 'w100ä' in a.gguf and 'w200ä' in b.gguf"):
        check_token_lists(paths)
    assert check_token_lists([paths[0], paths[0]]) == []


def test_one_token_s_text(tmp_path: Path) -> None:
    """The last of three thousand."""
    other = [*words(LONG)[:-1], "else"]
    paths = [written(tmp_path / "a.gguf", words(LONG)), written(tmp_path / "b.gguf", other)]
    with pytest.raises(InputError, match="token 2999 is"):
        check_token_lists(paths)


def test_another_number_of_tokens(tmp_path: Path) -> None:
    """Said as such."""
    lists = [token_list(read_model(written(tmp_path / f"{n}.gguf", words(n)))) for n in (300, 301)]
    with pytest.raises(InputError, match=r"300\.gguf has 300 tokens, 301\.gguf 301"):
        check_same_tokens(*lists)


def test_other_rules_are_told(tmp_path: Path) -> None:
    """Types, merges and pre-tokenizers decide how a text is cut; where it is cut alike all the same, it's a warning."""
    own = written(tmp_path / "own.gguf", words(LONG))
    types = [1] * LONG
    types[2500] = 3
    changed = {
        "token_type": written(tmp_path / "types.gguf", words(LONG), types),
        "merges": written(tmp_path / "merges.gguf", words(LONG), merges=["b c", "a b"]),
        "pre": written(tmp_path / "pre.gguf", words(LONG), pre="llama-bpe"),
    }
    for name, path in changed.items():
        lists = [token_list(read_model(each)) for each in (own, path)]
        check_same_tokens(*lists)
        assert f"tokenizer.ggml.{name}" in other_rules(*lists)
    assert (
        "token 2500, 'w2500ä', is normal in the first and control in the second"
        in check_token_lists([own, changed["token_type"]])[0]
    )


def test_files_without_a_vocabulary(tmp_path: Path) -> None:
    """Nothing to compare, nothing to refuse."""
    from cerebellum.testing import write_fake_model

    paths = [write_fake_model(tmp_path / name) for name in ("a.gguf", "b.gguf")]
    assert check_token_lists(paths) == []
