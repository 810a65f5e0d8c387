"""What all tests share: few threads that wait without work, no waiting for the disk, the slow tests left out unless asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before llama.cpp's OpenMP is loaded. Beside another busy process, threads that spin at barriers take its time and get nothing done.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too: see pyproject.toml")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests, but not where --slow or -m is given, or tests are named one by one."""
    named = any("::" in argument for argument in config.args)
    if config.getoption("slow") or config.getoption("markexpr") or named:
        return
    left_out = [item for item in items if item.get_closest_marker("slow")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """No test cuts the power, so that nothing waits for the disk; the order of writing and renaming has tests of its own."""
    from cerebellum.study import store

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(store, "SYNCHRONOUS", "OFF")
        yield


@pytest.fixture(scope="session", autouse=True)
def plain_pages() -> Iterator[None]:
    """Pages of reports have plain pictures, but in ``tests/report``: to bundle the charts' JavaScript takes each process seconds."""
    from cerebellum.report.page import vega

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vega, "is_available", lambda: False)
        yield
