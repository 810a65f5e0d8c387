"""Where a reply's reasoning ends and its answer begins. Reasoning models write drafts before they answer; a draft is no answer.

A model marks its reasoning in the way of its family. Marks that open and close a stretch of reasoning:

| form | families |
|---|---|
| ``<think>…</think>``; other names (``thinking``, ``thought``, …), prefixed ones (``seed:think``) | DeepSeek R1, Qwen3, Seed-OSS |
| ``[THINK]…[/THINK]`` | Magistral |
| ``◁think▷…◁/think▷`` | Kimi-VL |
| ``<|START_THINKING|>…<|END_THINKING|>``, ``<|begin_of_thought|>…<|end_of_thought|>`` | Command A, OpenThinker |
| ``<|inner_prefix|>…<|inner_suffix|>`` | Apertus |
| ``<|channel>thought…<channel|>``, ``<unused94>thought…<unused95>`` | Gemma |

Channels are in a class of their own (gpt-oss): ``<|channel|>analysis<|message|>…<|channel|>final<|message|>…``; the last channel ``final``
is the answer. Granite and Apriel mark both parts by a sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing|s)?|rationale|reflect(?:ion|ing)?|analysis|analyze|scratch_?pad|ponder(?:ing)?|"
    r"deliberat(?:e|ion)|chain[_-]of[_-]thought|cot|inner[_-](?:thoughts?|monologue|voice)|internal[_-]\w{1,20}|monologue|brainstorm(?:ing)?|"
    r"musings?|draft)"
)
_BEGIN, _FINISH = r"(?:begin|start|open|prefix)", r"(?:end|stop|close|finish|suffix)"
_GAP, _FAMILY = "[_▁ ]{0,2}", r"(?:\w{1,20}[:_.\-▁])?"
#: A name with what stands before it (a family's own prefix) and behind it (attributes).
_NAMED = rf"(?:{_FAMILY}{_NAMES}(?:[_.\-]?(?:faster|fast|slow|deep|mode|step|process))?)"
_OPENING = rf"(?:{_BEGIN}{_GAP}(?:of{_GAP})?(?:the{_GAP})?{_NAMED}|{_NAMED}{_GAP}{_BEGIN}|{_NAMED}|inner[_▁]prefix)"
_CLOSING = (
    rf"(?:/ ?{_NAMED}|/?{_FINISH}{_GAP}(?:of{_GAP})?(?:the{_GAP})?{_NAMED}|{_NAMED}{_GAP}{_FINISH}|inner[_▁]suffix)"
)


def _mark(name: str, body: str) -> str:
    """A mark in angle brackets (plain, or with bars of either width), in square ones (capitals only), or in triangles."""
    angled = rf"<[|｜]?{body}(?:[ ][^<>=\n]{{0,40}}=[^<>\n]{{0,200}}|[ ]{{0,4}})[/|｜]?>"
    squared = rf"\[(?-i:(?=[A-Z/_: .\-]{{1,40}}\])){body}\]"
    return rf"(?P<{name}>{angled}|{squared}|◁{body}▷)"


_GEMMA_OPEN, _GEMMA_CLOSE = (
    r"<\|channel>[ ]{0,4}(?:thought|thinking|analysis|reasoning)\b|<unused94>(?:thought\b)?",
    r"<channel\|>|<unused95>",
)
_MARKS = re.compile(
    rf"{_mark('closes', _CLOSING)}|{_mark('opens', _OPENING)}|(?P<gemma_closes>{_GEMMA_CLOSE})|(?P<gemma_opens>{_GEMMA_OPEN})",
    re.IGNORECASE,
)

#: gpt-oss: a message's header names its channel; where special tokens were left out, the words of the headers alone are there.
_HEADER = re.compile(
    r"<\|channel\|>[ ]{0,4}(?P<channel>\w{1,30})\b(?:(?!<\|)[^\n]){0,200}(?:<\|constrain\|>\w{0,30}[ ]{0,4})?<\|message\|>",
    re.IGNORECASE,
)
_HEADER_LAST = re.compile(r"<\|channel\|>[ ]{0,4}\w{1,30}[ ]{0,4}<\|message\|>\s*\Z", re.IGNORECASE)
_HEADER_BEGUN = re.compile(r"<\|channel\|>[ ]{0,4}\w*", re.IGNORECASE)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_CHANNELS = re.compile(r"\A\s*(?:analysis|commentary)(?=[A-Z\s])(?:.*?)assistantfinal(?:message)?", re.DOTALL)
_BARE_BEGUN = re.compile(r"\A\s*(?:analysis|commentary)(?=[A-Z])")

#: A sentence that opens the reasoning, and the one that opens the answer.
_SENTENCES = (
    (re.compile(r"\A\s*Here(?:'s| is) my thought process:", re.I), re.compile(r"Here(?:'s| is) my response:", re.I)),
    (re.compile(r"\A\s*Here are my reasoning steps:", re.I), re.compile(r"\[BEGIN FINAL RESPONSE\]")),
)
#: What only wraps an answer.
_WRAPPERS = re.compile(
    r"</?(?:answer|response|final_answer|final|solution|output)>|<\|(?:begin|end)_of_(?:solution|answer|response|box)\|>|"
    r"<\|(?:START|END)_RESPONSE\|>|\[(?:BEGIN|END) FINAL RESPONSE\]|<\|(?:return|end|im_end|eot_id)\|>\s*\Z"
)


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """``text``: the reply without its reasoning. ``ended``: whether the reasoning has an end; where not, there is no answer."""

    text: str
    ended: bool = True


def answer_of(reply: str, prompt: str = "") -> FinalAnswer:
    """What a reply says once its reasoning is left out. ``prompt`` is what it goes on from: its last mark may open the reasoning.

    A closing mark alone ends what stands before it. A reply without any mark is its own answer, to the last letter.
    """
    begun = _HEADER_LAST.search(prompt[-200:])
    if begun or _HEADER_BEGUN.search(reply):
        return _last_channel((begun[0] if begun else "") + reply)
    for opened, answered in _SENTENCES:
        if opened.match(reply):
            parts = answered.split(reply, maxsplit=1)
            return _unwrapped(parts[1]) if len(parts) == 2 else FinalAnswer("", False)
    if channels := _BARE_CHANNELS.match(reply):
        return FinalAnswer(reply[channels.end() :])
    if _BARE_BEGUN.match(reply):
        return FinalAnswer("", False)
    return _outside(reply, _ends_open(prompt))


def _ends_open(prompt: str) -> bool:
    """Whether an opening mark is the last of the prompt."""
    tail = prompt[-200:].rstrip()
    marks = list(_MARKS.finditer(tail))
    return bool(marks) and marks[-1].end() == len(tail) and bool(marks[-1]["opens"] or marks[-1]["gemma_opens"])


def _outside(reply: str, inside: bool) -> FinalAnswer:
    """What stands outside all stretches of reasoning; ``inside``: the reply begins in one."""
    marks = list(_MARKS.finditer(reply))
    if not marks:
        return FinalAnswer("" if inside else reply, not inside)
    kept, end = "", 0
    for mark in marks:
        if mark["opens"] or mark["gemma_opens"]:
            kept += "" if inside else reply[end : mark.start()]
            inside = True
        else:
            kept = kept if inside and kept.strip() else ""
            inside = False
        end = mark.end()
    return FinalAnswer("", False) if inside else _unwrapped(kept + reply[end:])


def _last_channel(reply: str) -> FinalAnswer:
    """The last message, up to its end, where it is on the channel ``final``."""
    headers = list(_HEADER.finditer(reply))
    if not headers or headers[-1]["channel"].lower() != "final":
        return FinalAnswer("", False)
    return FinalAnswer(_MESSAGE_END.split(reply[headers[-1].end() :], maxsplit=1)[0])


def _unwrapped(text: str) -> FinalAnswer:
    return FinalAnswer(_WRAPPERS.sub("", text).lstrip("\n"))
