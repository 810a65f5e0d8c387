"""`doctor`: is everything here, and does it work?"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cerebellum.cli.common import guarded, json_option, print_json
from cerebellum.errors import EngineError

if TYPE_CHECKING:
    from cerebellum.results.health import Check

_SIGNS = {"ok": "ok", "missing": "--", "warning": "!", "broken": "BROKEN"}


@click.command()
@json_option
@guarded
def doctor(as_json: bool) -> None:
    """What is installed, which devices and CPU features llama.cpp uses, whether it computes, what is missing for what.

    A small computation is made in a process of its own, so that a build whose kernels end the process is noticed. Exit code 4 where
    nothing can be measured.

    Example: cerebellum doctor
    """
    try:
        from cerebellum.llamacpp.process import LlamaBackend
        from cerebellum.verbs.doctor import BUILDS, build_command, examine
    except ImportError as error:  # without numpy, say, nothing of ours can be imported
        print(f"BROKEN: {error}\n  pip install --force-reinstall cerebellum")
        sys.exit(EngineError.exit_code)

    backend = LlamaBackend()
    checks = examine(backend, backend.native, Path.cwd())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _show(checks)
        print("\nto build llama-cpp-python for a device:")
        for device, arguments in BUILDS.items():
            print(f"  {device}:")
            show_command(build_command(arguments))
    if any(check.state == "broken" for check in checks):
        sys.exit(EngineError.exit_code)


def _show(checks: Iterable[Check]) -> None:
    from cerebellum.cli.console import print_folded

    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            print(f"{group}")
        print_folded(f"  {_SIGNS[check.state]:>6}  {check.what}: {check.text}", indent=" " * 10)
        if check.mend:
            show_command(check.mend, " " * 10)


def show_command(line: str, indent: str = " " * 4) -> None:
    """A line to copy, within 80 columns: a shell goes on after a backslash at a line's end."""
    from cerebellum.cli.console import NARROW, folded
    from cerebellum.quoting import printable

    lines = folded(indent + printable(line), NARROW - 2, f"{indent}  ").split("\n")
    print(" \\\n".join(lines))
