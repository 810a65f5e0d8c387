"""The real engine through a real Ray of two nodes on this machine: the rows of the study are those of one machine, whatever happens.

    python -m benchmarks.cluster                   all cases
    python -m benchmarks.cluster killed driver     some of them
    python -m benchmarks.cluster --keep FOLDER     studies and outputs are kept there

Each case is one `cerebellum sweep --cluster ray://HOST:PORT` of the bundled model, as a user types it, and prints what the user sees. Then
its study is compared with that of one engine without Ray: every sum of every chunk of every trial, bit for bit.

    two       two nodes
    killed    a third node is killed in the middle
    driver    the command is killed (SIGKILL) in the middle, and given again
    slow      a third node whose engine is stopped four fifths of the time
    lacking   a third node without the model
    same-id   a third node with another build's id that computes the same: numba is told its processor by name
    other     a third node with another build's id whose sums differ (planted in its engine): it gets chunks of its own
    strict    the same with --same-build-only
    split     the model in three files, which the nodes have in a folder of their own

Needs the extra `ray`. Ray takes about 1 GB of memory. Exit code 1 where a row differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.running import OURS
from cerebellum.bundled import MODEL, SEARCH_TEXT

CASES = ("two", "killed", "driver", "slow", "lacking", "same-id", "other", "strict", "split")
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
#: Rows of a study after which something happens to the cluster.
AT_ROW = 12
#: Seconds that the engine of a slow node is stopped, and goes on.
STOPPED, GOES_ON = 0.4, 0.1
ROWS = """
    SELECT series.key, trial.key, label, chunk, n_tokens, nll, nll2, tempered, kld, kld2, kld_var, same_top, dp, dp2, dp4, kld_tokens,
           digest
    FROM score JOIN trial ON trial.id = score.trial JOIN series ON series.id = trial.series ORDER BY series.key, trial.key, chunk
"""
#: What Python runs first on the node of another build: its engine's sums differ in their last bits.
PLANTED = """
import sys
if "cerebellum.llamacpp.worker" in sys.orig_argv:
    from cerebellum.domain import ChunkScore
    exact = ChunkScore.__init__
    def rounded(self, chunk, n_tokens, nll, *rest, **named):
        exact(self, chunk, n_tokens, nll * (1.0 + 2.0**-40), *rest, **named)
    ChunkScore.__init__ = rounded
"""


class Nodes:
    """A Ray cluster on this machine; each node keeps what it makes in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        from ray._private import services
        from ray.cluster_utils import Cluster

        services.get_node = patient(services.get_node)
        self._folder, self._n = folder, 0
        os.environ["CEREBELLUM_CACHE"] = self._cache()
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray's own, 15, starves the workers where a machine is busy
        self._cluster = Cluster(initialize_head=True, head_node_args=NODE)
        self._cluster.add_node(**NODE, env_vars={"CEREBELLUM_CACHE": self._cache()})
        self.address = f"ray://{self._cluster.address}"

    def _cache(self) -> str:
        self._n += 1
        return str(self._folder / f"cache{self._n}")

    @contextlib.contextmanager
    def third(self, **environment: str) -> Iterator[Any]:
        """A node more, with variables of its own."""
        node = self._cluster.add_node(**NODE, env_vars={"CEREBELLUM_CACHE": self._cache(), **environment})
        try:
            yield node
        finally:
            with contextlib.suppress(Exception):
                self.kill(node)

    def kill(self, node: Any) -> None:
        """End all of a node's processes at once."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


def patient(get_node: Any) -> Any:
    """Ray gives a node 30 s to start, which a busy machine doesn't keep."""

    def get(*arguments: Any) -> Any:
        for _ in range(60):
            with contextlib.suppress(RuntimeError):
                return get_node(*arguments)
            time.sleep(2.0)
        return get_node(*arguments)

    return get


