"""`bench` and `lm-eval` as a user runs them, on the bundled model."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cerebellum import bundled
from tests.cli.command import ENVIRONMENT, cerebellum, cerebellum_process, refused, start
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine
ENDINGS = ("bench", bundled.MODEL, "--tasks", "world_endings", "--limit", "24", "--quiet")


def answers(out: Path) -> int:
    """How many replies the study holds."""
    try:
        with sqlite3.connect(f"{(out / 'study.sqlite').as_uri()}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM answer").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL, with no chance to tidy up."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    done = cerebellum(tmp_path, *ENDINGS, "--out", whole)
    assert done.returncode == 0, done.stderr
    process = start(tmp_path, *ENDINGS, "--out", out)
    while answers(out) < 16 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -9 and 16 <= answers(out) < 96
    done = cerebellum(tmp_path, *ENDINGS, "--out", out)
    assert done.returncode == 0, done.stderr
    assert answers(out) == 96
    for name in ("bench.json", "bench/world_endings-file.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_json_has_the_score_and_the_table_says_how_sure(tmp_path: Path) -> None:
    same = shutil.copy(bundled.MODEL, tmp_path / "same.gguf")
    options = (
        "bench",
        bundled.MODEL,
        "--against",
        same,
        "--tasks",
        "world_facts",
        "--limit",
        "12",
        "-q",
        "-o",
        tmp_path / "out",
    )
    found = json.loads(cerebellum(tmp_path, *options, "--json").stdout)
    (task,) = found["tasks"]
    assert task["scores"][0]["n"] == 12 and task["pairs"][0]["flips"]["lost"] == 0
    assert found["gate"] == task["gate"] == "too few items to tell"
    done = cerebellum(tmp_path, *options, "--fail-on-loss")
    assert done.returncode == 0 and "too few items to tell" in done.stdout and "could show" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tasks", "arc_challenge", "--data", "."), ("arc_challenge.jsonl",)),
        (("--tasks", "world_facts", "--data", "nowhere"), ("nowhere",)),
        (("--tasks", "world_facts", "--against", "missing.gguf"), ("missing.gguf",)),
        (("--tasks", ","), ("no task was given",)),
        (("--tasks", "world_facts", "--chat", "--limit", "1", "--against", "plain.gguf"), ("plain.gguf", "chat template")),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_one_clear_line(
    tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    if "plain.gguf" in options:
        tiny.llama(tmp_path / "plain.gguf")
    refused(cerebellum(tmp_path, "bench", bundled.MODEL, "-q", *options), 2, *words)


def test_the_harness_own_command_runs_on_our_engine(tmp_path: Path) -> None:
    """A task of the user's own, from local files: the answers are ours, the evaluation is lm-evaluation-harness's."""
    pytest.importorskip("lm_eval", reason="needs the bench extra")
    rows = [json.loads(line) for line in (bundled.QUESTIONS / "facts.jsonl").read_text().splitlines()[:20]]
    (tmp_path / "facts.json").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'facts.json'}}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "Question: {{question}}\\nAnswer:"\n'
        "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    model = f"pretrained={bundled.MODEL},out={tmp_path / 'out'}"
    done = cerebellum_process(
        tmp_path, "lm-eval", "run", "--model", "cerebellum", "--model_args", model, "--tasks", "mine", "--include_path", tmp_path / "tasks",
        "--output_path", tmp_path / "results.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = tmp_path.glob("results*.json")
    theirs = json.loads(written.read_text())["results"]["mine"]["acc,none"]
    ours = json.loads(
        cerebellum(tmp_path, "bench", bundled.MODEL, "--tasks", "world_facts", "--limit", "20", "--json", "-q").stdout
    )
    assert theirs == ours["tasks"][0]["scores"][0]["value"]
    assert answers(tmp_path / "out") == 80


@pytest.mark.slow
def test_the_harness_command_ends_with_one_message_where_data_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: the hub's package reads these variables when it is imported."""
    pytest.importorskip("lm_eval", reason="needs the bench extra")
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "cache"))):
        monkeypatch.setitem(ENVIRONMENT, name, value)
    options = ("--model", "cerebellum", "--model_args", f"pretrained={bundled.MODEL}", "--limit", "1")
    done = cerebellum_process(tmp_path, "lm-eval", "run", *options, "--tasks", "piqa")
    only_message = subprocess.CompletedProcess(done.args, done.returncode, "", done.stderr)
    refused(only_message, 2, "piqa", "HF_HUB_OFFLINE", "the cache serves it")


def test_the_harness_own_command_finds_the_model_once_it_is_plugged_in(tmp_path: Path) -> None:
    """A site-packages folder with the line in it, as Python reads it at its start; without the line there is no such model."""
    pytest.importorskip("lm_eval", reason="needs the bench extra")
    from cerebellum.evals import lm_eval_plugin

    lm_eval_plugin.write(tmp_path)
    code = "import site; site.addsitedir({!r}); from lm_eval.api.registry import get_model; print(get_model('cerebellum').__name__)"
    for folder, code_expected, said in ((tmp_path, 0, "LlamaModel"), (tmp_path / "none", 1, "no model for this name")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(str(folder))],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code_expected and said in done.stdout + done.stderr
    assert lm_eval_plugin.remove(tmp_path) and not lm_eval_plugin.remove(tmp_path) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "task", "words"),
    [
        ("cerebellum", "no_such_task", ("no_such_task", "lm-eval ls tasks")),
        ("cerebelum", "piqa", ("cerebelum", "--model cerebellum")),
    ],
)
def test_the_harness_command_refuses_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, task: str, words: tuple[str, ...]
) -> None:
    """The harness reads thousands of files to know its own tasks; here it knows one."""
    tasks = pytest.importorskip("lm_eval.tasks", reason="needs the bench extra")
    known = tasks.TaskManager(include_path=str(Path(tasks.__file__).parent / "piqa"), include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", lambda *_, **__: known)
    options = ("--model", model, "--model_args", f"pretrained={bundled.MODEL}", "--limit", "1", "--tasks", task)
    done = cerebellum(tmp_path, "lm-eval", "run", *options)
    refused(subprocess.CompletedProcess(done.args, done.returncode, "", done.stderr), 2, *words)


def test_the_harness_command_helps(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the bench extra")
    said = cerebellum(tmp_path, "lm-eval", "--help").stdout
    for words in ("Example: cerebellum lm-eval run --model cerebellum", "gpu_layers", "usage: lm-eval"):
        assert words in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fail-on-loss",), "--against BASE.gguf"),
        (("--margin", "1"), "--against BASE.gguf"),
        (("--samples", "3"), "humaneval, world_functions"),
        (("--against", str(bundled.MODEL)), "compared with itself"),
        (("--shots", "2"), "without examples"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    refused(cerebellum(tmp_path, "bench", bundled.MODEL, "--tasks", "world_facts", "--limit", "2", *options), 2, says)
