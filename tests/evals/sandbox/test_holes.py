"""Holes that were found, tried again in every kind of box, as root and as others: keys, mounts, memory, the kernel's calls, causes named."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cerebellum.errors import SandboxError
from cerebellum.evals.sandbox import Limits, Sandbox, boxes, runner, syscalls
from cerebellum.evals.sandbox.boxes import Box
from tests.evals.sandbox.situation import HONEST, KINDS

LIMITS = Limits(seconds=60.0, memory=400 << 20)
SCRIPT = Path(__file__).with_name("situation.py")
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
#: Who runs, and where: words before the command.
SITUATIONS = {
    "root": [],
    "nobody": NOBODY,
    "root of a rootless namespace": ["unshare", "-Ur"],
    "nobody, root of a rootless namespace": [*NOBODY, "unshare", "-Ur"],
    "root without CAP_SYS_ADMIN": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"],
    "nobody, /tmp noexec": ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o noexec,mode=1777 none /tmp && exec "$@"', "-", *NOBODY],
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """A box of each kind."""
    box = Box(request.param)
    if cause := box.refusal():
        pytest.skip(f"{request.param}: {cause}")
    return Sandbox(box)


def answer(sandbox: Sandbox, body: str) -> str:
    """What a program's ``answer`` returns; the tests' assertion tells it."""
    outcome = sandbox.run(f"def f(x):\n{body}\n", "def check(f):\n    raise RuntimeError(f(0))\n", "f", LIMITS)
    return outcome.reason.removeprefix("error: ")


# -- the kernel's calls ------------------------------------------------------------------------------------------------

#: By name, each with arguments that would be a beginning: numbers of x86_64 and aarch64 (the kernel's headers).
DENIED = {
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "move_mount": (429, 429), "fsopen": (430, 430),
    "open_tree": (428, 428), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "semget": (64, 190), "semop": (65, 193), "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "mq_open": (240, 180),
    "kexec_load": (246, 104), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "personality": (135, 92),
    "memfd_create": (319, 279), "setxattr": (188, 5), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "seccomp": (317, 277), "execve": (59, 221), "execveat": (322, 281), "socket": (41, 198), "bind": (49, 200),
    "connect": (42, 203), "setsockopt": (54, 208), "sendmsg": (46, 211), "flock": (73, 32), "init_module": (175, 105),
    "syslog": (103, 116), "quotactl": (179, 60), "swapon": (167, 224), "reboot": (169, 142), "setuid": (105, 146),
    "add_a_timer": (222, 107), "mlock": (149, 228), "mbind": (237, 235), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "vmsplice": (278, 75), "splice": (275, 76), "landlock": (444, 444), "process_madvise": (440, 440), "lookup_dcookie": (212, 18),
}  # fmt: skip
MACHINE = os.uname().machine


def test_calls_that_no_program_needs_are_refused(sandbox: Sandbox) -> None:
    """All of them, with EPERM."""
    numbers = [pair[MACHINE != "x86_64"] for pair in DENIED.values()]
    body = (
        "    import ctypes\n    libc, answers = ctypes.CDLL(None, use_errno=True), []\n"
        f"    for number in {numbers}:\n"
        "        ctypes.set_errno(0)\n        got = libc.syscall(number, 0, 0, 0, 0, 0, 0)\n"
        "        answers.append((number, got, ctypes.get_errno()))\n"
        "    return str([a for a in answers if a[1:] != (-1, 1)])"
    )
    assert answer(sandbox, body) == "[]"


@pytest.mark.parametrize(
    "call",
    [
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "__import__('subprocess').run(['true'])",
        "__import__('socket').socket(__import__('socket').AF_UNIX)",
        "__import__('socket').socket(16, 3, 0)",  # netlink
        "__import__('socket').socket(40, 1, 0)",  # vsock
        "__import__('socket').socketpair(1, 2)",  # datagrams can be sent to a path
        "__import__('fcntl').lockf(open('/tmp/a', 'w'), 2)",
        "__import__('fcntl').fcntl(os.pipe()[0], 1031, 1 << 20)",  # a larger pipe
        "__import__('fcntl').ioctl(0, 0x5412, b'x')",  # type into a terminal
        "os.setxattr('/tmp', 'user.a', b'x')",
        "__import__('resource').prlimit(1, 7)",  # another process's limits
    ],
)
def test_what_leaves_the_process_or_its_limits_is_refused(sandbox: Sandbox, call: str) -> None:
    """EPERM, not an error of another kind."""
    body = f"    import os\n    try:\n        return 'did ' + str({call})\n    except PermissionError:\n        return 'refused'"
    assert answer(sandbox, body) == "refused"


def test_a_clone_with_namespaces_or_without_a_thread_is_refused(sandbox: Sandbox) -> None:
    """By its flags: a user namespace, a fork, a fork that shares memory; clone3 answers as a kernel without it."""
    number = {"x86_64": 56, "aarch64": 220}[MACHINE]
    body = (
        "    import ctypes\n    libc, errors = ctypes.CDLL(None, use_errno=True), []\n"
        f"    for call, flags in (({number}, 0x10000011), ({number}, 17), ({number}, 0x4111), ({number}, 0x50010f00), (435, 0)):\n"
        "        libc.syscall(call, ctypes.c_ulong(flags), None, None, None, None)\n        errors.append(ctypes.get_errno())\n"
        "    return str(errors)"
    )
    assert answer(sandbox, body) == "[1, 1, 1, 1, 38]"


@pytest.mark.parametrize(
    "body",
    [
        "    import asyncio\n    async def g():\n        await asyncio.sleep(0.01)\n        return 'works'\n    return asyncio.run(g())",
        "    import tempfile\n    with tempfile.TemporaryFile() as s:\n        s.write(b'x')\n    return 'works'",
        "    import os, shutil\n    os.mkdir('/tmp/a')\n    open('/tmp/a/x', 'w').write('x')\n    shutil.copytree('/tmp/a', '/tmp/b')\n    shutil.rmtree('/tmp/b')\n    return 'works'",
        "    import random, time, datetime, decimal, fractions, hashlib, json, re, sqlite3, uuid, zlib, statistics\n    time.sleep(0.01)\n    return 'works'",
        "    import signal\n    signal.signal(signal.SIGALRM, lambda *a: None)\n    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    signal.pause()\n    return 'works'",
    ],
)  # fmt: skip
def test_what_programs_do_need_works(sandbox: Sandbox, body: str) -> None:
    """The allow list lets the standard library work."""
    if "sqlite3" in body:
        pytest.importorskip("sqlite3")
    assert answer(sandbox, body) == "works"


def number_outside(uid: int) -> int:
    """A user's number outside of the user namespace that this runs in, as the kernel counts."""
    for first, outer, count in (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines()):
        if uid in range(first, first + count):
            return outer + uid - first
    return uid


