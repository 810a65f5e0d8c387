"""Conversations: read from JSON lines, rendered through the model's own chat template; only the assistant's turns are scored.

A template is Jinja2 as Hugging Face's ``apply_chat_template`` runs it, in a sandbox and in a child process that is bounded
(`cerebellum.text.rendering`). The date it can ask for never changes: the same inputs must give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum.domain import Mask, Model, Tokens
from cerebellum.errors import TextError
from cerebellum.keys import sha256_bytes
from cerebellum.text.corpus import read_text
from cerebellum.text.rendering import RENDERER, TemplateBroken, TemplateRefusal

#: Where a GGUF keeps its template.
TEMPLATE = "tokenizer.chat_template"
_SCORED_ROLE = "assistant"

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """``where`` is file and line, for messages; at least one message is the assistant's."""

    where: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Conversations:
    """A file of them. ``left_out``: why others of the file are not among them, one reason each."""

    name: str
    text_sha256: str
    items: tuple[Conversation, ...] = field(repr=False)
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered conversation."""

    text: str
    scored: bool


# -- reading -----------------------------------------------------------------------------------------------------------

#: Names of the list of messages, and of what a message says, in the forms that data sets have (OpenAI's, ShareGPT's).
_LISTS = ("messages", "conversations", "conversation")
_TEXTS = ("text", "input_text", "output_text")
_ROLES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "bot": "assistant", "function_call": "assistant", "observation": "tool", "function_response": "tool",
}  # fmt: skip


def read_conversations(path: Path) -> Conversations:
    """JSON lines, each ``{"messages": [{"role": …, "content": …}, …]}`` or the bare list; empty lines are passed over.

    ShareGPT's ``conversations``, ``from`` and ``value`` are read too, content in typed parts, and one JSON list of conversations.
    A conversation with a part that is no text (an image) is left out and counted. Raises `TextError` naming file and line.
    """
    text = read_text(path)
    values = _whole_list(path, text.removeprefix("\ufeff")) or _values(path, text.removeprefix("\ufeff"))
    items, left_out = [], []
    for where, value in values:
        try:
            items.append(_conversation(where, value))
        except _NotText as error:
            left_out.append(str(error))
    if not items:
        raise TextError(f"{path} has no conversation that can be used: {left_out[0]}")
    return Conversations(path.name, sha256_bytes(text.encode()), tuple(items), tuple(left_out))


class _NotText(Exception):
    """A conversation that isn't all text."""


def _values(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """(file and line, what it holds) of each line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TextError(f"{where} is not JSON ({error}); --chat wants one conversation a line") from error


def _whole_list(path: Path, text: str) -> list[tuple[str, Any]]:
    """The conversations of a file that is one JSON value; none where it isn't."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, list) or (isinstance(v, dict) and _list_of(v)) for v in value)
    ):
        return [(f"{path}, conversation {number}", each) for number, each in enumerate(value, 1)]
    return [(f"{path}, line 1", value)]


def _list_of(value: Mapping[str, Any]) -> Any:
    return next((value[name] for name in _LISTS if name in value), None)


def _conversation(where: str, value: Any) -> Conversation:
    listed = _list_of(value) if isinstance(value, dict) else value
    if not isinstance(listed, list) or not listed:
        raise TextError(f'{where} has no messages; write {{"messages": [{{"role": "user", "content": "…"}}, …]}}')
    messages = [_message(f"{where}, message {number}", message) for number, message in enumerate(listed, 1)]
    if (
        isinstance(value, dict)
        and isinstance(system := value.get("system"), str)
        and system
        and messages[0]["role"] != "system"
    ):
        messages.insert(0, {"role": "system", "content": system})
    if not any(message["role"] == _SCORED_ROLE for message in messages):
        raise TextError(f"{where} has no message of the assistant, so nothing to score; add one or leave the line out")
    return Conversation(where, tuple(messages))


