"""Is a model's chat template sound? Rendered with made-up conversations, and compared with what a template must do.

Each finding names a check. *error*: answers or measurements through the template are wrong. *warning*: some conversations are. *note*:
good to know. Templates are rendered in a child process (`cerebellum.text.rendering`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebellum.text.rendering import RENDERER, TemplateBroken, TemplateRefusal

Messages = Sequence[Mapping[str, Any]]

#: Words of ours, which a template has no reason to write or to change.
USER, ANSWER, AGAIN, SYSTEM, OTHER = "qz1 asks", "qz2 says", "qz3 asks on", "qz4 rules", "qz5 reports"
#: What a content must come through with: marks of HTML, quotes, braces, another script, an indented line.
DELICATE = "a < b & c > 'd' \"e\" {x} {{ y }} ü 漢\n    def f():\n\treturn 1"


@dataclass(frozen=True, slots=True)
class TemplateFinding:
    """``level`` is *error*, *warning* or *note*."""

    level: str
    check: str
    message: str


@dataclass(frozen=True, slots=True)
class Template:
    """A template with the tokens it is given as text; ``adds_bos``: the vocabulary puts BOS before a text."""

    source: str
    bos: str
    eos: str
    adds_bos: bool

    def render(self, messages: Messages, prompt: bool = False) -> str:
        """Raises `TemplateRefusal` or `TemplateBroken`."""
        given = {"bos_token": self.bos, "eos_token": self.eos, "tools": None, "documents": None}
        return RENDERER.render(self.source, {"messages": list(messages), "add_generation_prompt": prompt, **given})

    def tried(self, messages: Messages, prompt: bool = False) -> str | None:
        """None where the template refuses these messages. Raises `TemplateBroken`."""
        try:
            return self.render(messages, prompt)
        except TemplateRefusal:
            return None


def user(text: str = USER) -> dict[str, str]:
    """A message of the user."""
    return {"role": "user", "content": text}


def answer(text: str = ANSWER) -> dict[str, str]:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def system(text: str = SYSTEM) -> dict[str, str]:
    """A system message."""
    return {"role": "system", "content": text}


def lint(template: Template) -> tuple[TemplateFinding, ...]:
    """Every finding, the worst first; none where all is well."""
    try:
        plain = template.render([user()], True)
    except (TemplateBroken, TemplateRefusal) as error:
        how = "can't be rendered" if isinstance(error, TemplateBroken) else "refuses a single question"
        return (TemplateFinding("error", "renders", f"the template {how}: {error}"),)
    try:
        findings = [f for check in _CHECKS for f in check(template, plain)]
    except TemplateBroken as error:
        findings = [TemplateFinding("error", "renders", f"the template breaks on some conversations: {error}")]
    order = ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda f: order.index(f.level)))


def _question(template: Template, plain: str) -> Iterator[TemplateFinding]:
    if USER not in plain:
        yield TemplateFinding(
            "error", "shows the question", "what the user says is not in the text that the model gets"
        )
    elif plain.count(USER) > 1:
        yield TemplateFinding("warning", "shows the question", "what the user says is there twice")


def _generation_prompt(template: Template, plain: str) -> Iterator[TemplateFinding]:
    without = template.tried([user()])
    if without is None:
        yield TemplateFinding("warning", "generation prompt", "a question without a generation prompt is refused")
    elif without == plain and _needs_none(template, plain):
        yield TemplateFinding(
            "note", "generation prompt", "there is none: an answer begins where the question's end mark is"
        )
    elif without == plain:
        yield TemplateFinding(
            "error", "generation prompt",
            "add_generation_prompt changes nothing: either no answer is begun, or one is begun where none is due",
        )  # fmt: skip
    elif not plain.startswith(without):
        yield TemplateFinding("warning", "generation prompt", "the generation prompt changes what stands before it")


def _needs_none(template: Template, plain: str) -> bool:
    """Whether an answer stands right behind the question's end, and none is begun behind a finished one."""
    whole = template.tried([user(), answer()]) or ""
    return whole.startswith(plain + ANSWER) and not whole.endswith(plain.rpartition(USER)[2])


