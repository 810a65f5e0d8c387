"""Faults of chat templates, planted one by one in a sound one."""

from __future__ import annotations

import pytest

from cerebellum.text.template_lint import Template, lint
from tests import templates


def found(source: str, *, bos: str = "<s>", adds_bos: bool = False) -> set[tuple[str, str]]:
    """(level, check) of every finding but notes."""
    return {(f.level, f.check) for f in lint(Template(source, bos, "</s>", adds_bos)) if f.level != "note"}


@pytest.mark.parametrize("source", [templates.CHATML, templates.LLAMA3, templates.GEMMA, templates.REASONING])
def test_sound_templates_pass(source: str) -> None:
    assert found(source) == set()


MESSAGE = "'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'"


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("{% endfor %}", "{% endfro %}", ("error", "renders")),
        ("{% for", "{{ raise_exception('no') }}{% for", ("error", "renders")),
        ("{% if add_generation_prompt %}", "{% if true %}", ("error", "generation prompt")),
        ("{% if add_generation_prompt %}", "{% if false %}", ("error", "generation prompt")),
        ("{% for", "{{ bos_token + bos_token }}{% for", ("error", "one BOS")),
        ("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}", ("error", "system message")),
        ("{% for message in messages %}", "{% for message in messages[-1:] %}", ("error", "conversation")),
        ("{% for message in messages %}", "{% for message in messages | reverse %}", ("error", "conversation")),
        ("{% for message in messages %}", "{% for message in messages if message.role != 'narrator' %}", ("warning", "unknown roles")),
        ("message['content']", "message['content'] | e", ("error", "content unchanged")),
        ("message['content']", "message['content'] | lower | replace('\\n', ' ')", ("error", "content unchanged")),
        ("message['content']", "'hello'", ("error", "shows the question")),
        ("+ '<|im_end|>' ", "", ("error", "end of turn")),
        ("<|im_start|>assistant", "<|im_start|>bot", ("warning", "answer follows its prompt")),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(old: str, new: str, finding: tuple[str, str]) -> None:
    assert old in templates.CHATML
    assert finding in found(templates.CHATML.replace(old, new))


def test_a_template_that_never_ends_is_an_error() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
    assert found(endless) == {("error", "renders")}


def test_a_template_without_generation_prompt_may_need_none() -> None:
    """Mistral's: an answer begins right behind the question's end mark."""
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
    )
    assert found(source) == set()
