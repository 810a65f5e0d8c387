"""lm-evaluation-harness's tasks as ours: it makes the prompts and judges the replies, we ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from cerebellum.errors import CerebellumError, InputError, TextError
from cerebellum.evals.asking import Render
from cerebellum.evals.choice import MARGIN, check_choices, mean
from cerebellum.evals.harness import quiet
from cerebellum.evals.harness_metric import settled
from cerebellum.evals.items import EMPTY, UNFINISHED, UNPARSABLE, Item, Judged, Likely, Reply, Request, Rolling, Write
from cerebellum.evals.reasoning import answer_of

#: The harness's own seed for drawing examples, and how much it lets a task write that doesn't say.
FEWSHOT_SEED, MAX_TOKENS = 1234, 256
#: What its filters give where they find no answer.
INVALID = "[invalid]"


class HarnessTask:
    """See `cerebellum.evals.items.Task`. Several task objects (MMLU's subjects) are one task, their items side by side."""

    margin = MARGIN

    def __init__(
        self,
        name: str,
        tasks: Sequence[Any],
        metric: str,
        facts: Mapping[str, Any],
        limit: int | None,
        render: Render | None,
    ) -> None:
        """``limit``: so many items in all, taken from the several in turn."""
        self.name = name
        self.facts: dict[str, Any] = {**facts, "chat": render is not None, "shots": tasks[0].config.num_fewshot or 0}
        self._instances: dict[str, tuple[Any, Any, list[Any]]] = {}
        self.facts |= {"questions": sum(len(task.eval_docs) for task in tasks), "sets": len(tasks)}
        self._aggregation = tasks[0].aggregation()
        each = None if limit is None else -(-limit // len(tasks))
        with quiet():
            rows = [self._built(task, len(tasks) > 1, each, render) for task in tasks]
        turns = (item for turn in zip_longest(*rows) for item in turn if item is not None)
        self.items: Sequence[Item] = list(turns)[:limit]
        if chance := chance_of(self.items):
            self.facts["chance"] = chance
        self.metric = self._settled(metric) if self.items else metric

    def _built(self, task: Any, several: bool, limit: int | None, render: Render | None) -> list[Item]:
        """Raises `InputError` where the harness can't make the prompts."""
        try:
            return list(self._made(task, several, limit, render))
        except CerebellumError:
            raise
        except Exception as error:  # a task's own code may raise anything
            shots = task.config.num_fewshot
            fewer = f"it was asked for {shots} examples before each question, try fewer --shots, or " if shots else ""
            raise InputError(
                f"{self.name}: lm-evaluation-harness can't make its prompts ({type(error).__name__}: {error}); {fewer}leave the task out"
            ) from error

    def _made(self, task: Any, several: bool, limit: int | None, render: Render | None) -> Iterable[Item]:
        task.set_fewshot_seed(FEWSHOT_SEED)
        for number, doc in task.doc_iterator(limit=limit):
            instances = instances_of(task, number, doc, render)
            name = f"{task.config.task}/{number}" if several else str(number)
            self._instances[name] = task, doc, instances
            requests = tuple(r for i in instances for r in requests_of(i, render is not None))
            yield Item(name, requests, _about(task, doc))

    def _settled(self, metric: str) -> str:
        """What a judgement holds is known only by judging: the first item of each task object, on replies made up."""
        first = {id(task): (task, item) for item in reversed(self.items) for task in self._instances[item.id][:1]}
        judged = []
        for task, item in first.values():
            gold = item.about["gold"]
            text = gold if isinstance(gold, str) else "1"
            replies = [Reply(nats=-1.0 - n, n_tokens=1, text=text) for n in range(len(item.requests))]
            judged.append((task, self.judge(item, replies).metrics))
        return settled(self.name, metric, judged[::-1])

    def judge(self, item: Item, replies: Sequence[Reply]) -> Judged:
        """Raises `InputError` where the harness's own judge fails."""
        try:
            return self._judge(item, replies)
        except CerebellumError:
            raise
        except Exception as error:  # a task's own code may raise anything
            raise InputError(
                f"{self.name}, item {item.id}: lm-evaluation-harness's own judge fails ({type(error).__name__}: {error}); "
                "leave the task out, or report it there"
            ) from error

    def _judge(self, item: Item, replies: Sequence[Reply]) -> Judged:
        task, doc, instances = self._instances[item.id]
        left = iter(replies)
        for instance in instances:
            instance.resps = [_response(instance, next(left)) for _ in range(instance.repeats or 1)]
            instance.filtered_resps = {}
        for each in task._filters:
            each.apply(instances)
        metrics: dict[str, Any] = {}
        for number, key in enumerate(instances[0].filtered_resps):
            result = task.process_results(doc, [i.filtered_resps[key] for i in instances])
            metrics |= {name if number == 0 else f"{name},{key}": value for name, value in result.items()}
        first = next(iter(instances[0].filtered_resps.values()))
        return Judged(metrics, _chosen(item, replies), _problem(task, item, replies, first))

    def score(self, metric: str, values: Sequence[Any]) -> float:
        try:
            return float(self._aggregation.get(metric.partition(",")[0], mean)(list(values)))
        except Exception as error:  # a metric that needs another package, or another set of items
            raise ValueError(f"{self.name} has no {metric}: {error}") from error

    def check(self) -> Mapping[str, str]:
        plain = [item for item in self.items if isinstance(item.about.get("gold"), int)]
        checks = check_choices(plain, self.judge, self.metric) if plain else {}
        if lost := [item.id for item in self.items if "options" in item.about and not _keyed(item)]:
            return {
                "the key is one of the answers": f"{len(lost)} of {len(self.items)} items' isn't, {lost[0]} for example",
                **checks,
            }
        return checks


def _keyed(item: Item) -> bool:
    """Whether a question's key names one of its answers, by number or by text, or some of them."""
    options, gold = item.about["options"], item.about["gold"]
    keys = gold if isinstance(gold, list) and gold else [gold]
    return all(0 <= key < len(options) if isinstance(key, int) else key in options for key in keys)


def chance_of(items: Sequence[Item]) -> float:
    """What guessing gives where each item has its options; 0 where they don't."""
    counts = [len(item.about["options"]) for item in items if item.about.get("options")]
    return sum(1.0 / n for n in counts) / len(items) if counts and len(counts) == len(items) else 0.0


def instances_of(task: Any, number: int, doc: Any, render: Render | None) -> list[Any]:
    """The harness's requests for one document, built as its own `build_all_requests` does."""
    chat = None if render is None else chat_template(render)
    context = task.fewshot_context(
        doc, num_fewshot=task.config.num_fewshot or 0, apply_chat_template=chat is not None, fewshot_as_multiturn=True,
        chat_template=chat, gen_prefix=task.doc_to_prefix(doc),
    )  # fmt: skip
    made = task.construct_requests(
        doc=doc, ctx=context, metadata=(task.config.task, number, task.config.repeats),
        apply_chat_template=chat is not None, chat_template=chat,
    )  # fmt: skip
    return made if isinstance(made, list) else [made]


def requests_of(instance: Any, chat: bool) -> list[Request]:
    """Our requests for one of the harness's, one for each time it is to be asked."""
    kind, args = instance.request_type, instance.args
    if kind == "loglikelihood":
        return [Likely(args[0], args[1], chat)] * (instance.repeats or 1)
    if kind == "loglikelihood_rolling":
        return [Rolling(args[0])] * (instance.repeats or 1)
    return [write_of(args[0], args[1], sample, chat) for sample in range(instance.repeats or 1)]


def write_of(prompt: str, options: Mapping[str, Any], sample: int, chat: bool) -> Write:
    """The harness's generation options as ours. Raises `InputError` for sampling that the engine doesn't do."""
    until = options.get("until") or []
    stop = (until,) if isinstance(until, str) else tuple(until)
    most = next((int(options[n]) for n in ("max_gen_toks", "max_new_tokens", "max_tokens") if n in options), MAX_TOKENS)
    warm = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
    if warm and options.get("num_beams", 1) != 1:
        raise InputError("beam search isn't done here")
    return Write(prompt, tuple(s for s in stop if s), most, warm, sample if warm else 0, chat)


def chat_template(render: Render) -> Callable[..., str]:
    """``render`` as the harness calls it."""

    def apply(history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        begun = "" if add_generation_prompt else history[-1]["content"]
        messages = list(history if add_generation_prompt else history[:-1])
        try:
            return render(messages, answer_begun=begun)
        except TextError:
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise
        return render(without_system(messages), answer_begun=begun)

    return apply


def without_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """For templates that know no system turn: what it says is put before the first user's."""
    system, first, *others = messages
    return [{**first, "content": f"{system['content'].rstrip()}\n\n{first['content']}"}, *others]


def _about(task: Any, doc: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"gold": task.doc_to_target(doc)}
    if task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
        about["options"] = list(task.doc_to_choice(doc))
    return about


def _response(instance: Any, reply: Reply) -> Any:
    if instance.request_type == "loglikelihood":
        return reply.nats, reply.greedy
    return (
        reply.nats if instance.request_type == "loglikelihood_rolling" else answer_of(reply.text, instance.args[0]).text
    )


def _chosen(item: Item, replies: Sequence[Reply]) -> Any:
    """The likeliest answer's number by the sum, or what was written."""
    if isinstance(item.requests[0], Write):
        return replies[0].text
    return max(range(len(replies)), key=lambda i: replies[i].nats) if len(replies) > 1 else None


def _problem(task: Any, item: Item, replies: Sequence[Reply], first: Any) -> str:
    if task.OUTPUT_TYPE != "generate_until":
        return ""
    prompts = [request.prompt if isinstance(request, Write) else "" for request in item.requests]
    answers = [answer_of(reply.text, prompt) for reply, prompt in zip(replies, prompts, strict=True)]
    if all(not answer.ended for answer in answers):
        return UNFINISHED
    if all(not answer.text.strip() for answer in answers):
        return EMPTY
    return UNPARSABLE if first == INVALID else ""
