"""Questions with given answers: the right one is found by the right rule, and a spoiled key is noticed before anything is asked."""

from __future__ import annotations

import math

import pytest

from cerebellum.errors import EngineError
from cerebellum.evals.choice import ChoiceTask, choice_item, likeliest
from cerebellum.evals.harness_checks import ambiguous, tally, why_unusable
from cerebellum.evals.items import AMBIGUOUS, EMPTY, MERGED, Judged, Reply

ITEM = choice_item("1", "The sea is", ["blue", "made of a great deal of water"], 1)


def replies(*nats: float) -> list[Reply]:
    return [Reply(nats=x, n_tokens=1) for x in nats]


def test_the_sum_prefers_short_answers_and_the_mean_does_not() -> None:
    """-5 nats over 5 bytes, -12 over 30."""
    by_sum, by_byte = ChoiceTask("t", "acc", [ITEM]), ChoiceTask("t", "acc_norm", [ITEM])
    found = by_sum.judge(ITEM, replies(-5.0, -12.0))
    assert found.metrics == {"acc": 0.0, "acc_norm": 1.0} and found.chosen == 0
    assert by_byte.judge(ITEM, replies(-5.0, -12.0)).chosen == 1


def test_of_equals_the_first_is_chosen_and_a_nan_is_an_error() -> None:
    assert likeliest(replies(-1.0, -1.0)) == 0
    with pytest.raises(EngineError, match="no number"):
        likeliest(replies(-1.0, math.nan))


def test_the_self_test_passes_a_sound_key_and_names_a_broken_one() -> None:
    assert set(ChoiceTask("t", "acc_norm", [ITEM]).check().values()) == {""}
    broken = choice_item("2", "The sea is", ["blue", "wet"], 2)
    assert "2 for example" in ChoiceTask("t", "acc", [ITEM, broken]).check()["the key's answer is judged right"]


class Shifted(ChoiceTask):
    """A judge that is off by one, as one is that reads the labels 1 to 4 as 0 to 3."""

    def judge(self, item, replies):  # type: ignore[no-untyped-def]
        moved = {**item.about, "gold": item.about["gold"] - 1}
        return super().judge(type(item)(item.id, item.requests, moved), replies)


def test_the_self_test_notices_a_judge_that_is_off_by_one() -> None:
    assert all(Shifted("t", "acc", [ITEM]).check().values())


def test_alike_answers_are_ambiguous() -> None:
    assert ambiguous(choice_item("3", "It is", ["so", "so"], 0)) == (AMBIGUOUS,)
    assert ambiguous(ITEM) == ()


def counted(n: int, spoiled: int, flag: str = "", problem: str = "") -> object:
    flags = [(flag,) if flag and i < spoiled else () for i in range(n)]
    judged = [Judged({"acc": 1.0}, problem=problem if i < spoiled else "") for i in range(n)]
    return tally([ITEM] * n, [[Reply(flags=f), Reply(flags=f)] for f in flags], judged)


def test_an_item_is_counted_once_and_five_percent_are_tolerated() -> None:
    few, many = counted(100, 5, MERGED), counted(100, 6, MERGED)
    assert few.counts == {MERGED: 5} and few.n_prompt == 5  # type: ignore[attr-defined]
    assert why_unusable(few, [], {}) == ""  # type: ignore[arg-type]
    assert "6 of 100 prompts" in why_unusable(many, [], {})  # type: ignore[arg-type]


def test_unreadable_replies_are_the_files_own_fault_only_where_another_file_could_answer() -> None:
    broken, sound = counted(100, 50, problem=EMPTY), counted(100, 0)
    assert "can't be read" in why_unusable(broken, [], {})  # type: ignore[arg-type]
    assert "can't be read" in why_unusable(broken, [broken], {})  # type: ignore[arg-type,list-item]
    assert why_unusable(broken, [broken, sound], {}) == ""  # type: ignore[arg-type,list-item]


def test_a_failed_self_test_makes_any_score_unusable() -> None:
    assert "off by one" in why_unusable(counted(9, 0), [], {"fine": "", "labels": "off by one"})  # type: ignore[arg-type]
