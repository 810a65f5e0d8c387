"""Our engine inside lm-evaluation-harness: its own evaluation and ours agree, and what is missing is said."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cerebellum
from cerebellum.errors import InputError, TextError
from cerebellum.testing import write_fake_model
from tests.evals.test_asking import Book
from tests.evals.toy import Toy, ToyBackend, nats_of

pytest.importorskip("lm_eval", reason="needs the bench extra")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

from cerebellum.evals import harness  # noqa: E402
from cerebellum.evals.asking import Asker  # noqa: E402
from cerebellum.evals.harness_task import HarnessTask, chat_template  # noqa: E402
from tests.evals.test_local import ARC, write_arc  # noqa: E402


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{**row, "id": f"{row['id']}{n}", "question": f"{row['question']} ({n})"} for n in range(15) for row in ARC]
    return write_arc(tmp_path, rows)


def simple(toy: Toy, task: Any, memory: Book | None = None, **more: Any) -> Any:
    """lm-evaluation-harness's own evaluation."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from cerebellum.evals.lm import HarnessModel

    model, manager = HarnessModel(toy, "toy", memory), TaskManager(include_defaults=False)
    return simple_evaluate(model=model, tasks=[task], bootstrap_iters=0, task_manager=manager, **more)


def test_its_evaluation_and_ours_agree_item_by_item(data: Path, tmp_path: Path) -> None:
    (task,), _, _ = harness.load("arc_challenge", data)
    theirs = simple(Toy(), task)
    path = write_fake_model(tmp_path / "file.gguf")
    result = cerebellum.bench(path, "arc_challenge", data=data, backend=ToyBackend(toys={"file.gguf": Toy()}))
    score = result.tasks[0].score("file")
    assert [s["acc_norm"] for s in theirs["samples"]["arc_challenge"]] == list(score.values.values())
    assert theirs["results"]["arc_challenge"]["acc_norm,none"] == score.value
    assert theirs["results"]["arc_challenge"]["acc,none"] == score.metrics["acc"]
    assert 0.0 < score.value < 1.0


def test_a_chat_is_rendered_by_the_model_and_read_with_its_special_tokens(data: Path, tmp_path: Path) -> None:
    (task,), _, _ = harness.load("arc_challenge", data)
    toy, own = Toy(), Toy()
    theirs = simple(toy, task, apply_chat_template=True, limit=6)
    backend = ToyBackend(toys={"file.gguf": own})
    result = cerebellum.bench(
        write_fake_model(tmp_path / "file.gguf", chat_template="the toy's"),
        "arc_challenge",
        data=data,
        chat=True,
        limit=6,
        backend=backend,
    )
    assert [s["acc_norm"] for s in theirs["samples"]["arc_challenge"]] == list(
        result.tasks[0].score("file").values.values()
    )
    asked = [{(r.context.tobytes(), r.continuation.tobytes()) for r in t.asked} for t in (toy, own)]  # type: ignore[union-attr]
    assert asked[0] == asked[1]
    assert toy.text(toy.asked[0].context).startswith("[user]Question:")  # type: ignore[union-attr]


def test_a_template_without_a_system_turn_gets_its_text_before_the_first_users() -> None:
    def render(messages: Any, *, answer_begun: str = "") -> str:
        if messages[0]["role"] == "system":
            raise TextError("no system turn here")
        return "|".join(m["content"] for m in messages) + "|" + answer_begun

    apply = chat_template(render)
    history = [{"role": "system", "content": "About bones.\n\n"}, {"role": "user", "content": "Which?"}]
    assert apply(history) == "About bones.\n\nWhich?|"
    assert apply([*history, {"role": "assistant", "content": "It is"}], add_generation_prompt=False).endswith(
        "Which?|It is"
    )
    with pytest.raises(TextError):
        apply(history[:1])


