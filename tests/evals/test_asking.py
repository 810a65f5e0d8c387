"""Requests become the right tokens, replies come back in order, and nothing is computed twice."""

from __future__ import annotations

import numpy as np
import pytest

from cerebellum.errors import EngineDied
from cerebellum.evals import asking
from cerebellum.evals.asking import Asker, rolling, split_spaces
from cerebellum.evals.items import MERGED, SPACE, TRUNCATED, Likely, Request, Rolling, Write
from cerebellum.llamacpp.generate.protocol import Continuation, Prompt
from tests.evals.toy import BOS, EOS, FIRST, Toy, nats_of


class Book:
    """A memory that can be looked into."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def known(self) -> dict[str, str]:
        return dict(self.kept)

    def keep(self, request: str, answer: str) -> None:
        self.kept[request] = answer


def test_context_and_continuation_are_asked_apart_and_summed() -> None:
    toy = Toy()
    (reply,) = Asker(toy).ask([Likely("Question: why?\nAnswer:", " because")])
    assert reply.nats == nats_of("Question: why?\nAnswer:", " because")
    assert reply.n_tokens == len(" because") and reply.flags == ()
    (asked,) = toy.asked
    assert isinstance(asked, Continuation) and asked.context[0] == BOS and BOS not in asked.continuation


def test_replies_stand_in_the_order_of_the_requests() -> None:
    """The toy answers backwards."""
    requests = [Likely("a", f" {word}") for word in "one two three four".split()]
    assert [r.nats for r in Asker(Toy()).ask(requests)] == [nats_of("a", r.continuation) for r in requests]


def test_a_space_at_the_end_of_a_prompt_moves_and_is_told() -> None:
    toy = Toy()
    (reply,) = Asker(toy).ask([Likely("Answer: ", "yes")])
    assert reply.nats == nats_of("Answer:", " yes") and reply.flags == (SPACE,)
    assert split_spaces("a \n", "b") == ("a", " \nb")
    assert Asker(Toy()).ask([Write("def f(): ", ("\n",), 8)])[0].flags == (SPACE,)


def test_an_answer_that_merges_with_its_prompt_is_told() -> None:
    """The tokens of the prompt alone aren't the beginning of the tokens of both."""
    assert Asker(Toy(merges=True)).ask([Likely("Answer:", " yes")])[0].flags == (MERGED,)
    assert Asker(Toy(merges=False)).ask([Likely("Answer:", " yes")])[0].flags == ()
    swallowed = Asker(Toy(merges=True)).ask([Likely("Answer:", " ")])[0]
    assert swallowed.flags == (MERGED,) and swallowed.n_tokens == 1


def test_a_prompt_that_does_not_fit_is_told() -> None:
    (reply,) = Asker(Toy(n_ctx=8)).ask([Likely("a long question", " yes")])
    assert reply.flags == (TRUNCATED,) and reply.n_cut == len("<a long question yes") - 8


def test_without_a_context_bos_stands_before_and_without_bos_the_end_of_a_text() -> None:
    for bos, first in ((BOS, BOS), (None, EOS)):
        toy = Toy(bos=bos)
        Asker(toy).ask([Likely("", "yes")])
        (asked,) = toy.asked
        assert isinstance(asked, Continuation)
        assert asked.context.tolist() == [first] and toy.text(asked.continuation) == "yes"


def test_a_chat_prompt_has_one_bos_and_a_plain_one_reads_no_special_tokens() -> None:
    toy = Toy()
    Asker(toy).ask([Write("<s>[user]hi", (), 4, chat=True), Write("<s>hi", (), 4)])
    plain, chat = sorted(toy.asked, key=lambda asked: len(toy.text(asked.tokens)))  # type: ignore[union-attr]
    assert isinstance(chat, Prompt) and isinstance(plain, Prompt)
    assert chat.tokens.tolist().count(BOS) == 1 and plain.tokens.tolist()[1] == FIRST + ord("<")