def _message(where: str, message: Any) -> Message:
    """With ``role`` and ``content``, the latter text, or None where tools are called instead."""
    if not isinstance(message, dict):
        raise TextError(f'{where} is not an object with "role" and "content"')
    others = {name: value for name, value in message.items() if name not in ("from", "value")}
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if isinstance(content, list) and content:
        content = "".join(_part(where, piece) for piece in content)
    calls = content is None and message.get("tool_calls")
    for name, given in (("role", role), ("content", content)):
        if not isinstance(given, str) and not (name == "content" and calls):
            raise TextError(f'{where} has no "{name}" that is text; each message needs "role" and "content"')
    return {**others, "role": _ROLES.get(str(role), role), "content": content}


def _part(where: str, piece: Any) -> str:
    text = piece.get("text") if isinstance(piece, dict) and piece.get("type") in _TEXTS else piece
    if isinstance(text, str):
        return text
    if isinstance(piece, dict) and isinstance(piece.get("type"), str) and piece["type"] not in _TEXTS:
        raise _NotText(f"{where} has a part of type {piece['type']!r}, which is no text")
    raise TextError(f'{where} has a part without text; write {{"type": "text", "text": "…"}}')


# -- rendering ---------------------------------------------------------------------------------------------------------

#: Roles whose content is handed over as a list of parts, in the order in which they are tried.
_FORMS: tuple[frozenset[str] | None, ...] = (frozenset(), None, frozenset({"user"}), frozenset({"system", "user"}))


class ConversationRefused(TextError):
    """A conversation that the model's template can't show whole; others it may."""