def written(until: list[str], **options: Any) -> Any:
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    rows = [{"question": "Say yes", "answer": "yes"}, {"question": "Say no", "answer": "no"}]
    config = {
        "task": "say",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "test_split": "test", "output_type": "generate_until",
        "doc_to_text": "{{question}}:", "doc_to_target": "{{answer}}", "generation_kwargs": {"until": until, **options},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    with harness.quiet():
        return TaskManager(include_defaults=False).load([config])["tasks"]["say"]


def test_writing_stops_where_the_task_says() -> None:
    toy = Toy(reply=lambda prompt: prompt.split()[-1].rstrip(":") + "\nand more")
    assert simple(toy, written(["\n"]))["results"]["say"]["exact_match,none"] == 1.0
    assert simple(toy, written(["\n\n"]))["results"]["say"]["exact_match,none"] == 0.0


def said(reply: str, prompt: str) -> str:
    """Always the same, whatever the prompt."""
    return reply


def test_our_own_command_judges_writing_and_counts_empty_replies() -> None:
    task = HarnessTask("say", [written(["\n"])], "exact_match", {"data": "made up"}, None, None)
    for reply, values, problem in (("yes\n", [1.0, 0.0], ""), ("\n", [0.0, 0.0], "empty reply")):
        replies = Asker(Toy(reply=partial(said, reply))).ask([r for item in task.items for r in item.requests])
        judged = [task.judge(item, [r]) for item, r in zip(task.items, replies, strict=True)]
        assert [j.metrics["exact_match"] for j in judged] == values and {j.problem for j in judged} == {problem}
        assert task.score("exact_match", values) == sum(values) / 2


def test_rolling_is_the_sum_over_the_text() -> None:
    from lm_eval.api.instance import Instance

    from cerebellum.evals.lm import HarnessModel

    request = Instance("loglikelihood_rolling", {}, ("once upon a time",), 0)
    assert HarnessModel(Toy(), "toy").loglikelihood_rolling([request]) == [nats_of("", "once upon a time")]


def test_answers_are_kept_for_the_harness_too(data: Path) -> None:
    (task,), _, _ = harness.load("arc_challenge", data)
    book, toys = Book(), (Toy(), Toy())
    both = [simple(toy, task, book, limit=5) for toy in toys]
    assert both[0]["results"] == both[1]["results"] and toys[1].n_answered == 0


def test_our_model_is_in_its_registry_by_name() -> None:
    from lm_eval.api.registry import get_model

    from cerebellum.cli.harness import register
    from cerebellum.evals.lm import HarnessModel

    register()
    register()
    assert issubclass(get_model("cerebellum"), HarnessModel)


def test_without_the_harness_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    path, backend = write_fake_model(tmp_path / "file.gguf"), ToyBackend(toys={"file.gguf": Toy()})
    with pytest.raises(InputError, match=r"pip install 'lm_eval>=0\.4\.9,<0\.5'"):
        cerebellum.bench(path, "arc_challenge", data=data, backend=backend)
    assert cerebellum.bench(path, "world_facts", limit=2, backend=backend).tasks[0].score("file").n == 2


def test_a_hub_out_of_reach_is_given_up_at_once_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets
    from huggingface_hub import constants

    from cerebellum.evals import hub

    monkeypatch.setattr(hub, "answers", lambda endpoint: False)
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    with pytest.raises(InputError, match=r"can't be reached.*--data"):
        harness.load("arc_challenge", None)
    assert before == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    assert not hub.answers("http://localhost:1")


class Refused(Exception):
    """As a client raises it that knows no OSError."""

    __module__ = "httpx2"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ConnectionError("Couldn't reach 'baber/piqa' on the Hub (OfflineModeIsEnabled).\nmore"),
            "can't be reached; its cache doesn't hold them; it is a task",
        ),
        (Refused("all connection attempts failed"), "all connection attempts failed; it is a task"),
        (ModuleNotFoundError("No module named 'langdetect'"), "No module named 'langdetect'; install what it wants"),
        (Exception("Please install unitxt"), "Please install unitxt; install what it wants"),
    ],
)
def test_a_harness_task_without_its_data_is_one_message_that_says_what_to_do(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the task, and that --data is no help."""
    from lm_eval.tasks import TaskManager

    from cerebellum.evals import hub

    def load(self: TaskManager, names: list[str]) -> None:
        raise error

    monkeypatch.setattr(hub, "answers", lambda endpoint: False)
    monkeypatch.setattr(TaskManager, "load", load)
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        harness.load("piqa", Path("data"))
    assert str(caught.value).startswith("can't load the questions of piqa: ") and "\n" not in str(caught.value)
    if "install what it wants" not in says:
        assert "--data isn't used" in str(caught.value) and "the cache serves it" in str(caught.value)


def test_an_error_of_the_users_own_making_is_no_hub_error() -> None:
    from cerebellum.cli.harness import asks, in_words, tasks_of
    from cerebellum.evals.hub import of_the_hub

    assert not of_the_hub(BrokenPipeError()) and not of_the_hub(OSError(28, "full")) and of_the_hub(Refused())
    assert in_words(ValueError("odd"), "piqa", "") == "" and "piqa needs: it is cold; x" in in_words(
        Refused("x"), "piqa", "it is cold; "
    )
    assert (
        tasks_of(["run", "--tasks", "a,b"]) == "a,b"
        and tasks_of(["--tasks=c"]) == "c"
        and tasks_of(["run"]) == "the tasks"
    )
    assert asks(["run", "--tasks", "a"]) and not asks(["ls", "tasks"]) and not asks([])


def test_an_unknown_task_and_one_that_runs_code_unguarded_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from cerebellum.evals.sets import Sets

    class Unsafe:
        UNSAFE_CODE = True

    with pytest.raises(InputError, match="no task 'nonsense_task'"):
        harness.load("nonsense_task", None)
    monkeypatch.setattr(harness, "load", lambda name, data, shots: ([Unsafe()], "pass@1", {}))
    with pytest.raises(InputError, match="without a sandbox"):
        Sets(None, None, 1, lambda: None).prepare(["mbpp"])  # type: ignore[arg-type,return-value]
    Sets(None, None, 1, lambda: None, unsafe=True).prepare(["mbpp"])  # type: ignore[arg-type,return-value]
