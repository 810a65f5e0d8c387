"""The command as a user runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(SOURCE)}


def start(folder: Path, *arguments: str | Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """``cerebellum ARGUMENTS`` in ``folder``, under way; ``before`` runs in the new process first."""
    return subprocess.Popen(
        [sys.executable, "-m", "cerebellum", *map(str, arguments)],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=before,  # noqa: PLW1509 no threads run here
    )


def cerebellum(
    folder: Path, *arguments: str | Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """``cerebellum ARGUMENTS`` in ``folder``, ended."""
    process = start(folder, *arguments, before=before)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with ``code`` and one clear message that holds ``words``, without a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(("cerebellum: error:", "Error:")), done.stderr
    for word in words:
        assert word in message, message
    assert done.stdout == ""