class Job:
    """One study by the command line, and what the command printed."""

    def __init__(self, folder: Path, name: str, model: Path, words: Sequence[str]) -> None:
        self.out, self.log = folder / name, folder / f"{name}.txt"
        self._command = [
            *OURS, "sweep", str(model), "--role", "attn_output", "--to", "Q2_K", "--text", str(SEARCH_TEXT), "--ctx", "64",
            "--chunks", "3", "--threads", "1", "--out", str(self.out), *words,
        ]  # fmt: skip

    def run(self, act: Callable[[subprocess.Popen[bytes]], None] | None = None) -> int:
        """The exit code; ``act`` is called with the process once the sweep has `AT_ROW` rows of trials."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log)
            while process.poll() is None:
                if act is not None and self.n_singles() >= AT_ROW:
                    act(process)
                    act = None
                time.sleep(0.05)
        return process.returncode

    def n_singles(self) -> int:
        """Rows of the sweep's own trials so far."""
        with contextlib.suppress(sqlite3.Error):
            return sum(row[2].startswith("blk.") for row in self.rows())
        return 0

    def rows(self) -> list[tuple[Any, ...]]:
        """All that the study says of its measurements."""
        with contextlib.closing(sqlite3.connect(f"file:{self.out / 'study.sqlite'}?mode=ro", uri=True)) as db:
            return db.execute(ROWS).fetchall()

    def told(self) -> str:
        """What the command printed, as a terminal shows it in the end."""
        text = self.log.read_bytes().decode(errors="replace")
        return "\n".join(line.rpartition("\r")[2] for line in text.splitlines())


def descendants(pid: int) -> Iterator[int]:
    """Processes that this one started, and those that they started."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from descendants(child)


def engines_of(node: Any) -> Iterator[int]:
    """The llama.cpp processes of a node."""
    for each in node.all_processes["raylet"]:
        for pid in descendants(each.process.pid):
            with contextlib.suppress(OSError):
                if b"cerebellum.llamacpp.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield pid


@contextlib.contextmanager
def slowed(node: Any) -> Iterator[list[int]]:
    """A node's engines are stopped most of the time; yields which they were."""
    done, stopped = threading.Event(), list[int]()

    def loop() -> None:
        while not done.is_set():
            for number, seconds in ((signal.SIGSTOP, STOPPED), (signal.SIGCONT, GOES_ON)):
                for pid in list(engines_of(node)):
                    stopped.append(pid)
                    with contextlib.suppress(OSError):
                        os.kill(pid, number)
                time.sleep(seconds)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield stopped
    finally:
        done.set()
        thread.join()


