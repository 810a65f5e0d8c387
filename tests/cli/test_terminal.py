"""A terminal of any encoding: what it lacks is written as an escape, and nothing ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import ENVIRONMENT
from tests.gguf.raw import ARCHITECTURE, ONE, STRING, gguf, pair, spelled


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8:strict"])
@pytest.mark.parametrize("arguments", [("inspect", "m.gguf"), ("inspect", "absent-ü😀.gguf")])
def test_any_encoding(tmp_path: Path, encoding: str, arguments: tuple[str, ...]) -> None:
    gguf(tmp_path / "m.gguf", [ARCHITECTURE, pair("general.name", STRING, spelled("模型 😀 ü"))], ONE)
    done = subprocess.run(
        [sys.executable, "-m", "cerebellum", *arguments], cwd=tmp_path, capture_output=True, check=False, timeout=120,
        env={**ENVIRONMENT, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    codec = encoding.partition(":")[0]
    out, err = done.stdout.decode(codec), done.stderr.decode(codec)
    assert "Traceback" not in err and done.returncode == (2 if "absent-ü😀.gguf" in arguments else 0), err
    if arguments == ("inspect", "m.gguf"):
        assert ("模型 😀 ü" if codec.startswith("utf") else r"\u6a21\u578b \U0001f600") in out


def test_the_help_in_ascii(tmp_path: Path) -> None:
    """click writes UTF-8 where it is told that there is ASCII alone; either is good, a traceback isn't."""
    done = subprocess.run(
        [sys.executable, "-m", "cerebellum", "run", "--help"], cwd=tmp_path, capture_output=True, check=False, timeout=120,
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0 and b"Usage:" in done.stdout and not done.stderr


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    """A file name of other bytes, as Linux allows."""
    name = b"m\xff.gguf"
    gguf(tmp_path / "m.gguf", [ARCHITECTURE], ONE)
    (tmp_path / "m.gguf").rename(tmp_path / name.decode(errors="surrogateescape"))
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable.encode(), b"-m", b"cerebellum", b"inspect", name, *(word.encode() for word in more)], cwd=tmp_path,
            capture_output=True, check=False, timeout=120, env=ENVIRONMENT,
        )  # fmt: skip
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
