"""How many cores this process may use: its affinity, and the quota of the control groups that it is in.

A container is given processor time by a quota (Docker's ``--cpus``, Kubernetes' limits), which affinity doesn't show: on a machine of 64
cores with a quota of 2, 64 threads wait for each other's turns.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath


def n_cores(root: Path = Path("/")) -> int:
    """Logical cores that this process may use, at least 1; a quota of 2.5 cores counts as 2. ``root`` is for tests."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(float(n), quota(root))))


def core_shares(n: int, root: Path = Path("/")) -> tuple[tuple[int, ...], ...]:
    """The cores that this process may use, as ``n`` shares of equal size: cores of one socket, and the two threads of one core, together.

    Nothing where the system doesn't say which cores there are, or has fewer than ``n``.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0), key=lambda core: (*_place_of(core, root), core))
    size = len(cores) // n
    return tuple(tuple(sorted(cores[i * size : (i + 1) * size])) for i in range(n)) if size else ()


def _place_of(core: int, root: Path) -> tuple[int, int]:
    """(socket, core) of a logical core; the same for all where the system doesn't say."""
    folder = root / f"sys/devices/system/cpu/cpu{core}/topology"
    texts = [_read(folder / name).strip() for name in ("physical_package_id", "core_id")]
    socket, number = (int(text) if text.isdigit() else 0 for text in texts)
    return socket, number


def quota(root: Path = Path("/")) -> float:
    """Cores by the tightest quota over this process, of control groups version 1 or 2; infinite where there is none."""
    folders = {"": root / "sys/fs/cgroup"}  # version 2
    folders |= dict.fromkeys(("cpu", "cpu,cpuacct", "cpuacct,cpu"), root / "sys/fs/cgroup/cpu")
    quotas = [math.inf]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if controllers not in folders:
            continue
        base = next((p for p in (root / "sys/fs/cgroup" / controllers, folders[controllers]) if p.is_dir()), None)
        if base is not None:
            group = PurePosixPath(path.lstrip("/"))
            quotas += [_quota_of(base / parent) for parent in (group, *group.parents) if ".." not in parent.parts]
    return min(quotas)


def _quota_of(folder: Path) -> float:
    """A group's own quota: version 2's ``cpu.max``, or version 1's two files."""
    words = _read(folder / "cpu.max").split()
    if not words:
        words = [_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        time, period = map(float, words)
    except ValueError:  # "max": no quota; or no such file
        return math.inf
    return time / period if time > 0 and period > 0 else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
