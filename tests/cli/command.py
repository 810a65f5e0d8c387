"""The command as a user runs it, in a folder of its own: in this process, or where that is the point in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

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


def cerebellum(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``cerebellum ARGUMENTS`` in ``folder``, in this process. An error that nobody caught is printed as Python prints it."""
    from cerebellum.cli import main

    words = ["cerebellum", *map(str, arguments)]
    environment = {"NO_COLOR": "1"}
    with contextlib.chdir(folder), mock.patch.object(sys, "argv", words):
        result = CliRunner().invoke(main, words[1:], prog_name="cerebellum", env=environment)
    err = result.stderr
    if result.exc_info and not isinstance(result.exception, SystemExit | None):
        err += "".join(traceback.format_exception(*result.exc_info))
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, err)


def cerebellum_process(
    folder: Path, *arguments: str | Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """``cerebellum ARGUMENTS`` in ``folder``, in a process of its own, ended."""
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