def test_threads_work_where_they_are_counted(sandbox: Sandbox) -> None:
    """Up to the limit; none at all where the kernel counts none (root's own number)."""
    body = (
        "    import threading\n    n, e = 0, threading.Event()\n    try:\n        while n < 1000:\n"
        "            threading.Thread(target=e.wait, daemon=True).start()\n            n += 1\n"
        "    except RuntimeError:\n        pass\n    e.set()\n    return str(n)"
    )
    n = int(answer(sandbox, body))
    counted = sandbox.box.kind == "namespaces" or number_outside(os.geteuid()) != 0
    assert 1 <= n < LIMITS.processes if counted else n == 0


@pytest.mark.parametrize(("column", "header"), [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")])  # fmt: skip
def test_the_table_has_the_kernels_numbers(column: str, header: str) -> None:
    """The kernel's own headers say the same."""
    path = next((p for p in (Path("/usr/include") / header, Path("/usr/include") / header.partition("/")[2]) if p.exists()), None)  # fmt: skip
    if path is None:
        pytest.skip("the kernel's headers aren't installed")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    theirs = {name: int(number) for name, number in pairs}
    theirs.setdefault("newfstatat", theirs.get("fstatat", -1))
    ours = syscalls.numbers(column)
    assert {name: theirs.get(name) for name in ours} == ours and len(set(ours.values())) == len(ours) > 100


def verdict(code: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What a filter returns: a slow reading of classic BPF."""
    words = [number, arch, 0, 0] + [half for a in (*arguments, *[0] * 6)[:6] for half in (a & 0xFFFFFFFF, a >> 32)]
    steps = [
        (int.from_bytes(code[i : i + 2], "little"), code[i + 2], code[i + 3], int.from_bytes(code[i + 4 : i + 8], "little"))
        for i in range(0, len(code), 8)
    ]  # fmt: skip
    at, value = 0, 0
    while True:
        kind, yes, no, k = steps[at]
        at += 1
        if kind == 0x20:
            value = words[k // 4]
        elif kind == 0x54:
            value &= k
        elif kind in (0x15, 0x25):
            at += yes if (value == k if kind == 0x15 else value > k) else no
        else:
            return k


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_filter_allows_the_table_and_nothing_else(machine: str) -> None:
    """Every number, by an interpreter of its own; arguments too. The other convention of calls ends the process."""
    code, (_, arch) = syscalls.allowing_filter(machine), syscalls.MACHINES[machine]
    ours = syscalls.numbers(machine)
    free = {number for name, number in ours.items() if name not in syscalls.RULES}
    answers = {n: verdict(code, arch, n, (9, 9, 9, 1 << 18)) for n in range(600)}
    assert {n for n, a in answers.items() if a == syscalls.ALLOW} == free
    assert {n for n, a in answers.items() if a == syscalls.ENOSYS} == {435, *range(syscalls.NEWEST + 1, 600)}
    assert verdict(code, arch, ours["read"] | 0x40000000) == syscalls.ENOSYS
    assert verdict(code, 0x40000003, ours["read"]) == syscalls.KILL
    assert verdict(code, arch, ours["socketpair"], (1, 1 | 0x80800)) == syscalls.ALLOW
    assert verdict(code, arch, ours["socketpair"], (2, 1)) == syscalls.EPERM
    assert verdict(code, arch, ours["clone"], (0x3D0F00,)) == syscalls.ALLOW  # what pthread_create asks for
    assert verdict(syscalls.threadless_filter(machine), arch, ours["clone"], (0x3D0F00,)) == syscalls.EPERM
    assert len(code) // 8 <= 4096


# -- keys, mounts, memory ----------------------------------------------------------------------------------------------


def test_keys_outside_are_out_of_reach(sandbox: Sandbox) -> None:
    """A key of this session can't be read, changed or revoked, though its number is known."""
    libc, keyctl = ctypes.CDLL(None, use_errno=True), {"x86_64": 250, "aarch64": 219}[MACHINE]
    add = {"x86_64": 248, "aarch64": 217}[MACHINE]
    key = libc.syscall(add, b"user", b"cerebellum-test", b"secret", ctypes.c_size_t(6), -3)
    if key < 0:
        pytest.skip(f"this kernel gives no keys: {os.strerror(ctypes.get_errno())}")
    body = (
        "    import ctypes\n    libc = ctypes.CDLL(None)\n    b = ctypes.create_string_buffer(9)\n"
        f"    return str([libc.syscall({keyctl}, 11, {key}, b, 9), libc.syscall({keyctl}, 2, {key}, b'x', 1), libc.syscall({keyctl}, 3, {key}), b.value])"
    )
    try:
        assert answer(sandbox, body) == "[-1, -1, -1, b'']"
        held = ctypes.create_string_buffer(9)
        assert libc.syscall(keyctl, 11, key, held, ctypes.c_size_t(9)) == 6 and held.value == b"secret"
    finally:
        libc.syscall(keyctl, 9, key, -3)  # unlink


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Something else, which may be written, is mounted at ``folder``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), b"mode=777") != 0:
        pytest.skip("only root can mount")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(folder), 2)


