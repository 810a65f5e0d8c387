"""Conversations: read strictly, rendered as the template says, the assistant's turns found in the rendering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from cerebellum import api
from cerebellum.domain import Chunk, Model, TensorType, Tokens
from cerebellum.errors import InputError, TextError
from cerebellum.llamacpp.protocol import Settings
from cerebellum.study.runner import Split
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.testing.fake_backend import BOS
from cerebellum.text.chat import (
    TEMPLATE,
    ChatTemplate,
    Conversation,
    Conversations,
    Segment,
    read_conversations,
    tokenized,
)
from cerebellum.text.corpus import cut_conversations
from tests.templates import CHATML, GEMMA, LLAMA3, REASONING

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}


def conversation(*turns: str) -> Conversation:
    """``"user: hello"``, ``"assistant: hi"``, …"""
    pairs = [turn.split(": ", 1) for turn in turns]
    return Conversation("chat.jsonl, line 1", tuple({"role": role, "content": content} for role, content in pairs))


TWO_TURNS = conversation("user: Who is there?", "assistant: The fox.", "user: Since when?", "assistant: Since noon.")


def template(source: str) -> ChatTemplate:
    return ChatTemplate(Model(Path("m.gguf"), "llama", "", 1, None, 0, (), 0, {TEMPLATE: source}), "<s>", "</s>")


def stock(source: str, messages: list[Any], prompt: bool = False) -> str:
    """llama-cpp-python's own rendering."""
    formatter = Jinja2ChatFormatter(source, eos_token="</s>", bos_token="<s>", add_generation_prompt=prompt)
    return formatter(messages=messages).prompt


# -- reading -----------------------------------------------------------------------------------------------------------