class Cases:
    """Runs them; each gives the jobs whose rows are to be those of one machine."""

    def __init__(self, folder: Path, nodes: Nodes) -> None:
        self._folder, self._nodes = folder, nodes
        self.faults: list[str] = []

    def job(self, name: str, *words: str, model: Path = MODEL) -> Job:
        return Job(self._folder, name, model, ["--cluster", self._nodes.address, *words])

    def run(self, name: str, known: Sequence[tuple[Any, ...]]) -> None:
        """One case; says what it printed, and whether its rows are ``known``."""
        started = time.monotonic()
        job, codes, wanted = getattr(self, name.replace("-", "_"))()
        print(
            f"\n== {name}: {time.monotonic() - started:.0f} s, exit {', '.join(map(str, codes))}\n{job.told().strip()}",
            flush=True,
        )
        if codes != wanted:
            self.faults.append(f"{name}: exit codes {codes}, not {wanted}")
        if wanted[-1]:
            return
        rows = job.rows()
        same = rows == known
        if name == "split":  # its files one after the other have another hash, so its series and digests are others
            same = sorted(row[1:-1] for row in rows) == sorted(row[1:-1] for row in known)
        if name == "other":
            ours = {row[0] for row in known}
            theirs = {row[1:4] for row in rows if row[0] not in ours}
            own = {row for row in rows if row[0] in ours}
            same = (
                own < set(known)
                and len(theirs) > 0
                and {row[1:4] for row in own} | theirs == {row[1:4] for row in known}
            )
            print(f"-- {name}: {len(theirs)} cells are the other build's, with its base; of the rest")
        verdict = "the rows of one machine, bit for bit" if same else "OTHER rows than one machine's"
        print(f"-- {name}: {len(rows)} rows: {verdict}", flush=True)
        if not same:
            self.faults.append(f"{name}: {verdict}")

    def two(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("two")
        return job, [job.run()], [0]

    def killed(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("killed")
        with self._nodes.third() as third:
            return job, [job.run(lambda _: self._nodes.kill(third))], [0]

    def driver(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("driver")
        first = job.run(lambda process: process.kill())
        n_begun = len(job.rows())
        with job.log.open("a") as log:
            log.write(f"\n[killed; {n_begun} rows are in the study. The same command again:]\n")
        return job, [first, job.run()], [-signal.SIGKILL, 0]

    def slow(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("slow")
        with self._nodes.third() as third, slowed(third) as stopped:
            code = job.run()
        if not stopped:
            self.faults.append("slow: no engine was slowed")
        return job, [code], [0]

    def lacking(self) -> tuple[Job, list[int], list[int]]:
        job, empty = self.job("lacking"), self._folder / "empty"
        empty.mkdir(exist_ok=True)
        with self._nodes.third(CEREBELLUM_FILES=str(empty)):
            return job, [job.run()], [0]

    def same_id(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("same-id")
        with self._nodes.third(**own_processor()):
            return job, [job.run()], [0]

    def other(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("other")
        with self._nodes.third(**self._other()):
            return job, [job.run()], [0]

    def _other(self) -> Mapping[str, str]:
        """Variables of a node whose engine has another id, and in whose sums a bit is planted."""
        folder = self._folder / "planted"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(PLANTED)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"NUMBA_CPU_NAME": "generic", "PYTHONPATH": path}

    def strict(self) -> tuple[Job, list[int], list[int]]:
        job = self.job("strict", "--same-build-only")
        with self._nodes.third(**self._other()):
            return job, [job.run()], [4]

    def split(self) -> tuple[Job, list[int], list[int]]:
        """Rows of another subject: its files' bytes one after the other are another hash, its sums the same."""
        whole, there = self._folder / "split", self._folder / "there"
        whole.mkdir()
        subprocess.run(
            [*OURS, "split", str(MODEL), "--out", str(whole / "world.gguf"), "--split-max-size", "10M"], check=True
        )
        first = min(whole.glob("*.gguf"))
        shutil.copytree(whole, there)
        job = self.job("split-study", "--cluster-files", str(there), model=first)
        with self._nodes.third(CEREBELLUM_FILES=str(there)):
            return job, [job.run()], [0]


def own_processor() -> Mapping[str, str]:
    """Variables by which numba compiles for this processor by name, and so under another id."""
    import llvmlite.binding as llvm
    from numba.core import codegen

    return {"NUMBA_CPU_NAME": llvm.get_host_cpu_name(), "NUMBA_CPU_FEATURES": codegen.get_host_cpu_features()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all where none is named")
    parser.add_argument("--keep", type=Path, help="folder for studies and outputs")
    options = parser.parse_args()
    os.environ.setdefault("RAY_agent_register_timeout_ms", "240000")  # the machine may be busy
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        alone = Job(folder, "alone", MODEL, [])
        print(f"== one engine without Ray: exit {alone.run()}\n{alone.told().strip()}", flush=True)
        known = alone.rows()
        nodes = Nodes(folder)
        cases = Cases(folder, nodes)
        try:
            for name in options.cases or CASES:
                cases.run(name, known)
        finally:
            nodes.close()
    print("\n" + ("\n".join(cases.faults) or "all rows are those of one machine"))
    return 1 if cases.faults else 0


if __name__ == "__main__":
    sys.exit(main())
