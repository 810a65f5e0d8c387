"""Conversations in the forms that people have; templates that want another form, leave messages out, or never end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cerebellum.domain import Model
from cerebellum.errors import TextError
from cerebellum.llamacpp.protocol import Settings
from cerebellum.testing import FakeBackend, write_fake_model
from cerebellum.text import rendering
from cerebellum.text.chat import TEMPLATE, ChatTemplate, Conversation, ConversationRefused, read_conversations
from tests.templates import CHATML, GEMMA

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FIRST_PART = PARTS.replace(
    "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}", "{{ m.content[0].text }}"
)
USERS_PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'user' %}{{ m.content[0].text }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(Model(Path("m.gguf"), "llama", "", 1, None, 0, (), 0, {TEMPLATE: source}), "<s>", "</s>")


def talk(*messages: Any) -> Conversation:
    return Conversation("here", messages)


@pytest.mark.parametrize("source", [PARTS, FIRST_PART, USERS_PARTS])
def test_content_is_handed_over_in_the_form_that_the_template_shows(source: str) -> None:
    """A plain text would vanish, or be refused."""
    found = template(source).segments(talk(USER, ANSWER))
    assert [(s.text, s.scored) for s in found] == [("<user>Why?<assistant>", False), ("So.", True)]
    assert template(source).prompt([USER]) == "<user>Why?<assistant>"


@pytest.mark.parametrize(
    ("source", "messages", "said"),
    [
        (NO_SYSTEM, [{"role": "system", "content": "Be kind."}, USER, ANSWER], "leaves out message 1, of the role 'system'"),
        (CHATML.replace("message['content']", "''"), [USER, ANSWER], "leaves out message 1, of the role 'user'"),
        (GEMMA, [USER, USER, ANSWER], "roles must alternate"),
        (NO_SYSTEM.replace("system", "tool"), [USER, {"role": "tool", "content": "4"}, ANSWER], "leaves out message 2, .* 'tool'"),
    ],
)  # fmt: skip
def test_a_conversation_that_is_not_shown_whole_is_refused(source: str, messages: list[Any], said: str) -> None:
    with pytest.raises(ConversationRefused, match=said):
        template(source).segments(talk(*messages))
    with pytest.raises(TextError, match=said):
        template(source).prompt(messages[:-1])


def test_one_refused_conversation_is_left_out_and_counted(tmp_path: Path) -> None:
    """Not the file; where all are refused, the first reason is told."""
    write_fake_model(tmp_path / "m.gguf", chat_template=GEMMA)
    long = [USER, {"role": "assistant", "content": "a b c d e f"}]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, [long, [USER, *long], image, long])))
    engine = FakeBackend().open(tmp_path / "m.gguf", Settings(n_ctx=64))
    turns = engine.chat_corpus(read_conversations(path), 64).turns
    assert turns is not None and len(turns.bounds) == 3 and len(turns.refused) == 2 and turns.n_dropped == 0
    path.write_text(json.dumps([USER, USER, ANSWER]))
    with pytest.raises(TextError, match=r"no conversation can be used.*must alternate"):
        engine.chat_corpus(read_conversations(path), 64)
    path.write_text(json.dumps(image))
    with pytest.raises(TextError, match="type 'image_url', which is no text"):
        read_conversations(path)


SHAREGPT = {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SHAREGPT),
        "\ufeff" + json.dumps({"messages": [USER, ANSWER]}) + "\r\n",
        json.dumps([{"messages": [USER, ANSWER]}], indent=2),
        json.dumps([[USER, ANSWER]]),
        json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]}, ANSWER]}),
        json.dumps({"conversations": [USER, ANSWER]}, indent=1),
    ],
)  # fmt: skip
def test_the_forms_of_data_sets_are_read_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(text.encode())
    assert [list(c.messages) for c in read_conversations(path).items] == [[USER, ANSWER]]


def test_a_system_text_beside_sharegpts_list_is_its_first_message(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(json.dumps({"system": "Be kind.", **SHAREGPT}))
    assert read_conversations(tmp_path / "c").items[0].messages[0] == {"role": "system", "content": "Be kind."}


def test_tool_calls_without_content_write_no_none() -> None:
    """Content may be null beside tool calls; a template that prints it gets an empty text, one that asks for null gets null."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    source = CHATML.replace("message['content']", "message['content'] | string")
    assert "None" not in "".join(
        s.text for s in template(source).segments(talk(USER, call, {"role": "tool", "content": "4"}, ANSWER))
    )
    asks = "{% for m in messages %}{% if m.content is none %}CALL{% else %}{{ m.content }}{% endif %}{% endfor %}"
    assert "CALL" in "".join(s.text for s in template(asks).segments(talk(USER, call)))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes longer"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{{ messages[0].role * 10**10 }}", "memory"),
        ("{{ messages | tojson(indent=500000000) }}", "memory|characters"),
        ("{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "characters"),
        ("{% set n = messages | length + 9 %}{{ n ** (n ** 7) }}", "takes longer"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "can't be read|ends the process"),
        ("{{ " + "-" * 100_000 + "1 }}", "can't be read|ends the process"),
        ("{{ 1e5 | int(base=99) }}{{ messages[0].role | int(base=99) + '' }}", "refuses it"),
    ],
)  # fmt: skip
def test_a_template_has_a_clock_and_bounds(source: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error, in seconds, and the next template is rendered."""
    monkeypatch.setattr(rendering, "SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(TextError, match=said):
        template(source).segments(talk(USER, ANSWER))
    assert time.monotonic() - start < 60
    assert template(CHATML).prompt([USER]).startswith("<|im_start|>user\nWhy?")
