"""A Modelfile for Ollama with the model's own chat template, where its turns are regular enough to be said in Go's template language.

Facts: Ollama's *Modelfile reference* and *Template* pages. A model that is imported without a template gets its input verbatim there. The
Jinja2 template is rendered with words of ours; what stands around them is a turn's beginning and end; the pieces put together must give
what the template gives for other conversations, or there is no conversion.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cerebellum.errors import InputError
from cerebellum.quoting import printable
from cerebellum.text.rendering import TemplateBroken
from cerebellum.text.template_lint import AGAIN, ANSWER, SYSTEM, USER, Messages, Template, answer, system, user

#: What ends a piece that is a mark of the template's: `<|im_end|>`, `</s>`, `<end_of_turn>`, `[/INST]`.
_MARK = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{2,40}\]")


@dataclass(frozen=True, slots=True)
class TemplateTurns:
    """What a template writes: before all, before and after each turn, and to begin an answer. ``system`` None: there is no such turn.
    ``default_system``: the system message that it writes where none is given."""

    begin: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str
    system: tuple[str, str] | None = None
    default_system: str | None = None

    def text(self, messages: Messages) -> str:
        """The conversation, ready for an answer."""
        if self.default_system is not None and not any(m["role"] == "system" for m in messages):
            messages = [system(self.default_system), *messages]
        pieces = {"user": self.user, "assistant": self.assistant, "system": self.system or ("", "")}
        body = "".join(f"{pieces[m['role']][0]}{m['content']}{pieces[m['role']][1]}" for m in messages)
        return self.begin + body + self.prompt


def turns_of(template: Template) -> TemplateTurns | None:
    """The turns, or None where the template is not so regular. Raises nothing: a template that breaks has none."""
    try:
        turns = _plain_turns(template)
        if turns is None:
            return None
        turns = _with_system(template, turns)
        return turns if all(template.tried(m, True) == turns.text(m) for m in _trials(turns)) else None
    except TemplateBroken:
        return None


def _plain_turns(template: Template) -> TemplateTurns | None:
    """From one question, an answer to it, and a second question: each piece is what stands between two of our words."""
    one, two = template.tried([user()], True), template.tried([user(), answer()])
    three, closed = (template.tried([user(), answer(), user(AGAIN)], prompt) for prompt in (True, False))
    if one is None or two is None or three is None or closed is None or not three.startswith(closed):
        return None
    if USER not in one or ANSWER not in two or not all(word in three for word in (USER, ANSWER, AGAIN)):
        return None
    prompt = three[len(closed) :]
    begin, after = one.split(USER, 1)
    user_end, assistant_end = after.removesuffix(prompt), two[two.index(ANSWER) + len(ANSWER) :]
    assistant_start = two[two.index(USER) + len(USER) + len(user_end) : two.index(ANSWER)]
    between = three[three.index(ANSWER) + len(ANSWER) : three.index(AGAIN)]
    user_start = between.removeprefix(assistant_end)
    if not between.startswith(assistant_end) or not begin.endswith(user_start):
        return None
    return TemplateTurns(
        begin.removesuffix(user_start), (user_start, user_end), (assistant_start, assistant_end), prompt
    )


def _with_system(template: Template, turns: TemplateTurns) -> TemplateTurns:
    text = template.tried([system(), user()], True)
    tail = turns.user[0] + USER + turns.user[1] + turns.prompt
    if text is None or SYSTEM not in text or not text.endswith(tail):
        return turns
    head = text.removesuffix(tail)
    before, after = head.split(SYSTEM, 1)
    mark = _MARK.search(before)
    start = before[len(turns.begin) :] if before.startswith(turns.begin) else None
    if start is not None:
        return replace(turns, system=(start, after))
    # Without a system message the template writes one of its own: it lies in what stands before the first question.
    shared = before if turns.begin.startswith(before) else ""
    if shared == before and turns.begin.endswith(after) and mark is not None:
        default = turns.begin[len(before) : len(turns.begin) - len(after)]
        bos = template.bos if template.bos and before.startswith(template.bos) and template.bos != mark[0] else ""
        return replace(turns, begin=bos, system=(before.removeprefix(bos), after), default_system=default)
    return turns


def _trials(turns: TemplateTurns) -> list[Messages]:
    """Conversations that the pieces must give as the template does."""
    talks: list[Messages] = [
        [user("one")],
        [user("one two"), answer("three"), user("four")],
        [user("a"), answer("b"), user("c"), answer("d"), user("e")],
    ]
    return talks + ([[system("rules"), *talk] for talk in talks] if turns.system else [])


# -- the Modelfile -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Modelfile:
    """``text`` of the file; ``notes``: what could not be carried over."""

    text: str
    notes: tuple[str, ...] = field(default=())


def modelfile(
    file: Path, template: Template | None, stops: Sequence[str], n_ctx: int | None, license_name: str = ""
) -> Modelfile:
    """For the GGUF ``file`` (as it is to stand there). ``stops``: end marks that the vocabulary names; those of the turns are added.

    Raises `InputError` for a file name that no line of a Modelfile can hold.
    """
    lines, notes = [f"FROM {_one_line(file)}"], []
    turns = turns_of(template) if template is not None else None
    if turns is not None and turns.system is None:
        notes.append("the chat template has no turn for a system message: Ollama leaves it out")
    if turns is not None and template is not None and _can_be_quoted("".join(_pieces(turns))):
        lines += [f'TEMPLATE """{go_template(turns, template)}"""']
        if turns.default_system is not None:
            lines += [f'SYSTEM """{turns.default_system}"""']
    elif template is not None:
        notes.append(
            "the chat template is not regular enough for Ollama's template language, so there is no TEMPLATE: Ollama takes one of its own "
            "where it knows the model's, else it sends the input verbatim"
        )
    else:
        notes.append("the model has no chat template: Ollama sends the input verbatim")
    ends = [*stops, *(_MARK.findall(turns.assistant[1]) if turns else [])]
    lines += [
        f'PARAMETER stop "{stop}"'
        for stop in dict.fromkeys(ends)
        if stop and '"' not in stop and printable(stop) == stop
    ]
    lines += [f"PARAMETER num_ctx {n_ctx}"] if n_ctx else []
    if license_name:
        lines += [f'LICENSE """{printable(license_name).replace(chr(34), "")}"""']
    return Modelfile("\n".join(lines) + "\n", tuple(notes))


def _can_be_quoted(text: str) -> bool:
    """Whether three quotes hold it, and a terminal shows it as it is."""
    shown = text.replace("\n", "").replace("\t", "")
    return '"""' not in text and printable(shown, len(shown)) == shown