def test_what_is_mounted_below_a_visible_folder_is_read_only(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount with a space in its name, one in another, and what is written nowhere."""
    inner = tmp_path / "a b"
    inner.mkdir()
    tmp_path.chmod(0o755)
    needed = boxes.needed()
    monkeypatch.setattr(boxes, "needed", lambda: (*needed, tmp_path))
    with mounted(inner):
        (inner / "deep").mkdir(mode=0o777)
        with mounted(inner / "deep"):
            targets = [str(inner / "x"), str(inner / "deep" / "x")]
            body = (
                f"    answers = []\n    for path in {targets}:\n        try:\n            open(path, 'w').write('x')\n            answers.append('written')\n"
                "        except OSError as error:\n            answers.append(error.strerror)\n    return ', '.join(answers)"
            )
            assert answer(sandbox, body) == "Read-only file system, Read-only file system"
            assert not any(map(os.path.exists, targets))


@pytest.mark.parametrize("body", [
    "    i = 0\n    while True:\n        open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))\n        i += 1",
    "    i = 0\n    while True:\n        open(f'/{i}', 'wb').write(bytes(1 << 20))\n        i += 1",
    "    i = 0\n    while True:\n        open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 20))\n        i += 1",
    "    i = 0\n    while True:\n        open(f'/tmp/{i}', 'wb')\n        i += 1",
    "    import mmap\n    kept = []\n    while True:\n        kept.append(mmap.mmap(-1, 1 << 24))",
])  # fmt: skip
def test_memory_ends_somewhere(sandbox: Sandbox, body: str) -> None:
    """Files in memory, wherever one may be made, empty ones too, and shared mappings: each ends with an error."""
    if sandbox.box.kind == "bubblewrap" and "open(f'/tmp/{i}', 'wb')\n" in body:
        pytest.skip("bubblewrap can't bound the number of files; it is the last kind that is taken")
    counted = body.replace("i += 1", "i += 1\n        assert i < 100_000, 'no end'")
    said = answer(sandbox, counted)
    assert said == "output limit" or re.search("No such file|Permission|Read-only|Cannot allocate|memory", said), said


# -- who runs it, and where --------------------------------------------------------------------------------------------


def anyones_python() -> str:
    """An interpreter that any user may run: this one, or the system's."""
    path = Path(boxes.interpreter())
    return str(path) if all(folder.stat().st_mode & 1 for folder in path.parents) else "/usr/bin/python3"


@cache
def seen(situation: str) -> dict[str, str]:
    """By kind what `situation` says, run so."""
    words = SITUATIONS[situation]
    if os.geteuid() != 0 and situation not in ("root of a rootless namespace",):
        pytest.skip("only root can become others")
    if missing := [word for word in ("setpriv", "unshare") if word in words and not shutil.which(word)]:
        pytest.skip(f"{missing[0]} isn't installed")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy = Path(folder)
        copy.chmod(0o755)
        shutil.copytree(
            boxes.HERE.parents[2] / "cerebellum", copy / "cerebellum", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(SCRIPT, copy)
        environment = {**os.environ, "PYTHONPATH": folder}
        command = [*words, anyones_python(), "-B", str(copy / "situation.py")]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, cwd="/", check=False
        )
    if done.returncode != 0 and not done.stdout:
        pytest.skip(f"this machine can't: {done.stderr[-200:]}")
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_box_is_had_by_anyone_anywhere(situation: str) -> None:
    """An honest program passes in a box of some kind; a kind that can't be had says why."""
    answers = seen(situation)
    reasons = [answers[kind] for kind in KINDS]
    if all(reason.startswith("none") for reason in reasons):
        pytest.skip(f"this machine has no box for {situation}: {reasons}")
    assert answers["best"] != "none"
    assert all(reason == "passed" or re.fullmatch("none: .+", reason) for reason in reasons), answers
    if situation == "root without CAP_SYS_ADMIN":
        assert answers["namespaces"] == "none: root without CAP_SYS_ADMIN"
    if "rootless" in situation:
        assert answers["namespaces"] == "none: root of a container that has no user to spare"


def test_a_container_with_few_users_gives_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in the upper half of what is mapped, never root's or a person's; none of one mapped user."""
    read = Path.read_text
    maps = {
        "0 0 4294967295": (1_900_000_000, 1_950_000_000),
        "0 1000 1\n1 100000 65536": (32_769, 65_537),
        "0 1000 1": None,
    }
    for text, bounds in maps.items():
        monkeypatch.setattr(Path, "read_text", lambda path, text=text, **_: text)
        ids = boxes.free_ids.__wrapped__("uid_map")
        assert (ids.start, ids.stop) == bounds if bounds else not ids
    monkeypatch.setattr(Path, "read_text", read)


def test_who_the_program_is_agrees_with_what_is_said(sandbox: Sandbox) -> None:
    """ "a user that nobody is" is said only where the kernel's number is no user's."""
    uid = int(answer(sandbox, "    import os\n    return str(os.getuid())"))
    assert (
        ("nobody is" in sandbox.describe()) == (uid in boxes.free_ids("uid_map")) == (sandbox.box.kind == "namespaces")
    )


# -- refusals and verdicts ---------------------------------------------------------------------------------------------


def test_a_step_that_fails_refuses_the_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A filter that the kernel doesn't take, and a processor that the table lacks, are named; nothing runs."""
    kind = next((kind for kind in KINDS if Box(kind).works()), None)
    if kind is None:
        pytest.skip("no box works here")
    monkeypatch.setattr(syscalls, "allowing_filter", lambda machine: b"\0" * 8)
    assert "system-call filter: Invalid argument" in Box(kind).refusal()
    with pytest.raises(SandboxError, match="could not be made: system-call filter"):
        Sandbox(Box(kind)).run(HONEST[0], HONEST[1], "f", LIMITS)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert Box(kind).refusal() == "its table of system calls has x86_64 and aarch64, and this is riscv64"


def test_each_kinds_cause_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none works."""
    monkeypatch.setattr(runner, "working_box", lambda: None)
    monkeypatch.setattr(runner, "refusals", lambda: {"namespaces": "only root can", "bubblewrap": "not installed"})
    with pytest.raises(SandboxError, match=r"\(namespaces: only root can; bubblewrap: not installed\)"):
        Sandbox.find()


@pytest.mark.parametrize("flood", ["while True: os.write(3, b'x' * 10**6)", "os.write(3, b'passed' * 10**5)"])
def test_tests_that_flood_their_verdict_are_cut(sandbox: Sandbox, flood: str) -> None:
    """The parent reads a few bytes, and has an answer at once."""
    tests = f"import os\ndef check(candidate):\n    {flood}\n"
    outcome = sandbox.run("def f(x):\n    return x\n", tests, "f", LIMITS)
    assert (outcome.passed, outcome.reason) == (False, "no verdict: the tests wrote too much")


def test_a_verdict_is_read_no_further_than_its_bound() -> None:
    """A process that writes without end is left at once; one that closes its stream and stays is a timeout."""
    for code, expected in (
        ("while True: os.write(2, b'x' * 65536)", runner.MOST_SAID),
        ("os.close(2); time.sleep(60)", None),
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os, time\n{code}"], stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            said = runner._said(process, time.monotonic() + (30 if expected else 2))
            assert (said if said is None else len(said)) == expected
        finally:
            runner._end(process)


# -- the second round --------------------------------------------------------------------------------------------------


def test_the_machines_own_devices_stay_as_they_are(sandbox: Sandbox) -> None:
    """Their mode and times can't be changed, though they can be written to; as root of a user namespace that worked once."""
    devices = [Path(path) for path in ("/dev/null", "/dev/zero", "/dev/urandom")]
    before = [(path.stat().st_mode, path.stat().st_mtime_ns) for path in devices]
    body = (
        "    import os\n    open(os.devnull, 'wb').write(b'x' * 1000)\n"
        "    for path in ('/dev/null', '/dev/zero', '/dev/urandom'):\n"
        "        for change in (lambda: os.chmod(path, 0o600), lambda: os.utime(path), lambda: os.utime(path, (0, 0))):\n"
        "            try:\n                change()\n            except OSError:\n                pass\n"
        "    return 'written'"
    )
    assert answer(sandbox, body) == "written"
    assert [(path.stat().st_mode, path.stat().st_mtime_ns) for path in devices] == before


def test_the_folder_that_python_lies_in_is_not_shown_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interpreter that was installed into a home shows its libraries, not the home."""
    (tmp_path / "lib" / "python3").mkdir(parents=True)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib" / "python3"))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path / "lib"))
    shown = boxes.needed.__wrapped__()
    assert tmp_path / "lib" in shown and not any(tmp_path.is_relative_to(path) for path in shown)


def test_what_a_program_says_reaches_no_terminal_raw(sandbox: Sandbox) -> None:
    """Sequences that a terminal obeys are escapes in the reason, and a line end forges no second line."""
    said = answer(sandbox, "    raise ValueError('\\x1b]52;c;QQ==\\x07\\npassed')")
    assert said == r"ValueError: \x1b]52;c;QQ==\x07\npassed"


@pytest.mark.parametrize(
    "sent",
    [
        "b'\\x80\\x04' + b']' * 10**6 + b'a' * (10**6 - 1) + b'.'",  # lists in lists
        "b'\\x80\\x04Nr\\xff\\xff\\xff\\x7f.'",  # a memo of 2^31 entries
        "b'\\x80\\x05\\x96' + (2**62).to_bytes(8, 'little') + b'x.'",  # bytes without end
        "b'cbuiltins\\nset\\n(cbuiltins\\nrange\\n(I1000000000\\ntRtR.'",  # 10^9 numbers
        "b'cos\\nsystem\\n(Vtrue\\ntR.'",
        "b'\\x80\\x04cbuiltins\\nset\\n(N}X\\x01\\x00\\x00\\x00xK\\x01stb.'",  # an attribute for a class
    ],
)
def test_messages_that_attack_the_tests_are_no_verdict(sandbox: Sandbox, sent: str) -> None:
    """Raw bytes on the program's own wire: whatever they make of the reader, nothing passes and the answer comes in time."""
    source = (
        f"import os\ndata = {sent}\ndata = len(data).to_bytes(4, 'little') + data\n"
        "while data:\n    data = data[os.write(4, data):]\ndef f(x):\n    return x + 1\n"
    )
    began = time.monotonic()
    outcome = sandbox.run(source, HONEST[1], "f", LIMITS)
    assert not outcome.passed and time.monotonic() - began < LIMITS.seconds, outcome


def test_a_program_gives_the_tests_no_check(sandbox: Sandbox) -> None:
    """Tests that only mention ``check`` don't get the program's."""
    outcome = sandbox.run(
        "def check(f):\n    pass\ndef f(x):\n    return 0\n", "def test(f):\n    assert f(1) == 2\ncheck\n", "f", LIMITS
    )
    assert not outcome.passed and "check" in outcome.reason
