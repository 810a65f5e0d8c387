"""A program and its tests, each in a box of its own, with a wire between them and a clock beside."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cerebellum.errors import SandboxError
from cerebellum.evals.sandbox.boxes import REFUSED, Box, box_folder, refusals, remove_stale, working_box
from cerebellum.quoting import printable

#: How a program's process ends that a limit has killed, told by itself or by the one that entered the box for it.
KILLED = {code for number in (signal.SIGXCPU, signal.SIGKILL) for code in (-number, 256 - number, 128 + number)}
#: Seconds that the outermost process of a box has to end the others.
ENDS_WITHIN = 10.0
#: Bytes of a verdict, or of what a box says when it can't be made: more is no verdict.
MOST_SAID = 4096
#: What an error says, and the word for it.
SIGNS = {"MemoryError": "memory", "[Errno 27]": "output limit", "[Errno 28]": "output limit"}


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds`` of time, and of processor time; bytes of memory, of what is written and printed; threads. A box starts no
    processes; without one ``processes`` counts them too.
    """

    seconds: float = 10.0
    memory: int = 512 << 20
    file_bytes: int = 1 << 20
    processes: int = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the tests passed, and if not why: "assertion", "error: …", "timeout", "memory", "output limit", "killed", "no verdict: …"."""

    passed: bool
    reason: str


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Runs programs that nobody has read. Safe to use from several threads."""

    box: Box

    @classmethod
    def find(cls, unsafe: bool = False) -> Self:
        """What isolates on this machine; with ``unsafe`` limits alone where nothing does. Raises `SandboxError`, with each kind's cause."""
        remove_stale()
        box = working_box()
        if box is None and not unsafe:
            causes = "; ".join(f"{kind}: {cause}" for kind, cause in refusals().items())
            raise SandboxError(
                f"running what a model wrote needs a sandbox, and none works here ({causes}): install bubblewrap (Linux), or give "
                "--unsafe-execution to run it with this user's rights"
            )
        return cls(box or Box("none"))

    def describe(self) -> str:
        """What isolates, for the report."""
        return str(self.box)

    def run(self, source: str, tests: str, entry_point: str, limits: Limits = LIMITS) -> Outcome:
        """Define ``source``, run the tests' ``check`` on its function ``entry_point``. The program's fault never raises.

        Raises `SandboxError` where a box can't be made any more.
        """
        with box_folder() as folder, contextlib.ExitStack() as stack:
            calls, answers = os.pipe(), os.pipe()
            with _closing(*calls, *answers):
                program = self._start(stack, folder / "program", source, limits, calls[0], answers[1])
                judge = self._start(stack, folder / "judge", tests, limits, answers[0], calls[1], entry_point)
            return _verdict(judge, program, limits)

    def _start(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        text: str,
        limits: Limits,
        reader: int,
        writer: int,
        *entry: str,
    ) -> subprocess.Popen[bytes]:
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "text.py").write_text(text, encoding="utf-8", errors="replace")
        (folder / "text.py").chmod(0o644)  # whoever the box ends as reads it
        numbers = (limits.memory, max(1, round(limits.seconds)) + 1, limits.file_bytes, limits.processes)
        role = ["judge" if entry else "program", str(folder), *map(str, numbers), *map(repr, entry)]
        command = self.box.command(folder, "inside.py", *role)
        process = subprocess.Popen(
            command, stdin=reader, stdout=writer, stderr=subprocess.PIPE, cwd=folder, env={"PATH": os.environ.get("PATH", "")},
            start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, process, self.box.asked_to_end)
        return process


def _verdict(judge: subprocess.Popen[bytes], program: subprocess.Popen[bytes], limits: Limits) -> Outcome:
    deadline = time.monotonic() + limits.seconds + 5.0 * (limits.seconds > 5.0)
    reason = _said(judge, deadline)
    if reason is None:
        return Outcome(False, "timeout")
    if len(reason) >= MOST_SAID:
        return Outcome(False, "no verdict: the tests wrote too much")
    if judge.returncode != 0 or not reason:
        _raise_if_refused(reason)
        return Outcome(False, "no verdict: the tests were ended")
    if reason.startswith("no verdict"):
        _raise_if_refused(_said(program, time.monotonic() + 1.0) or "")
        if program.poll() in KILLED:
            reason = "killed"
    for sign, word in SIGNS.items():
        if sign in reason:
            reason = word
    return Outcome(reason == "passed", printable(reason))


def _said(process: subprocess.Popen[bytes], deadline: float) -> str | None:
    """What a box says on standard error until it ends, `MOST_SAID` bytes at most; None where it doesn't end in time."""
    assert process.stderr is not None
    descriptor, data = process.stderr.fileno(), b""
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    while len(data) < MOST_SAID:
        if not watch.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        piece = os.read(descriptor, MOST_SAID - len(data))
        if not piece:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return None
            break
        data += piece
    return data.decode("utf-8", "replace").strip()


def _raise_if_refused(words: str) -> None:
    """Nothing in a box that is closed can write there: this is what made it."""
    if words.startswith(REFUSED):
        raise SandboxError(f"a box for what a model wrote could not be made: {printable(words.removeprefix(REFUSED))}")


def _end(process: subprocess.Popen[bytes], asked: bool = False) -> None:
    """End a box and everything in it. ``asked``: its outermost process does so; only if it can't is it killed."""
    if asked:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


@contextlib.contextmanager
def _closing(*descriptors: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