def _one_line(file: Path) -> str:
    name = os.fspath(file)
    if printable(name) != name or name != name.strip():
        raise InputError(f"a Modelfile can't name the file {printable(name)}: rename it")
    return name if file.is_absolute() or name.startswith(("./", "../")) else f"./{name}"


def _pieces(turns: TemplateTurns) -> list[str]:
    return [turns.begin, *turns.user, *turns.assistant, *(turns.system or ()), turns.prompt, turns.default_system or ""]


def go_template(turns: TemplateTurns, template: Template) -> str:
    """In Go's template language over ``.Messages``. BOS is left out where the vocabulary adds it, as Ollama's tokenizer does."""
    begin = turns.begin.removeprefix(template.bos) if template.adds_bos and template.bos else turns.begin
    parts = [("system", turns.system), ("user", turns.user), ("assistant", turns.assistant)]
    cases = [
        f'eq .Role "{role}" }}}}{_go(piece[0])}{{{{ .Content }}}}{_go(piece[1])}' for role, piece in parts if piece
    ]
    body = "{{ if " + "{{ else if ".join(cases) + "{{ end }}"
    return f"{_go(begin)}{{{{ range .Messages }}}}{body}{{{{ end }}}}{_go(turns.prompt)}"


def _go(text: str) -> str:
    """Text that Go's template language writes as it is."""
    return text.replace("{{", '{{ "{{" }}')
