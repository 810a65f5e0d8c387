"""The tokens of a GGUF's vocabulary. Two files can be compared token by token only if every token id has the same text in both.

Files of one vocabulary size can have other tokens: two tokenizers of a family, added tokens in another order, a vocabulary cut and padded.
Then a KL divergence compares the probabilities of different words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cerebellum.domain import Model
from cerebellum.errors import InputError
from cerebellum.gguf.header import LongArray, elements, mapped
from cerebellum.keys import content_key

_PREFIX = "tokenizer.ggml."
#: What decides how a text becomes tokens, beside their texts.
_RULES = ("model", "pre", "token_type", "scores", "merges", "bos_token_id", "add_bos_token", "add_space_prefix")
#: llama.cpp's names of the values in ``token_type``.
_TYPES = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}


@dataclass(frozen=True, slots=True)
class TokenList:
    """A file's tokens: ``texts[i]`` is token i's ("" where there is no text), ``types[i]`` its kind (empty: not said), ``rules`` a hash of
    each other thing that decides how a text is cut, by its key."""

    file: str
    texts: tuple[str, ...]
    types: tuple[int, ...]
    rules: dict[str, str]


def token_list(model: Model) -> TokenList:
    """Of the file that ``model`` was read from. Raises `ModelFileError` where it can't be read."""
    with mapped(model.path) as (buffer, _):

        def value(name: str) -> Any:
            stored = model.metadata.get(_PREFIX + name)
            return elements(buffer, stored) if isinstance(stored, LongArray) else stored

        texts, types = value("tokens"), value("token_type")
        rules = {name: content_key(name, _plain(value(name))) for name in _RULES if _PREFIX + name in model.metadata}
    words = tuple(text if isinstance(text, str) else "" for text in _tuple(texts))
    return TokenList(model.path.name, words, _tuple(types), rules)


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _plain(value: Any) -> Any:
    """``value`` without what JSON can't hold: numbers that aren't finite."""
    return [repr(x) for x in value] if isinstance(value, tuple) else repr(value)


def check_same_tokens(first: TokenList, second: TokenList) -> None:
    """Raises `InputError` naming the first token that has another text in one file than in the other."""
    if (n := len(first.texts)) != (m := len(second.texts)):
        raise InputError(f"{first.file} has {n} tokens, {second.file} {m}: they can't be compared token by token")
    if difference := first_other_token(first, second):
        raise InputError(
            f"{difference}: with other tokens a KL divergence compares other words. Compare files that were made from one model"
        )


def first_other_token(first: TokenList, second: TokenList) -> str:
    """The first token that has another text in one file than in the other, in words; "" where there is none."""
    for number, (token, other) in enumerate(zip(first.texts, second.texts, strict=False)):
        if token != other:
            return f"token {number} is {token!r} in {first.file} and {other!r} in {second.file}"
    return ""


def other_rules(first: TokenList, second: TokenList) -> str:
    """What else the two vocabularies differ in, with the first token of another type named; "" for nothing. Texts may be cut alike all the
    same."""
    differing = [name for name in _RULES if first.rules.get(name) != second.rules.get(name)]
    if not differing:
        return ""
    difference = f"{first.file} and {second.file} differ in {', '.join(_PREFIX + name for name in differing)}"
    for number, (kind_first, other) in enumerate(zip(first.types, second.types, strict=False)):
        if kind_first != other:
            kinds = [_TYPES.get(kind, str(kind)) for kind in (kind_first, other)]
            return f"{difference} (token {number}, {first.texts[number]!r}, is {kinds[0]} in the first and {kinds[1]} in the second)"
    return difference
