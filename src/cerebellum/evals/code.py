"""Functions to write: the reply is made a program, the program is run against the item's tests in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cerebellum.evals.choice import mean
from cerebellum.evals.code_answers import program
from cerebellum.evals.items import EMPTY, UNFINISHED, UNPARSABLE, Item, Judged, Reply, Write
from cerebellum.evals.reasoning import answer_of
from cerebellum.stats.paired import pass_at_k

#: Share of the items that a file may lose on code: five points.
MARGIN = 0.05
#: How many of a task's own solutions are run before scoring, evenly spread over the set.
N_CHECKED = 12
#: A body that solves nothing, in the indentation of all of HumanEval's prompts.
WRONG = "    return NotImplemented\n"
#: Temperature of the draws where several are asked for.
TEMPERATURE = 0.2


class Runner(Protocol):
    """What a sandbox does for a task: run ``source`` against ``tests``."""

    def run(self, source: str, tests: str, entry_point: str) -> Any:
        """An outcome with ``passed`` and ``reason``."""
        ...

    def describe(self) -> str: ...


def code_item(row: Mapping[str, Any], prompt: str, *, stop: Sequence[str], max_tokens: int, n: int, chat: bool) -> Item:
    """An item in HumanEval's fields, asked ``n`` times: greedily once, else at `TEMPERATURE`."""
    temperature = 0.0 if n == 1 else TEMPERATURE
    requests = tuple(Write(prompt, tuple(stop), max_tokens, temperature, sample, chat) for sample in range(n))
    kept = ("prompt", "test", "entry_point", "canonical_solution")
    return Item(str(row["task_id"]), requests, {name: row[name] for name in kept if name in row} | {"chat": chat})


@dataclass(frozen=True)
class CodeTask:
    """See `cerebellum.evals.items.Task`. ``metric`` is "pass@1"; with several draws pass@k for the k that divide well is there too.

    Its facts say on how many items of how many the self-test tries it.
    """

    name: str
    items: Sequence[Item]
    sandbox: Runner
    facts: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "pass@1"
    margin: float = MARGIN

    def __post_init__(self) -> None:
        tried = {"items": len(self._tried), "of": len(self.items)}
        object.__setattr__(self, "facts", {**self.facts, "self_tested": tried})

    @property
    def _tried(self) -> list[Item]:
        return spread([item for item in self.items if "canonical_solution" in item.about], N_CHECKED)

    def judge(self, item: Item, replies: Sequence[Reply]) -> Judged:
        prompt = item.requests[0].prompt if isinstance(item.requests[0], Write) else ""
        tried = [self._try(item, prompt, reply.text) for reply in replies]
        n, right = len(tried), sum(passed for passed, *_ in tried)
        metrics = {f"pass@{k}": pass_at_k(n, right, k) for k in sizes(n)}
        problems = [problem for _, problem, _ in tried]
        spoiled = next((p for p in problems if p), "") if all(problems) else ""
        return Judged(
            metrics, replies[0].text if n == 1 else f"{right} of {n}", spoiled, "; ".join(t[2] for t in tried)
        )

    def _try(self, item: Item, asked: str, text: str) -> tuple[bool, str, str]:
        """(passed, problem, detail) of one reply to the prompt ``asked``."""
        about, reply = item.about, answer_of(text, asked)
        if not reply.ended:
            return False, UNFINISHED, UNFINISHED
        answer = program(about["prompt"], reply.text, about["entry_point"], about["chat"])
        if answer.problem:
            return False, EMPTY if answer.problem == EMPTY else UNPARSABLE, answer.problem
        outcome = self.sandbox.run(answer.source, about["test"], about["entry_point"])
        return bool(outcome.passed), "", str(outcome.reason)

    def score(self, metric: str, values: Sequence[Any]) -> float:
        return mean(values)

    def check(self) -> Mapping[str, str]:
        """The task's own solutions, as a model would write them, pass; an empty reply and one that does nothing don't. On `N_CHECKED`."""
        some = self._tried
        failed = [i.id for i in some if not self._passes(i, i.about["canonical_solution"])]
        fenced = [i.id for i in some if not self._passes(i, _in_chat(i), chat=True)]
        empty = [i.id for i in some if self._passes(i, "")]
        wrong = [i.id for i in some if self._passes(i, WRONG)]
        sentence = "{} of {} don't, {} for example"
        return {
            "the task's own solutions pass": sentence.format(len(failed), len(some), failed[0]) if failed else "",
            "and in a chat's code block": sentence.format(len(fenced), len(some), fenced[0]) if fenced else "",
            "an empty reply fails": f"it passes {empty[0]}" if empty else "",
            "a wrong solution fails": f"it passes {wrong[0]}" if wrong else "",
        }

    def _passes(self, item: Item, text: str, *, chat: bool = False) -> bool:
        asked = Item(item.id, item.requests[:1], {**item.about, "chat": chat})
        return bool(self.judge(asked, [Reply(text=text)]).metrics[self.metric] == 1.0)


def spread(items: Sequence[Item], n: int) -> list[Item]:
    """``n`` of the items, the first, the last and evenly spaced ones between; all where they aren't more."""
    if len(items) <= n:
        return list(items)
    return [items[round(i * (len(items) - 1) / (n - 1))] for i in range(n)]


def _in_chat(item: Item) -> str:
    return f"Here it is:\n\n```python\n{item.about['prompt']}{item.about['canonical_solution']}```\n"


def sizes(n: int) -> list[int]:
    """1, 10, 100 … up to ``n`` draws, and ``n`` itself."""
    return sorted({10**i for i in range(len(str(n))) if 10**i <= n} | {n})
