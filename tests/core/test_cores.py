"""Cores by affinity and by the quotas of control groups, from files as the kernel shows them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cerebellum import cores

V2, V1 = "0::/app/one\n", "12:memory:/m\n4:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("own", "files", "n"),
    [
        (V2, {}, 16),
        (V2, {"app/one/cpu.max": "max 100000"}, 16),
        (V2, {"app/one/cpu.max": "250000 100000"}, 2),
        (V2, {"app/one/cpu.max": "50000 100000"}, 1),
        (V2, {"app/one/cpu.max": "max 100000", "app/cpu.max": "300000 100000"}, 3),  # a parent's quota holds too
        (V2, {"app/one/cpu.max": "6400000 100000"}, 16),
        (V2, {"app/one/cpu.max": "nonsense"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),  # a container sees its own group as the root
        (V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "50000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 16),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("", {}, 16),
        ("0::/../outside\n", {"cpu.max": "200000 100000"}, 2),
    ],
)  # fmt: skip
def test_the_tightest_quota_bounds_the_cores(own: str, files: dict[str, str], n: int, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cores.n_cores(tmp_path) == n


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cores.quota(tmp_path) == math.inf and cores.n_cores(tmp_path) == 16


def test_everybody_asks_the_same_function() -> None:
    """No other count of cores in the package."""
    package = Path(cores.__file__).parent
    users = {
        p.name for p in package.rglob("*.py") if "cpu_count" in p.read_text() or "sched_getaffinity" in p.read_text()
    }
    assert users - {"syscalls.py"} == {"cores.py"}  # a sandbox's table names the system call
