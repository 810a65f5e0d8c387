"""Conversations: read from JSON lines, rendered through the model's own chat template; only the assistant's turns are scored.

A template is Jinja2 as Hugging Face's ``apply_chat_template`` runs it, in a sandbox. The date it can ask for never changes: the same
inputs must give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cerebellum.domain import Mask, Model, Tokens
from cerebellum.errors import TextError
from cerebellum.keys import sha256_bytes
from cerebellum.text.corpus import read_text

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser

#: Where a GGUF keeps its template.
TEMPLATE = "tokenizer.chat_template"
#: What ``strftime_now`` tells a template.
TODAY = datetime(2025, 1, 1)
_SCORED_ROLE = "assistant"

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """``place`` is file and line, for messages; at least one message is the assistant's."""

    place: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Conversations:
    """A file of them."""

    name: str
    text_sha256: str
    items: tuple[Conversation, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered conversation."""

    text: str
    scored: bool


# -- reading -----------------------------------------------------------------------------------------------------------


def read_conversations(path: Path) -> Conversations:
    """JSON lines, each ``{"messages": [{"role": …, "content": …}, …]}`` or the bare list; empty lines are passed over.

    Raises `TextError` naming file and line.
    """
    text = read_text(path)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    items = tuple(_conversation(f"{path}, line {number}", line) for number, line in lines)
    return Conversations(path.name, sha256_bytes(text.encode()), items)


def _conversation(place: str, line: str) -> Conversation:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{place} is not JSON ({error}); --chat wants one conversation a line") from error
    messages = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(messages, list) or not messages:
        raise TextError(f'{place} has no messages; write {{"messages": [{{"role": "user", "content": "…"}}, …]}}')
    for number, message in enumerate(messages, 1):
        _check_message(f"{place}, message {number}", message)
    if not any(message["role"] == _SCORED_ROLE for message in messages):
        raise TextError(f"{place} has no message of the assistant, so nothing to score; add one or leave the line out")
    return Conversation(place, tuple(messages))


def _check_message(place: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise TextError(f'{place} is not an object with "role" and "content"')
    for name in ("role", "content"):
        if not isinstance(message.get(name), str):
            raise TextError(f'{place} has no "{name}" that is text; each message needs "role" and "content"')


# -- rendering ---------------------------------------------------------------------------------------------------------


class ChatTemplate:
    """A model's own template. ``bos`` and ``eos`` are its tokens as text. Raises `TextError` where there is none to use."""

    def __init__(self, model: Model, bos: str, eos: str) -> None:
        source = model.metadata.get(TEMPLATE)
        if not isinstance(source, str) or not source.strip():
            raise TextError(
                f"{model.path} has no chat template ({TEMPLATE}), so --chat can't be used with it; "
                "give an instruction-tuned model converted with its template, or a plain text without --chat"
            )
        self._template = _compiled(source, model.path)
        self._given = {"bos_token": bos, "eos_token": eos, "tools": None, "documents": None}

    def segments(self, conversation: Conversation) -> tuple[Segment, ...]:
        """The rendering up to the last turn of the assistant, whose turns are scored: each is what follows its prompt.

        Where a template shows earlier turns otherwise than it first wrote them (reasoning taken out, a system message moved to the
        last question), only those after the change are scored. Raises `TextError` where a turn does not follow its prompt.
        """
        segments: list[Segment] = []
        done = ""
        for i, message in enumerate(conversation.messages):
            if message["role"] != _SCORED_ROLE:
                continue
            prompt, whole = self._turn(conversation, i)
            if not prompt.startswith(done):
                segments, done = [], ""
            segments += [Segment(prompt[len(done) :], False), Segment(whole[len(prompt) :], True)]
            done = whole
        return tuple(segment for segment in segments if segment.text)

    def prompt(self, messages: Sequence[Message], answer_begun: str = "") -> str:
        """The conversation up to where the assistant is to speak, then ``answer_begun``. Raises `TextError` where it is refused."""
        conversation = Conversation("the conversation to be answered", tuple(messages))
        return self._render(conversation, len(messages), True) + answer_begun

    def _turn(self, conversation: Conversation, i: int) -> tuple[str, str]:
        """What stands before the assistant's message ``i``, and that with the message."""
        prompt = self._render(conversation, i, True)
        whole = self._render(conversation, i + 1, False)
        if whole.startswith(prompt):
            return prompt, whole
        before = self._render(conversation, i, False)
        if not whole.startswith(before):
            raise TextError(
                f"{conversation.place}: the model's chat template does not put message {i + 1}, the assistant's, after the messages "
                "before it, so it can't be scored; leave this conversation out"
            )
        shared = next((n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        return max(before, whole[:shared], key=len), whole

    def _render(self, conversation: Conversation, n_messages: int, prompt: bool) -> str:
        from jinja2 import TemplateError

        messages = [dict(message) for message in conversation.messages[:n_messages]]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=prompt, **self._given)
            text.encode()
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise TextError(f"{conversation.place}: the model's chat template refuses it ({error})") from error
        return text


def _compiled(source: str, path: Path) -> Template:
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training: passed through."""

        tags = {"generation"}  # noqa: RUF012 jinja2's own way

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise TextError(f"the chat template of {path} can't be read ({error}); convert the model again") from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without jinja2's escapes for HTML, as Hugging Face writes it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


# -- tokens ------------------------------------------------------------------------------------------------------------

_NOTHING: Tokens = np.zeros(0, np.int32)


def tokenized(segments: Sequence[Segment], tokenize: Callable[[str], Tokens], bos: int | None) -> tuple[Tokens, Mask]:
    """Tokens int32 [n] of a rendered conversation and which are scored bool [n]; no token spans two segments.

    ``tokenize`` parses special tokens and adds none. ``bos`` (None: not wanted) comes first unless the template wrote it.
    """
    parts = [
        _continued(before.text if before else "", segment.text, tokenize)
        for before, segment in zip((None, *segments), segments, strict=False)
    ]
    scored = [np.full(len(part), segment.scored) for part, segment in zip(parts, segments, strict=True)]
    tokens, mask = np.concatenate([_NOTHING, *parts]), np.concatenate([_NOTHING.astype(np.bool_), *scored])
    if bos is not None and tokens[:1].tolist() != [bos]:
        return np.append(np.int32(bos), tokens), np.append(False, mask)
    return tokens, mask


def _continued(before: str, text: str, tokenize: Callable[[str], Tokens]) -> Tokens:
    """Tokens of ``text`` where it follows ``before``: a vocabulary that puts a space before a text puts none inside it."""
    left, both = tokenize(before), tokenize(before + text)
    return both[len(left) :] if np.array_equal(both[: len(left)], left) else tokenize(text)