def test_objects_and_bare_lists_are_read_and_empty_lines_passed_over(tmp_path: Path) -> None:
    """A line separator inside a JSON string ends no line; what else a message holds is kept for the template."""
    path = tmp_path / "chat.jsonl"
    messages = [{"role": "user", "content": "a\u2028b", "name": "x"}, {"role": "assistant", "content": "c"}]
    lines = [json.dumps({"messages": messages, "id": 7}, ensure_ascii=False), "", json.dumps(messages), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = read_conversations(path)
    assert found.name == "chat.jsonl" and [c.where for c in found.items] == [f"{path}, line 1", f"{path}, line 3"]
    assert [list(c.messages) for c in found.items] == [messages, messages]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("7", "has no messages"),
        ('{"text": "a"}', "has no messages"),
        ("[]", "has no messages"),
        ('["a"]', "message 1 is not an object"),
        ('[{"role": "assistant"}]', 'message 1 has no "content"'),
        ('[{"content": "a"}]', 'message 1 has no "role"'),
        ('[{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]', 'message 2 has no "content"'),
        ('[{"role": "user", "content": "a"}]', "no message of the assistant"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text('[{"role": "assistant", "content": "a"}]\n\n' + line)
    with pytest.raises(TextError, match=rf"chat\.jsonl, line 3.* ?{message}"):
        read_conversations(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text("\n\n")
    with pytest.raises(TextError, match="is empty"):
        read_conversations(tmp_path / "chat.jsonl")


# -- rendering ---------------------------------------------------------------------------------------------------------


def test_the_scored_segments_are_what_follows_the_prompts() -> None:
    """Answer and end of turn are scored; question, role and what opens the turn are not."""
    assert template(CHATML).segments(TWO_TURNS) == (
        Segment("<|im_start|>user\nWho is there?<|im_end|>\n<|im_start|>assistant\n", False),
        Segment("The fox.<|im_end|>\n", True),
        Segment("<|im_start|>user\nSince when?<|im_end|>\n<|im_start|>assistant\n", False),
        Segment("Since noon.<|im_end|>\n", True),
    )
    assert [s.text for s in template(LLAMA3).segments(TWO_TURNS) if s.scored] == [
        "The fox.<|eot_id|>", "Since noon.<|eot_id|>",
    ]  # fmt: skip
    assert [s.text for s in template(GEMMA).segments(TWO_TURNS) if s.scored] == [
        "The fox.<end_of_turn>\n", "Since noon.<end_of_turn>\n",
    ]  # fmt: skip


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
turns = st.lists(st.tuples(words, words), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.sampled_from(sorted(TEMPLATES)), st.none() | words, turns, st.booleans())
def test_segments_joined_are_the_whole_rendering(name: str, system: str | None, pairs: Any, asked: bool) -> None:
    """Nothing lost, nothing twice, whatever is said; a question without an answer is left out. Rendered by llama-cpp-python."""
    messages = [] if system is None or name == "gemma" else [{"role": "system", "content": system}]
    for question, answer in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    open_end = [{"role": "user", "content": "and?"}] if asked else []
    segments = template(TEMPLATES[name]).segments(Conversation("here", (*messages, *open_end)))
    assert "".join(s.text for s in segments) == stock(TEMPLATES[name], messages)
    assert sum(s.scored for s in segments) == len(pairs)
    assert segments[0].text == stock(TEMPLATES[name], messages[: len(messages) - 2 * len(pairs) + 1], True)


def test_turns_that_the_template_rewrites_later_are_not_scored() -> None:
    """A reasoning model's template strips earlier thoughts: only the last answer stands as the model wrote it."""
    thoughts = conversation(
        "user: one?", "assistant: <think>x</think>yes", "user: two?", "assistant: <think>y</think>no"
    )
    segments = template(REASONING).segments(thoughts)
    assert [s.text for s in segments if s.scored] == ["<think>y</think>no<|end|>"]
    assert segments[0].text == stock(REASONING, [dict(m) for m in thoughts.messages[:3]], True)


def test_a_prompt_that_the_rendering_leaves_is_scored_from_where_they_part() -> None:
    """The prompt opens a thought that the answer doesn't have: role and turn opening are still not scored."""
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>[think]{% endif %}"
    )
    assert template(source).segments(conversation("user: a", "assistant: b")) == (
        Segment("<user>a<assistant>", False), Segment("b", True),
    )  # fmt: skip


def test_an_answer_that_is_not_at_the_end_is_refused_by_line() -> None:
    source = "{% for m in messages | reverse %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(TextError, match=r"line 1: .* does not put message 2"):
        template(source).segments(conversation("user: a", "assistant: b"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[5].content.strip() }}", "no element 5"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages.append(1) }}", "immutable|unsafe|not safely"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_refuses_or_may_not_do(source: str, said: str) -> None:
    with pytest.raises(TextError, match=rf"line 1: the model's chat template refuses it \(.*({said})"):
        template(source).segments(TWO_TURNS)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(TextError, match=r"line 1.*surrogates"):
        template(CHATML).segments(conversation("user: a", "assistant: \ud800"))


def test_models_without_a_template_or_with_a_broken_one() -> None:
    for source, said in (
        ("", r"m\.gguf has no chat template.*without --chat"),
        ("{% if %}", "chat template of m.gguf"),
    ):
        with pytest.raises(TextError, match=said):
            template(source)


def test_templates_get_what_hugging_face_gives() -> None:
    """JSON without HTML escapes, `none` tools, loop controls, generation marks, and a date that stays."""
    source = (
        "{{ bos_token }}{{ {'a': '<é>'} | tojson }}{{ eos_token }}{% if tools is not none %}T{% endif %}{{ strftime_now('%Y-%m-%d') }}"
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    found = "".join(s.text for s in template(source).segments(conversation("assistant: x")))
    assert found == '<s>{"a": "<é>"}</s>2025-01-01x'


# -- tokens ------------------------------------------------------------------------------------------------------------


def letters(text: str) -> Tokens:
    """A token a letter, a double letter is one token, and a text begins with a token of its own."""
    ids: list[int] = [1000] if text else []
    for letter in text:
        if ids and ids[-1] == ord(letter):
            ids[-1] = -ord(letter)
        else:
            ids.append(ord(letter))
    return np.array(ids, np.int32)


def test_tokens_are_those_of_the_whole_unless_one_would_span_two_segments() -> None:
    """What a vocabulary puts before a text stands before the first segment only."""
    tokens, scored = tokenized([Segment("ab", False), Segment("cd", True)], letters, None)
    assert tokens.tolist() == letters("abcd").tolist() and scored.tolist() == [False] * 3 + [True] * 2
    tokens, scored = tokenized([Segment("ab", False), Segment("bd", True)], letters, None)
    assert tokens.tolist() == [1000, 97, 98, 1000, 98, 100] and scored.tolist() == [False] * 3 + [True] * 3


def test_bos_comes_first_once() -> None:
    for wanted in (1000, None):
        assert tokenized([Segment("a", True)], letters, wanted)[0].tolist() == [1000, 97]
    tokens, scored = tokenized([Segment("a", True)], letters, 5)
    assert tokens.tolist() == [5, 1000, 97] and scored.tolist() == [False, True, True]
    assert tokenized([], letters, None)[0].tolist() == []


def parts(*marks: str) -> list[tuple[Tokens, Any]]:
    """``"-xx"``: three tokens, the last two scored."""
    return [(np.arange(len(m), dtype=np.int32) + 10, np.array([c == "x" for c in m])) for m in marks]


def test_a_conversation_is_a_chunk_cut_and_counted() -> None:
    """Past the context, after the last scored token and in front of everything there is nothing to score."""
    corpus = cut_conversations("c", "sha", parts("--xx--", "x", "----x", "xx", "-x-xx"), 4)
    assert [c.tokens.tolist() for c in corpus.chunks(range(corpus.n_chunks))] == [
        [10, 11, 12, 13],
        [10, 11],
        [10, 11, 12, 13],
    ]
    assert [c.wanted().tolist() for c in corpus.chunks(range(3))] == [
        [False, True, True, False], [True, False], [True, False, True, False],
    ]  # fmt: skip
    assert corpus.turns is not None and (corpus.turns.n_cut, corpus.turns.n_dropped) == (2, 2)
    assert corpus.bos is None and Split("s", corpus, (1, 2)).n_tokens == 6
    with pytest.raises(IndexError):
        corpus.chunk(3)
    with pytest.raises(TextError, match="c has no assistant's word within 2 tokens"):
        cut_conversations("c", "sha", parts("--x"), 2)


def test_the_hash_covers_tokens_bounds_and_mask() -> None:
    base = parts("-x-x", "-x")
    one = [(np.concatenate([a for a, _ in base]), np.concatenate([b for _, b in base]))]
    other = [(base[0][0] + 1, base[0][1]), base[1]]
    made = [base, one, other, parts("-xxx", "-x")]
    assert len({cut_conversations("c", "sha", each, 8).tokens_sha256 for each in made}) == 4
    assert cut_conversations("c", "sha", base, 8) == cut_conversations("c", "sha", parts("-x-x", "-x"), 8)


@given(st.integers(2, 99))
def test_without_a_mask_the_second_half_is_wanted(n: int) -> None:
    """Positions n // 2 … n - 2, as llama-perplexity."""
    wanted = Chunk(0, np.zeros(n, np.int32)).wanted()
    assert np.flatnonzero(wanted).tolist() == list(range(n // 2, n - 1))


# -- the job on the fake backend -----------------------------------------------------------------------------------------

GATE = TensorType("blk.1.ffn_gate.weight", "Q2_K")


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    write_fake_model(tmp_path / "model.gguf", chat_template="{{ bos_token }} " + CHATML)
    write_fake_model(tmp_path / "plain.gguf")
    lines = []
    for i in range(40):
        said = " ".join(f"word{i * j}" for j in range(3 + i % 9))
        messages = [{"role": "user", "content": f"about {i} ?"}, {"role": "assistant", "content": said}] * (1 + i % 3)
        lines.append(json.dumps({"messages": messages}))
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    return tmp_path


def run(ground: Path, **more: Any) -> Any:
    backend = FakeBackend({TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.04), GATE: Effect(nll=0.2, kld=0.05)})
    options: dict[str, Any] = {"out": ground / "out", "text": ground / "chat.jsonl", "chat": True, "ctx": 32}
    return api.choose(ground / "model.gguf", backend=backend, **(options | more))


def test_a_run_on_conversations(ground: Path) -> None:
    """Chosen, proven, reported; the report says what was scored and what was cut."""
    result = run(ground, allow=0.06)
    assert result.written is not None and result.written.equal_chunks == 20
    facts = result.facts["splits"]["search"]
    assert facts["n_chunks"] == 20 and facts["conversations"]["dropped"] == 0 and facts["conversations"]["cut"] > 0
    told = (ground / "out" / "report.md").read_text()
    assert "assistant turns of conversations 0 to 19 (20 of at most 32 tokens; of the text's" in told
    assert "second half" not in told


def test_the_floor_of_short_conversations_takes_smaller_batches(ground: Path) -> None:
    """What a long context would suggest would hold each of them whole, as the figures' own batches do, and show nothing."""
    result = run(ground, ctx=2048, n_random=0)
    engine = FakeBackend().open(ground / "model.gguf", Settings(n_ctx=2048))
    talks = read_conversations(ground / "chat.jsonl")
    longest = max(len(chunk.tokens) for chunk in engine.chat_corpus(talks, 2048).chunks(range(4)))
    assert 8 < longest < 128 and result.noise.changes[0].change == "batches of 4 tokens"


def test_a_race_on_conversations_counts_their_tokens(ground: Path) -> None:
    """A budget in tokens buys conversations at their mean length, which is under the context's."""
    with pytest.raises(InputError, match=r"(\d+) tokens \(--budget-tokens\) for their first look") as caught:
        run(ground, budget_tokens=10)
    least = int(str(caught.value).split(" trials need ")[1].split(" ")[0].replace(",", ""))
    assert least < 4 * 6 * 32
    race = run(ground, budget_tokens=least).sweep.race
    assert race is not None and race.n_chunks == 4 * 6


def test_one_conversation_can_not_both_choose_and_report(ground: Path) -> None:
    one = ground / "one.jsonl"
    one.write_text((ground / "chat.jsonl").read_text().split("\n")[0])
    with pytest.raises(TextError, match="only 1 conversation; two must choose"):
        run(ground, text=one)
    with pytest.raises(TextError, match="only one chunk"):
        run(ground, report_text=one)
    assert api.perplexity(ground / "model.gguf", one, chat=True, ctx=32, backend=FakeBackend()).chunks == 1


def test_conversations_need_a_text_and_a_template(ground: Path) -> None:
    with pytest.raises(InputError, match="--chat needs --text"):
        run(ground, text=None)
    with pytest.raises(TextError, match=r"plain\.gguf has no chat template"):
        api.perplexity(ground / "plain.gguf", ground / "chat.jsonl", chat=True, backend=FakeBackend())


def test_the_fake_scores_the_assistants_words(ground: Path) -> None:
    """As many tokens as its turns have words, and `<s>` is BOS."""
    engine = FakeBackend().open(ground / "model.gguf", Settings(n_ctx=64))
    corpus = engine.chat_corpus(Conversations("c", "sha", (conversation("user: a", "assistant: one two three"),)), 64)
    (score,) = engine.score((), corpus.chunks([0]))
    assert score.n_tokens == 3 and corpus.tokens[0] == BOS
