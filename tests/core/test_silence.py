"""Standard output that is closed: nothing ends in a traceback, and no file gets its number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.command import ENVIRONMENT

SCRIPT = """
import ctypes, os, sys
from cerebellum.silence import open_standard_streams, silent_stdout
if sys.argv[1] == "open":
    open_standard_streams()
data = open(sys.argv[2], "wb", buffering=0)
with silent_stdout():
    os.write(1, b"noise") if sys.argv[1] == "open" else None
print("said")
sys.exit(0 if data.fileno() > 2 or sys.argv[1] == "closed" else 3)
"""


def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", line, "sh", *map(str, arguments)], env=ENVIRONMENT, capture_output=True, check=False, timeout=60
    )


def test_a_closed_output_silences_nothing_and_takes_nothing(tmp_path: Path) -> None:
    """Native noise to descriptor 1 would else be written into the first file that is opened: a study, for example."""
    (tmp_path / "script.py").write_text(SCRIPT)
    for mode in ("closed", "open"):
        done = shell('exec "$1" "$2" "$3" "$4" >&-', sys.executable, tmp_path / "script.py", mode, tmp_path / "data")
        assert done.returncode == 0, (mode, done.stderr)
        assert (tmp_path / "data").read_bytes() == b""


def test_the_command_with_its_output_closed(tmp_path: Path) -> None:
    from cerebellum import bundled

    done = shell('exec "$1" -m cerebellum inspect "$2" >&-', sys.executable, bundled.MODEL)
    assert (done.returncode, done.stderr) == (0, b"")
