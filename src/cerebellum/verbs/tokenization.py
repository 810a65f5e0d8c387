"""Files that are compared have one tokenization: the same tokens, and the text cut alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cerebellum.domain import Corpus
from cerebellum.errors import InputError
from cerebellum.gguf import model_file
from cerebellum.gguf.vocabulary import check_same_tokens, other_rules, token_list
from cerebellum.llamacpp.protocol import Engine
from cerebellum.verbs.text import Text

#: Context that texts are cut into to compare their tokens: the least, so that every text has the two chunks that are asked for.
_CTX = 8
_WHY = (
    "What a file says of tokens that it wouldn't make is no measure of it: compare files that were made from one model"
)


def check_token_lists(models: Iterable[Path]) -> list[str]:
    """Warnings about other rules of tokenization that differ from the first file's.

    Raises `InputError` naming the first token that has another text.
    """
    paths = list(dict.fromkeys(models))
    if len(paths) < 2:
        return []
    first, *others = (token_list(model_file.read_model(path)) for path in paths)
    for other in others:
        check_same_tokens(first, other)
    return [difference for other in others if (difference := other_rules(first, other))]


def cut_plainly(engine: Engine, text: Text) -> Corpus:
    """All of ``text`` in the engine's tokens; of conversations, all that is in them, without a chat template."""
    plain = text if isinstance(text, str) else "\n".join(map(str, text.items)) + " and so on" * _CTX
    return engine.corpus("the text", plain, _CTX)


def check_cut_alike(first: Corpus, path: Path, second: Corpus, other_path: Path) -> None:
    """One text (`cut_plainly`) became the same tokens in the files at ``path`` and ``other_path``.

    Raises `InputError` naming the first token that differs.
    """
    if first.bos != second.bos:
        begins = [f"token {corpus.bos}" if corpus.bos is not None else "no such token" for corpus in (first, second)]
        raise InputError(f"{path.name} begins a text with {begins[0]}, {other_path.name} with {begins[1]}. {_WHY}")
    if first.tokens_sha256 != second.tokens_sha256:
        difference = _first_difference(first, second, token_list(model_file.read_model(path)).texts)
        raise InputError(f"{path.name} and {other_path.name} cut the text into other tokens: {difference}. {_WHY}")


def _first_difference(first: Corpus, second: Corpus, texts: tuple[str, ...]) -> str:
    """The first token that isn't the same, in words; ``texts`` are the vocabulary's."""
    n = min(len(first.tokens), len(second.tokens))
    differing = np.flatnonzero(first.tokens[:n] != second.tokens[:n])
    if not len(differing):
        return f"{len(first.tokens)} by the first, {len(second.tokens)} by the second"
    index = int(differing[0])
    mine, other = (_named(int(corpus.tokens[index]), texts) for corpus in (first, second))
    return f"token {index + 1} of the text is {mine} in the first and {other} in the second"


def _named(token: int, texts: tuple[str, ...]) -> str:
    return f"number {token}, {texts[token]!r}," if token < len(texts) else f"number {token}"
