"""Questions from a hub: the real client, asked through its own protocol, at a stand-in on this machine; then from its cache alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the bench extra")

from cerebellum.evals import harness
from tests.evals.standin import hub, repository
from tests.evals.test_local import ARC, HELLASWAG, stock

#: The last of MMLU's subjects; each is two data sets to fetch.
SUBJECTS = harness.subjects()[-3:]
MMLU = [{"question": f"Bone {n}?", "choices": ["w", "x", "y", "z"], "answer": n % 4} for n in range(8)]
FUNCTION = {"task_id": "HumanEval/0", "prompt": "def one():\n", "entry_point": "one", "test": "def check(c):\n    assert c() == 1\n",
            "canonical_solution": "    return 1\n"}  # fmt: skip
REPOSITORIES = {
    "allenai/ai2_arc": repository({"ARC-Challenge": dict.fromkeys(("train", "validation", "test"), ARC)}),
    "Rowan/hellaswag": repository({"default": dict.fromkeys(("train", "validation"), HELLASWAG)}),
    "fxmarty/mmlu-redux-2.0-ok": repository({name: {"test": MMLU[5:]} for name in SUBJECTS}),
    "cais/mmlu": repository({name: {"dev": MMLU[:5]} for name in SUBJECTS}),
    "openai/openai_humaneval": repository({"default": {"test": [FUNCTION]}}),
}
#: Loads tasks as `bench` does and prints each item's name and texts.
SCRIPT = """
import json, sys
from cerebellum.errors import CerebellumError
from cerebellum.evals import harness
from cerebellum.evals.sets import Sets
harness.subjects = lambda names=harness.subjects(): names[-3:]
found = {}
try:
    for name in sys.argv[1:]:
        sets = Sets(None, None, 1, lambda: object())
        sets.prepare([name])
        items = sets.task(name, None).items
        texts = [[[getattr(r, "context", "") or r.prompt, getattr(r, "continuation", "")] for r in i.requests] for i in items]
        found[name] = [[i.id, of_one, i.about.get("gold")] for i, of_one in zip(items, texts)]
except CerebellumError as error:
    found = {"error": str(error)}
print(json.dumps(found))
"""
NAMES = ("arc_challenge", "hellaswag", "mmlu_redux", "humaneval")


def loaded(folder: Path, endpoint: str, *names: str) -> dict[str, Any]:
    """What a new process finds; its cache is in ``folder``."""
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *names], env={**kept, **own}, stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_questions_come_from_the_hub_and_then_from_its_cache(tmp_path: Path) -> None:
    """The prompts and keys are those that the harness makes of these rows; when the hub is gone, the same from the cache, and of what isn't
    there one message that says what to do."""
    assert len(harness.subjects()) == 57
    with hub(REPOSITORIES) as endpoint:
        found = loaded(tmp_path, endpoint, *NAMES)
    for name, split, rows in (("arc_challenge", "test", ARC), ("hellaswag", "validation", HELLASWAG)):
        theirs = [[number, [list(of) for of in args], int(gold)] for number, args, gold in stock(name, split, rows)]
        assert found[name] == theirs
    assert [item[0] for item in found["mmlu_redux"]] == [f"mmlu_{s}/{n}" for n in range(3) for s in SUBJECTS]
    context, letter = found["mmlu_redux"][2][1][0]
    assert "world religions" in context.splitlines()[0] and context.count("Answer:") == 6 and letter == " A"
    assert context.endswith("\nBone 5?\nA. w\nB. x\nC. y\nD. z\nAnswer:")
    assert [item[1][0][0] for item in found["humaneval"]] == [FUNCTION["prompt"]]
    assert loaded(tmp_path, endpoint, *NAMES) == found
    said = loaded(tmp_path / "empty", endpoint, "arc_challenge")["error"]
    assert said.startswith(
        "can't load the questions of arc_challenge: the hub can't be reached; its cache doesn't hold them; give them with --data"
    )


def test_a_hub_that_has_no_such_data_set_is_one_message(tmp_path: Path) -> None:
    with hub({}) as endpoint:
        said = loaded(tmp_path, endpoint, "humaneval")["error"]
    assert said.startswith("can't load the questions of humaneval: ") and "--data" in said and "\n" not in said