class ChatTemplate:
    """A model's own template. ``bos`` and ``eos`` are its tokens as text. Raises `TextError` where there is none to use."""

    def __init__(self, model: Model, bos: str, eos: str) -> None:
        source = model.metadata.get(TEMPLATE)
        if not isinstance(source, str) or not source.strip():
            raise TextError(
                f"{model.path} has no chat template ({TEMPLATE}), so --chat can't be used with it; "
                "give an instruction-tuned model converted with its template, or a plain text without --chat"
            )
        self._source, self._path = source, model.path
        self._given = {"bos_token": bos, "eos_token": eos, "tools": None, "documents": None}
        self._forms: dict[Any, frozenset[str] | None] = {}
        self._rendered(None)

    def segments(self, conversation: Conversation) -> tuple[Segment, ...]:
        """The rendering up to the last turn of the assistant, whose turns are scored: each is what follows its prompt.

        Where a template shows earlier turns otherwise than it first wrote them (reasoning taken out, a system message moved to the
        last question), only those after the change are scored. Raises `ConversationRefused` where a turn does not follow its prompt,
        or a message isn't shown.
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
        whole = self._render(conversation, i + 1, False)
        prompt = self._render(conversation, i, True)
        if whole.startswith(prompt):
            return prompt, whole
        before = self._render(conversation, i, False)
        if not whole.startswith(before):
            raise ConversationRefused(
                f"{conversation.where}: the model's chat template does not put message {i + 1}, the assistant's, after the messages "
                "before it, so it can't be scored; leave this conversation out"
            )
        shared = next((n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        return max(before, whole[:shared], key=len), whole

    def _render(self, conversation: Conversation, n_messages: int, prompt: bool) -> str:
        messages = conversation.messages[:n_messages]
        try:
            return self._shown(messages, self._form(messages, prompt), prompt)
        except TemplateRefusal as error:
            raise ConversationRefused(
                f"{conversation.where}: the model's chat template refuses it ({error})"
            ) from error

    def _form(self, messages: Sequence[Message], prompt: bool) -> frozenset[str] | None:
        """The form of content in which the template shows every message, by a probe: the same roles with words of our own.

        Raises `TemplateRefusal` where there is none, so that nothing is scored, or asked, without what was said.
        """
        shape = (*((m["role"], *sorted(m), bool(m["content"])) for m in messages), prompt)
        if shape not in self._forms:
            probes = {i: f"qz{i}probe" for i, m in enumerate(messages) if m["content"] and not m.get("tool_calls")}
            probed = [{**m, "content": probes.get(i, m["content"])} for i, m in enumerate(messages)]
            self._forms[shape] = self._showing(probed, probes, prompt)
        return self._forms[shape]

    def _showing(self, probed: Sequence[Message], probes: Mapping[int, str], prompt: bool) -> frozenset[str] | None:
        reasons = []
        for form in _FORMS:
            try:
                text = self._shown(probed, form, prompt).lower()
            except TemplateRefusal as error:
                reasons.append(str(error))
                continue
            missing = [i for i, word in probes.items() if word not in text]
            listed = any(
                sign in text for sign in ("'type': 'text'", '"type": "text"')
            )  # the list itself is shown, as Python writes it
            if not missing and not listed:
                return form
            i = missing[0] if missing else 0
            reasons.append(f"it leaves out message {i + 1}, of the role {probed[i]['role']!r}")
        raise TemplateRefusal(reasons[0])

    def _shown(self, messages: Sequence[Message], form: frozenset[str] | None, prompt: bool) -> str:
        """The rendering. Content that is None stays so unless the template writes the word."""
        given = [_typed(m) if form is None or m["role"] in form else dict(m) for m in messages]
        if all(m["content"] is not None for m in given):
            return self._rendered({"messages": given, "add_generation_prompt": prompt, **self._given})
        blank = [{**m, "content": "" if m["content"] is None else m["content"]} for m in given]
        empty = self._rendered({"messages": blank, "add_generation_prompt": prompt, **self._given})
        try:
            text = self._rendered({"messages": given, "add_generation_prompt": prompt, **self._given})
        except TemplateRefusal:
            return empty
        return empty if text.count("None") > empty.count("None") else text

    def _rendered(self, values: Mapping[str, Any] | None) -> str:
        try:
            return RENDERER.render(self._source, values)
        except TemplateBroken as error:
            raise TextError(
                f"the chat template of {self._path} {error}; convert the model again, or leave out --chat"
            ) from error


def _typed(message: Message) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


# -- tokens ------------------------------------------------------------------------------------------------------------


def all_tokenized(
    template: ChatTemplate, conversations: Conversations, tokenize: Callable[[str], Tokens], bos: int | None
) -> tuple[list[tuple[Tokens, Mask]], tuple[str, ...]]:
    """Every conversation that the template takes, as `tokenized` gives it, and why the others are left out."""
    parts, refused = [], list(conversations.left_out)
    for conversation in conversations.items:
        try:
            parts.append(tokenized(template.segments(conversation), tokenize, bos))
        except ConversationRefused as error:
            refused.append(str(error))
    if not parts:
        raise TextError(f"{conversations.name}: no conversation can be used. {refused[0]}")
    return parts, tuple(refused)


_NOTHING: Tokens = np.zeros(0, np.int32)


def tokenized(segments: Sequence[Segment], tokenize: Callable[[str], Tokens], bos: int | None) -> tuple[Tokens, Mask]:
    """Tokens int32 [n] of a rendered conversation and which are scored bool [n]; no token spans two segments.

    ``tokenize`` parses special tokens and adds none. ``bos`` (None: not wanted) comes first unless the template wrote it.
    """
    parts = [
        _continued(before.text if before else "", segment.text, tokenize)
        for before, segment in zip((None, *segments), segments, strict=False)
    ]
    scored = [np.full(len(ids), segment.scored) for ids, segment in zip(parts, segments, strict=True)]
    tokens, mask = np.concatenate([_NOTHING, *parts]), np.concatenate([_NOTHING.astype(np.bool_), *scored])
    if bos is not None and tokens[:1].tolist() != [bos]:
        return np.append(np.int32(bos), tokens), np.append(False, mask)
    return tokens, mask


def _continued(before: str, text: str, tokenize: Callable[[str], Tokens]) -> Tokens:
    """Tokens of ``text`` where it follows ``before``: a vocabulary that puts a space before a text puts none inside it."""
    left, both = tokenize(before), tokenize(before + text)
    return both[len(left) :] if np.array_equal(both[: len(left)], left) else tokenize(text)
