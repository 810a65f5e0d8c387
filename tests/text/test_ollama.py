"""Modelfiles: parsed by the rules of Ollama's documentation, their templates run by a small reader of the Go template language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cerebellum.errors import InputError
from cerebellum.text.ollama import modelfile, turns_of
from cerebellum.text.template_lint import Template
from tests import templates

DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def parse(text: str) -> list[tuple[str, str]]:
    """Instructions and their arguments; three quotes hold several lines. Raises `AssertionError` for what is no instruction."""
    found, rest = [], text
    while rest.strip():
        match = re.match(r'\s*([A-Z]+) (?:"""(.*?)"""|([^\n]*))(?:\n|$)', rest, re.DOTALL)
        assert match and match[1] in ("FROM", "TEMPLATE", "SYSTEM", "PARAMETER", "LICENSE"), rest[:80]
        found.append((match[1], match[2] if match[2] is not None else match[3]))
        rest = rest[match.end() :]
    return found


def go(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Runs what our templates use: text, `range .Messages`, `if eq .Role`, `.Content`, a quoted string."""
    head, rest = template.split("{{ range .Messages }}")
    body, _, tail = rest.rpartition("{{ end }}{{ end }}")
    cases = dict(re.findall(r'(?:if|else if) eq \.Role "(\w+)" }}(.*?)(?={{ else if|\Z)', body, re.DOTALL))
    shown = "".join(cases.get(m["role"], "").replace("{{ .Content }}", m["content"]) for m in messages)
    return re.sub(r'{{ "(.*?)" }}', r"\1", head + shown + tail)


TALK = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    "source", [templates.CHATML, templates.LLAMA3, templates.GEMMA, templates.REASONING, DEFAULT_SYSTEM]
)
def test_the_template_writes_what_the_model_s_own_does(source: str, adds_bos: bool) -> None:
    """BOS aside, where Ollama's tokenizer adds it."""
    template = Template(source, "<bos>", "</s>", adds_bos)
    parts = dict(parse(modelfile(Path("m.gguf"), template, ["</s>"], 4096).text))
    given = [{"role": "system", "content": parts["SYSTEM"]}] if "SYSTEM" in parts else []
    for talk in (TALK[:1], TALK):
        own = template.render(talk, True)
        assert go(parts["TEMPLATE"], [*given, *talk]) == (own.removeprefix("<bos>") if adds_bos else own)


def test_a_default_system_message_becomes_one_of_the_modelfile() -> None:
    text = modelfile(Path("m.gguf"), Template(DEFAULT_SYSTEM, "", "", False), [], None).text
    assert ("SYSTEM", "Be kind") in parse(text)


def test_stop_words_are_the_end_marks() -> None:
    text = modelfile(Path("m.gguf"), Template(templates.GEMMA, "<bos>", "<eos>", True), ["<eos>", "<eos>"], 4096).text
    assert [value for name, value in parse(text) if name == "PARAMETER"] == [
        'stop "<eos>"',
        'stop "<end_of_turn>"',
        "num_ctx 4096",
    ]


def test_what_a_terminal_would_obey_is_not_carried_over() -> None:
    """Without --out a Modelfile goes to the terminal: neither a template nor a stop word brings it sequences or other lines."""
    evil = templates.CHATML.replace("<|im_end|>", "<|im_end|>\x1b]52;c;eA==\x07")
    made = modelfile(Path("m.gguf"), Template(evil, "", "", False), ["<eos>", "\x1b[2J", "a\nFROM x", "\u202e"], None)
    assert dict(parse(made.text)).keys() == {"FROM", "PARAMETER"} and "<eos>" in made.text
    assert all(c == "\n" or c.isprintable() for c in made.text) and made.notes


def test_an_irregular_template_is_not_converted_and_that_is_told() -> None:
    odd = templates.CHATML.replace("message['content']", "message['content'] + (loop.index | string)")
    assert turns_of(Template(odd, "", "", False)) is None
    made = modelfile(Path("m.gguf"), Template(odd, "", "", False), [], None)
    assert "TEMPLATE" not in dict(parse(made.text)) and "no TEMPLATE" in made.notes[0]


def test_braces_of_a_template_are_text() -> None:
    source = templates.CHATML.replace("<|im_start|>", "<{{im}}>").replace(
        "{{ '<{{im}}>'", "{{ '<' + '{' + '{im}' + '}>'"
    )
    source = source.replace("{{ '<{{im}}>assistant\\n' }}", "{{ '<' + '{' + '{im}' + '}>assistant\\n' }}")
    template = Template(source, "", "", False)
    assert "{{im}}" in template.render(TALK[:1], True)
    parts = dict(parse(modelfile(Path("m.gguf"), template, [], None).text))
    assert go(parts["TEMPLATE"], TALK) == template.render(TALK, True)


@pytest.mark.parametrize("name", ["a\nFROM b.gguf", " m.gguf", "m\x1b.gguf"])
def test_a_file_name_that_no_line_holds_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="rename"):
        modelfile(Path(name), None, [], None)


def test_a_relative_file_begins_with_a_dot() -> None:
    assert parse(modelfile(Path("m.gguf"), None, [], None).text) == [("FROM", "./m.gguf")]
    assert parse(modelfile(Path("/a/m.gguf"), None, [], None).text) == [("FROM", "/a/m.gguf")]