def test_equal_requests_are_computed_once_and_samples_apart() -> None:
    toy = Toy()
    Asker(toy).ask([Likely("a", " b"), Likely("a", " b"), Write("p", (), 9, 0.5, 0), Write("p", (), 9, 0.5, 1)])
    assert toy.n_answered == 3


def test_what_was_answered_before_the_end_is_not_asked_again() -> None:
    requests: list[Request] = [*(Likely("q", f" {i}") for i in range(10)), Rolling("a whole text"), Write("p", (), 9)]
    whole, book = Asker(Toy()).ask(requests), Book()
    dying = Toy(dies_after=7)
    with pytest.raises(EngineDied):
        Asker(dying, book).ask(requests)
    assert len(book.kept) == 7
    fresh = Toy()
    assert Asker(fresh, book).ask(requests) == whole
    assert Asker(Toy(dies_after=0), book).ask(requests) == whole


def test_a_broken_batch_is_asked_again_as_a_whole_and_a_whole_one_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands beside a request may move the last digits of its answer: each is computed among the same neighbours, always."""
    monkeypatch.setattr(asking, "LIKELY_TOGETHER", 4)
    requests = [Likely(f"question {i}", f" {i}") for i in range(10)]
    whole, dying, fresh, book = Toy(), Toy(dies_after=6), Toy(), Book()
    Asker(whole).ask(requests)
    with pytest.raises(EngineDied):
        Asker(dying, book).ask(requests)
    assert len(book.kept) == 6
    Asker(fresh, book).ask(requests)
    assert [len(batch) for batch in whole.batches] == [4, 4, 2]
    assert fresh.batches == whole.batches[1:] and len(book.kept) == 10


def test_requests_that_begin_alike_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LIKELY_TOGETHER", 4)
    toy = Toy()
    Asker(toy).ask([Likely(f"shared {i % 3}", f" {i}") for i in range(12)])
    assert [{toy.text(context) for context in batch} for batch in toy.batches] == [
        {"shared 0"},
        {"shared 1"},
        {"shared 2"},
    ]


def test_the_key_knows_where_the_context_ends() -> None:
    """The same tokens split elsewhere are another question."""
    book = Book()
    Asker(Toy(), book).ask(
        [Likely("ab", "cd"), Likely("abc", "d"), Write("abcd", (), 3), Write("abcd", (), 4), Write("abcd", ("x",), 4)]
    )
    assert len(book.kept) == 5


@pytest.mark.parametrize(("n", "n_ctx"), [(1, 8), (7, 8), (8, 8), (15, 8), (22, 8), (5, 2)])
def test_rolling_windows_predict_each_token_once_with_what_fits_before_it(n: int, n_ctx: int) -> None:
    """Cut as lm-evaluation-harness cuts them, with windows one shorter: its models predict past their context's last token."""
    utils = pytest.importorskip("lm_eval.utils", reason="needs the bench extra")
    tokens = np.arange(10, 10 + n, dtype=np.int32)
    ours = [(c.context.tolist(), c.continuation.tolist()) for c in rolling(tokens, np.array([BOS], np.int32), n_ctx)]
    windows = utils.get_rolling_token_windows(tokens.tolist(), BOS, n_ctx - 1, 1)
    theirs = [utils.make_disjoint_window(pair) for pair in windows]
    assert [t for _, c in ours for t in c] == tokens.tolist()
    assert [c for _, c in ours] == [c for _, c in theirs]
    assert [context[-1] for context, _ in ours] == [context[-1] for context, _ in theirs]
    assert all(len(a) + len(b) <= n_ctx for a, b in ours)
    assert all(len(a) + len(b) == n_ctx for a, b in ours[1:])


def test_a_whole_text_is_the_sum_of_its_windows_and_an_empty_one_nothing() -> None:
    text, toy = "once upon a time", Toy()
    assert Asker(toy).ask([Rolling(text), Rolling("")])[0].nats == nats_of("", text)
    assert Asker(Toy()).ask([Rolling("")])[0].nats == 0.0
