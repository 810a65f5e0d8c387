"""A real Ray of two nodes on this machine: the same bits as without it; nodes that die, lack the model or differ, a driver that dies."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.errors import EngineError, InputError
from cerebellum.progress import Silent
from cerebellum.testing import write_fake_model
from tests.fleet.nodes import NodeBackend

os.environ.setdefault("RAY_agent_register_timeout_ms", "240000")  # read by its processes: the machine may be busy
ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
ROOT = Path(__file__).resolve().parents[2]


def patient(get_node: Any) -> Any:
    """Ray gives a node 30 s to start, which a busy machine doesn't keep."""

    def get(*arguments: Any) -> Any:
        for _ in range(60):
            try:
                return get_node(*arguments)
            except RuntimeError:
                time.sleep(2.0)
        return get_node(*arguments)

    return get


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, and this process connected to them."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    services.get_node = patient(services.get_node)
    found = Cluster(initialize_head=True, head_node_args=NODE)
    found.add_node(**NODE)
    ray.init(found.address, log_to_driver=False, logging_level=logging.ERROR)
    yield found
    ray.shutdown()
    found.shutdown()


@contextlib.contextmanager
def node(cluster: Any, **environment: str) -> Iterator[Any]:
    """A third node, with variables of its own."""
    added = cluster.add_node(**NODE, env_vars=environment)
    try:
        yield added
    finally:
        with contextlib.suppress(Exception):
            cluster.remove_node(added)


class Told(Silent):
    """Keeps notes; at step ``at`` of the sweep it calls ``act``."""

    def __init__(self, at: int = 0, act: Any = None) -> None:
        self.notes: list[str] = []
        self._at, self._act, self._n, self._what = at, act, 0, ""

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._what = what

    def step(self, what: str = "") -> None:
        self._n += self._what == "sweep"
        if self._what == "sweep" and self._n == self._at:
            self._act()

    def has(self, *words: str) -> bool:
        return any(all(word in note for word in words) for note in self.notes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    os.environ["CEREBELLUM_CACHE"] = str(folder / "cache")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 40)))
    return write_fake_model(folder / "model.gguf", 8)


def sweep(model: Path, out: str, told: Told | None = None, **more: Any) -> Any:
    given: dict[str, Any] = {
        "text": model.parent / "text.txt",
        "ctx": 64,
        "chunks": 6,
        "role": "ffn_gate,ffn_up",
        **more,
    }
    return api.sweep(model, out=model.parent / out, backend=NodeBackend(), progress=told, **given)


def rows(model: Path, out: str) -> list[Any]:
    query = "SELECT series.key, trial.key, score.* FROM score JOIN trial ON trial.id = trial JOIN series ON series.id = trial.series"
    with sqlite3.connect(model.parent / out / "study.sqlite") as db:
        return sorted((row[0], row[1], *row[3:]) for row in db.execute(query))


@pytest.fixture(scope="module")
def alone(model: Path) -> list[Any]:
    """What one machine measures."""
    sweep(model, "alone")
    return rows(model, "alone")


def test_two_nodes_measure_what_one_machine_does(cluster: Any, model: Path, alone: list[Any]) -> None:
    told = Told()
    sweep(model, "two", told, cluster="ray")
    assert told.has("cluster: 2 engines on 2 nodes") and rows(model, "two") == alone


def test_a_node_killed_in_the_middle_costs_nothing_but_time(cluster: Any, model: Path, alone: list[Any]) -> None:
    with node(cluster, FAKE_SECONDS="0.02") as third:
        told = Told(20, lambda: cluster.remove_node(third, allow_graceful=False))
        result = sweep(model, "killed", told, cluster="ray")
    assert rows(model, "killed") == alone and result.sweep.failed == ()
    assert told.has("an engine is lost, the others do its work")


def test_a_slow_node_gets_less_and_is_waited_for_little(cluster: Any, model: Path, alone: list[Any]) -> None:
    with node(cluster, FAKE_SECONDS="0.2"):
        sweep(model, "slow", cluster="ray")
    assert rows(model, "slow") == alone


def test_a_node_without_the_model_is_told_and_left_out(cluster: Any, model: Path, alone: list[Any]) -> None:
    with node(cluster, CEREBELLUM_FILES=str(model.parent / "nothing")):
        told = Told()
        sweep(model, "lacking", told, cluster="ray")
        with pytest.raises(InputError, match="cluster-files"):
            sweep(model, "no", cluster_files="somewhere")
    assert rows(model, "lacking") == alone
    assert told.has("lacks model.gguf (sha256", "--cluster-files", "goes on without that worker")
    assert told.has("cluster: 2 engines on 2 nodes")


@pytest.mark.parametrize("rounding", ["0", "3"])
def test_a_node_of_another_build_measures_where_it_agrees_bit_for_bit(
    cluster: Any, model: Path, alone: list[Any], rounding: str
) -> None:
    with node(cluster, FAKE_BUILD="fake 2", FAKE_ROUNDING=rounding):
        told = Told()
        result = sweep(model, f"build-{rounding}", told, cluster="ray")
        with pytest.raises(
            EngineError, match=r"has another build \(fake 2; here it is fake 1\), and --same-build-only"
        ):
            sweep(model, f"strict-{rounding}", cluster="ray", same_build_only=True)
    measured = rows(model, f"build-{rounding}")
    if rounding == "0":
        assert measured == alone
        assert told.has("another build", "bit for bit: taken for the same") and told.has("3 engines on 3 nodes")
        assert any("It is taken for the same" in warning for warning in result.facts["warnings"])
    else:
        ours = {key for key, *_ in alone}
        assert told.has("another build", "differ: it gets chunks of its own") and told.has("3 engines on 3 nodes")
        assert {row for row in measured if row[0] in ours} < set(alone) and {row[0] for row in measured} > ours
        assert any("only the differences are put beside the others" in warning for warning in result.facts["warnings"])


DRIVER = """
import os, sys
from pathlib import Path
from tests.fleet.test_ray import Told, sweep
sweep(Path(sys.argv[1]), "driver", Told(30, lambda: os._exit(9)), cluster=sys.argv[2])
"""


def test_a_driver_that_is_killed_goes_on_from_its_study(cluster: Any, model: Path, alone: list[Any]) -> None:
    """A process of its own, connected by address, that ends without a word; its actors end with it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", DRIVER, str(model), f"ray://{cluster.address}"]
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 9, done.stderr
    begun = rows(model, "driver")
    assert 30 <= len(begun) < len(alone) and set(begun) < set(alone)
    sweep(model, "driver", cluster="ray")
    assert rows(model, "driver") == alone


def test_without_a_cluster_one_message_says_what_to_do(model: Path) -> None:
    """In a process that is connected to none."""
    code = "from pathlib import Path; import sys; from tests.fleet.test_ray import sweep; sweep(Path(sys.argv[1]), 'none', cluster='ray://127.0.0.1:1')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        check=False,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "no Ray cluster answers on 127.0.0.1:1" in done.stderr.splitlines()[-1]