def _bos(template: Template, plain: str) -> Iterator[TemplateFinding]:
    if not template.bos:
        return
    n = 0
    while plain.startswith(template.bos, n * len(template.bos)):
        n += 1
    if n > 1:
        yield TemplateFinding("error", "one BOS", f"the template writes {template.bos!r} {n} times at the beginning")
    elif n == 1 and template.adds_bos:
        yield TemplateFinding(
            "note", "one BOS",
            f"the template writes {template.bos!r} and the vocabulary adds it too: a program that does not look has two "
            "(Cerebellum and llama.cpp look)",
        )  # fmt: skip
    elif not n and template.adds_bos:
        yield TemplateFinding("note", "one BOS", "the template leaves BOS to the vocabulary")


def _system(template: Template, plain: str) -> Iterator[TemplateFinding]:
    text = template.tried([system(), user()], True)
    if text is None:
        yield TemplateFinding("note", "system message", "a system message is refused: put it before the first question")
    elif SYSTEM not in text:
        yield TemplateFinding("error", "system message", "a system message is dropped without a word")
    late = template.tried([user(), answer(), system(), user(AGAIN)], True)
    if late is not None and SYSTEM not in late:
        yield TemplateFinding(
            "warning", "system message", "a system message in mid-conversation is dropped without a word"
        )


def _history(template: Template, plain: str) -> Iterator[TemplateFinding]:
    text = template.tried([user(), answer(), user(AGAIN)], True)
    if text is None:
        yield TemplateFinding("warning", "conversation", "a second question is refused: only one turn can be measured")
        return
    for word, whose in (
        (USER, "the first question"),
        (ANSWER, "the assistant's answer"),
        (AGAIN, "the second question"),
    ):
        if word not in text:
            yield TemplateFinding("error", "conversation", f"{whose} is missing from a conversation of two turns")
    if not text.find(USER) <= text.find(ANSWER) <= text.find(AGAIN):
        yield TemplateFinding("error", "conversation", "the turns are not in their order")


def _roles(template: Template, plain: str) -> Iterator[TemplateFinding]:
    for role, level in (("tool", "note"), ("narrator", "warning")):
        text = template.tried([user(), answer(), {"role": role, "content": OTHER}, user(AGAIN)], True)
        if text is not None and OTHER not in text:
            yield TemplateFinding(
                level,
                "unknown roles",
                f"a message of the role {role!r} is dropped without a word; it should be refused",
            )
        elif text is not None and role == "narrator" and _as_if_user(template, text):
            yield TemplateFinding(
                level, "unknown roles", f"a message of the role {role!r} is shown as if the user had said it"
            )


def _as_if_user(template: Template, text: str) -> bool:
    return text == template.tried([user(), answer(), user(OTHER), user(AGAIN)], True)


def _content(template: Template, plain: str) -> Iterator[TemplateFinding]:
    text = template.tried([user(DELICATE)], True)
    if text is not None and DELICATE not in text:
        yield TemplateFinding(
            "error", "content unchanged", "quotes, marks of HTML, braces or indents in a message come out changed"
        )
    for message, whose in (
        ([user(" qz \n")], "a question"),
        ([user(), answer(" qz \n"), user(AGAIN)], "an earlier answer"),
    ):
        text = template.tried(message, True)
        if text is not None and " qz \n" not in text:
            yield TemplateFinding("note", "content unchanged", f"spaces and line ends around {whose} are cut off")


def _training(template: Template, plain: str) -> Iterator[TemplateFinding]:
    """An answer must follow its prompt as it was, and end with a mark."""
    whole = template.tried([user(), answer()])
    if whole is None or ANSWER not in whole:
        return
    if not whole.startswith(plain):
        yield TemplateFinding(
            "warning", "answer follows its prompt",
            "the text with an answer does not begin with the prompt that asks for it: the answer is not scored as it is written",
        )  # fmt: skip
    if not whole[whole.rindex(ANSWER) + len(ANSWER) :].strip():
        yield TemplateFinding("error", "end of turn", "nothing marks the end of the assistant's turn")


_CHECKS = (_question, _generation_prompt, _bos, _system, _history, _roles, _content, _training)
