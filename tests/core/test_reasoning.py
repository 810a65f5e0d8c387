"""Drafts are no answers: what stands outside the reasoning is found in the marks of every family."""

from __future__ import annotations

import time

import pytest

from cerebellum.evals.reasoning import answer_of

DRAFT, ANSWER = "def f(x):\n    return 0\n", "def f(x):\n    return 1\n"
NAMES = [
    "think", "thinking", "thought", "thoughts", "reasoning", "reason", "reflection", "analysis", "scratchpad", "seed:think", "mm:think",
    "longcat_think", "ant_thinking", "inner_monologue", "chain_of_thought", "internal_thoughts", "cot", "Think", "THINKING", "think_fast",
]  # fmt: skip
PAIRS = [
    *((f"<{name}>\n", f"\n</{name}>\n\n") for name in NAMES),
    *((f"<|{name}|>", f"<|/{name}|>") for name in NAMES[:5]),
    ("[THINK]", "[/THINK]"), ("[REASONING]", "[/REASONING]"), ("◁think▷", "◁/think▷"), ("<think mode=\"x\">", "</think >"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>\n"),
    ("<|inner_prefix|>", "<|inner_suffix|>"), ("<｜begin▁of▁thought｜>", "<｜end▁of▁thought｜>"), ("<|thought_start|>", "<|thought_end|>"),
    ("<|channel>thought\n", "<channel|>"), ("<unused94>thought\n", "<unused95>"),
    ("<think>", "</think>\n<answer>\n"),
]  # fmt: skip
WHOLE = [
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>"
     "<|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>final<|message|>A<|end|><|start|>assistant<|channel|>analysis<|message|>", "<|end|><|channel|>final<|message|>"),
    ("analysisWe need a function", "assistantfinal"),
    ("Here is my thought process:", "Here is my response:"), ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
]  # fmt: skip


@pytest.mark.parametrize(("opened", "closed"), [*PAIRS, *WHOLE])
def test_the_answer_is_what_follows_the_reasoning(opened: str, closed: str) -> None:
    """A reply that is cut off inside has no answer."""
    assert answer_of(opened + DRAFT + closed + ANSWER).text.strip() == ANSWER.strip()
    cut = answer_of(opened + DRAFT)
    assert (cut.text, cut.ended) == ("", False)


@pytest.mark.parametrize(("opened", "closed"), PAIRS)
def test_the_prompt_may_have_opened_the_reasoning(opened: str, closed: str) -> None:
    """Then the closing mark stands alone; without it there is no answer, and after an empty thought there is."""
    for prompt in ("", f"<|im_start|>assistant\n{opened}\n"):
        assert answer_of(DRAFT + closed + ANSWER, prompt).text.strip() == ANSWER.strip()
    assert not answer_of(DRAFT, f"assistant\n{opened}").ended
    assert answer_of(ANSWER, f"assistant\n{opened}\n\n{closed}").text == ANSWER


def test_a_channel_may_be_opened_by_the_prompt() -> None:
    assert not answer_of("hm", "<|channel|>analysis<|message|>").ended
    assert answer_of("C<|return|>", "<|channel|>final<|message|>").text == "C"


@pytest.mark.parametrize(
    "reply",
    ["", "A", ANSWER, "    return x < 1 and y > 2\n", "I think that <b> is", "It is C. [think]", "x = '<channel>'", "analysis = 3\n",
     "analysis\nof x", "x[THING]", "<answer>C</answer>", "a < think > b", "<thinker>", "d['<draft'] > 3", "x = [THINK_MORE]\n"],
)  # fmt: skip
def test_a_reply_without_reasoning_stays_to_the_last_letter(reply: str) -> None:
    found = answer_of(reply, "<|im_start|>assistant\n")
    assert (found.text, found.ended) == (reply, True)


@pytest.mark.parametrize(
    "reply",
    ["<think a=" + " " * 50_000, "<" * 50_000, "<a_" * 30_000, "[" * 50_000, "<|channel|>" * 20_000, "<begin" + "_" * 50_000,
     "<|channel|>analysis" + "x" * 50_000, "<|channel|>analysis " * 8000, "<" + "a_" * 50_000, "<" + "_think" * 20_000],
)  # fmt: skip
def test_no_reply_takes_long(reply: str) -> None:
    start = time.process_time()
    answer_of(reply)
    assert time.process_time() - start < 5
