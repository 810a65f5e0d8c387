"""The sandbox, tried: each attack is contained, counts as that item's failure, and the next program runs as if nothing had been."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cerebellum.errors import SandboxError
from cerebellum.evals.sandbox import Limits, Sandbox, boxes
from cerebellum.evals.sandbox.boxes import PREFIX, Box, Kind, remove_stale

TESTS = "def check(candidate):\n    assert candidate(2) == 3\n    assert candidate(-1) == 0\n"
HONEST = "def add_one(x):\n    return x + 1\n"
LIMITS = Limits(seconds=2.0, memory=400 << 20, processes=8)
#: For what ends by itself: a machine under load takes longer, and the reason must not be the clock.
PATIENT = replace(LIMITS, seconds=60.0)
#: Our own by hand, as this user can have it (every kind is tried in test_holes), and bubblewrap.
KINDS: tuple[Kind, ...] = ("namespaces" if Box("namespaces").works() else "user namespace", "bubblewrap")


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    box = Box(request.param)
    if cause := box.refusal():
        pytest.skip(f"{request.param}: {cause}")
    return Sandbox(box)


def reason_of(sandbox: Sandbox, source: str, tests: str = TESTS, limits: Limits = PATIENT) -> str:
    """Why it failed; and that an honest program passes afterwards."""
    outcome = sandbox.run(source, tests, "add_one", limits)
    assert not outcome.passed
    assert sandbox.run(HONEST, TESTS, "add_one", PATIENT).passed
    return outcome.reason


def test_an_honest_program_passes_and_a_wrong_one_does_not(sandbox: Sandbox) -> None:
    """Right, wrong, broken, without the function."""
    assert sandbox.run(HONEST, TESTS, "add_one", PATIENT).reason == "passed"
    assert reason_of(sandbox, "def add_one(x):\n    return x\n") == "assertion"
    assert "SyntaxError" in reason_of(sandbox, "def add_one(x:\n")
    assert "defines no add_one" in reason_of(sandbox, "def other(x):\n    return x + 1\n")
    assert "NameError" in reason_of(sandbox, "def add_one(x):\n    return y\n")


def test_tests_get_helpers_modules_and_values_of_the_program(sandbox: Sandbox) -> None:
    """As HumanEval's tests do: what the prompt defined is there by name, errors keep their built-in kind, containers theirs."""
    source = "import math\nfrom collections import Counter\nSTEP = 1\ndef helper(x):\n    return x + STEP\ndef f(x):\n    if x < 0:\n        raise ValueError('no')\n    return Counter([helper(x)]), (1.5, {2}, [None, 'é', 2j, b'x', 10**50])\n"
    tests = (
        "def check(candidate):\n    assert candidate(1) == ({2: 1}, (1.5, {2}, [None, 'é', 2j, b'x', 10**50]))\n"
        "    assert helper(1) == 1 + STEP == math.floor(2.5)\n"
        "    try:\n        candidate(-1)\n    except ValueError as e:\n        assert 'no' in str(e)\n    else:\n        assert False\n"
    )
    assert sandbox.run(source, tests, "f", PATIENT).reason == "passed"


@pytest.mark.parametrize(
    "outside", ["/etc/passwd", "/etc/shadow", "/etc/hostname", str(Path(__file__).resolve()), "secret"]
)
def test_files_outside_are_not_there(sandbox: Sandbox, outside: str, tmp_path: Path) -> None:
    """Neither the system's nor the user's."""
    path = Path(outside)
    if outside == "secret":
        path = tmp_path / "secret"
        path.write_text("secret")
        tmp_path.chmod(0o777)
    source = f"def add_one(x):\n    return len(open({str(path)!r}).read()) and x + 1\n"
    assert "No such file" in reason_of(sandbox, source)


def test_nothing_is_written_outside(sandbox: Sandbox, tmp_path: Path) -> None:
    """Home, the system, the tester's own folder: all stay as they are."""
    tmp_path.chmod(0o777)
    for folder in (Path.home(), Path("/usr"), Path("/"), tmp_path, Path(sys.base_prefix), Path(__file__).parent):
        mark = folder / "cerebellum-was-here"
        source = f"def add_one(x):\n    open({str(mark)!r}, 'w').write('x')\n    return x + 1\n"
        sandbox.run(source, TESTS, "add_one", PATIENT)
        assert not mark.exists()
    source = "import os\ndef add_one(x):\n    os.remove(os.__file__)\n    return x + 1\n"
    assert "error" in reason_of(sandbox, source)


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port on loopback, and who called it."""
    server, callers = socket.create_server(("127.0.0.1", 0)), list[object]()

    def accept() -> None:
        try:
            while True:
                callers.append(server.accept()[1])
        except OSError:
            return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], callers
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_no_socket_reaches_anything(sandbox: Sandbox, listener: tuple[int, list[object]]) -> None:
    """Not even this machine."""
    port, callers = listener
    source = (
        f"import socket\ndef add_one(x):\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    return x + 1\n"
    )
    assert "error" in reason_of(sandbox, source)
    assert not callers


def test_forking_without_end_stops(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of processes or the limit of time, and none is left."""
    source = "import os\ndef add_one(x):\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass\n"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert reason_of(sandbox, source, limits=LIMITS) == "timeout"
    assert not left_over(tmp_path)


def test_a_daemon_does_not_outlive_its_box(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a session of its own, with its streams closed, deaf to SIGTERM."""
    source = (
        "import os, signal, time\ndef add_one(x):\n    if os.fork() == 0:\n        os.setsid()\n        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        if os.fork() == 0:\n            time.sleep(600)\n        os._exit(0)\n    return x + 1\n"
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox.run(source, TESTS, "add_one", PATIENT)
    assert not left_over(tmp_path)


def test_a_program_that_leaves_its_session_and_its_parents_death_behind_ends_too(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process of a box is ours, so what the program tells the kernel of itself saves nothing of it."""
    source = (
        "import ctypes, os, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\ntry:\n    os.setsid()\nexcept OSError:\n    pass\n"
        "def add_one(x):\n    time.sleep(600)\n"
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert reason_of(sandbox, source, limits=LIMITS) == "timeout"
    assert not left_over(tmp_path)


def test_folders_of_a_killed_owner_are_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of an owner that lives, of one that died just now, or of anyone else."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = {
        "left": f"{PREFIX}{ended.pid}-a",
        "new": f"{PREFIX}{ended.pid}-b",
        "owned": f"{PREFIX}{os.getpid()}-c",
        "other": f"{PREFIX}x-d",
    }
    for name in names.values():
        (tmp_path / name / "program").mkdir(parents=True)
    for name in ("left", "owned", "other"):
        os.utime(tmp_path / names[name], (0, 0))
    remove_stale()
    assert {path.name for path in tmp_path.iterdir()} == set(names.values()) - {names["left"]}


def test_a_box_ends_with_the_process_that_began_it(sandbox: Sandbox, tmp_path: Path) -> None:
    """Even where that is killed and can clear nothing away."""
    ready = "from cerebellum.evals.sandbox import *; from cerebellum.evals.sandbox.boxes import Box; print('ready', flush=True)"
    source = "import time\ndef add_one(x):\n    time.sleep(600)\n"
    code = f"{ready}\nSandbox(Box({sandbox.box.kind!r})).run({source!r}, {TESTS!r}, 'add_one', Limits(seconds=600))"
    environment = {**os.environ, "PYTHONPATH": str(boxes.HERE.parents[2]), "TMPDIR": str(tmp_path)}
    runner = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert runner.stdout is not None and runner.stdout.readline()
    wait_until(lambda: list(tmp_path.glob("*/judge/text.py")))
    runner.kill()
    runner.wait()
    runner.stdout.close()
    assert not left_over(tmp_path)


@pytest.mark.parametrize("end", ["its parent is killed", "it is told to end", "its command ends"])
def test_whatever_a_tied_command_began_ends_with_it(end: str, tmp_path: Path) -> None:
    """Even what has left its parent, its session and its group, as the first process of a bubblewrap that was killed too early."""
    ready, orphan = tmp_path / "ready", ["sleep", f"600.{os.getpid()}"]
    lines = f"import subprocess, time, pathlib\nsubprocess.Popen({orphan}, start_new_session=True)\n"
    lines += f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep({0 if end == 'its command ends' else 600})"
    starts = f"import subprocess, sys, os\nsubprocess.Popen([sys.executable, {str(boxes.HERE / 'tied.py')!r}, str(os.getpid()), *sys.argv[1:]]).wait()"
    starter = subprocess.Popen([sys.executable, "-c", starts, sys.executable, "-c", lines])
    wait_until(ready.exists)
    if end == "its parent is killed":
        starter.kill()
    elif end == "it is told to end":
        (tied,) = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
        os.kill(int(tied), signal.SIGTERM)
    starter.wait()
    assert not left_over(Path(orphan[1])) and not left_over(ready)


@pytest.mark.parametrize(
    "call",
    [
        "unshare(0x10000000)",  # a user namespace, whose root could mount memory
        "shmget(0, ctypes.c_size_t(1 << 20), 0o1600)",  # a shared segment outlives its mapping
        "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "ptrace(16, 1, 0, 0)",  # attach to the first process
        "chroot(b'/tmp')",
    ],
)
def test_no_way_around_the_limits_through_the_kernel(sandbox: Sandbox, call: str) -> None:
    """Calls that would give memory or rights that no limit of a process counts fail."""
    source = (
        f"import ctypes\ngot = ctypes.CDLL(None).{call} >= 0\ndef add_one(x):\n    return x + 1 if got else 'refused'\n"
    )
    assert reason_of(sandbox, source) == "assertion"


def wait_until(true: Callable[[], object]) -> None:
    """Or fail after a minute."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that were begun with a path in ``folder``; they may take a while to end."""
    found: list[str] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if str(folder).encode() in words:
                found.append(words.decode())
        if not found:
            return []
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return len(bytearray(10**11))", "memory"),
        ("kept = []\n    while True:\n        kept.append(bytes(10**6))", "memory"),
        ("import time\n    time.sleep(1000)", "timeout"),
        ("while True:\n        pass", "timeout"),
        ("import signal, time\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(1000)", "timeout"),
        ("while True:\n        print('x' * 10**6)", "output limit"),
        ("i = 0\n    while True:\n        i += 1\n        open(f'/tmp/{i}', 'wb').write(bytes(10**6))", "output limit"),
        ("return add_one(x)", "RecursionError"),
        ("import sys\n    sys.exit(0)", "SystemExit"),
        ("import os\n    os._exit(0)", "no verdict"),
        (
            "import os\n    os.kill(os.getpid(), 9)",
            "killed|no verdict|assertion",
        ),  # the first process of a namespace is deaf to itself
        ("import ctypes\n    ctypes.string_at(0)", "no verdict|killed"),
        ("return 'x' * 10**8", "error"),
        ("a = []\n    a.append(a)\n    return a", "error"),
    ],
)
def test_what_would_eat_the_machine_or_end_the_tests(sandbox: Sandbox, body: str, reason: str) -> None:
    """Memory, time, output, disk, exits: each with a reason that says so."""
    limits = LIMITS if reason == "timeout" else PATIENT
    said = reason_of(sandbox, f"def add_one(x):\n    {body}\n", limits=limits)
    assert any(word in said for word in reason.split("|")), said


@pytest.mark.parametrize(
    "source",
    [
        "class E:\n    def __eq__(self, other): return True\ndef add_one(x):\n    return E()\n",
        "class I(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef add_one(x):\n    return I(7)\n",
        "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef add_one(x):\n    return 7\n",
        "import builtins\nbuiltins.all = builtins.abs = lambda *a: True\ndef check(c): pass\ndef add_one(x):\n    return 7\n",
        "def abs(x): return 0\ndef all(x): return True\ndef check(c): pass\ndef add_one(x):\n    return 7\n",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'passed')\n    except OSError: pass\ndef add_one(x):\n    return 7\n",
        "import os\ndef add_one(x):\n    for fd in range(64):\n        try: os.write(fd, b'passed')\n        except OSError: pass\n    os._exit(0)\n",
        "import os, signal\ndef add_one(x):\n    for pid in (-1, os.getppid(), 1):\n        try: os.kill(pid, signal.SIGKILL)\n        except OSError: pass\n    return 7\n",
        "import sys\nsys.stdout.write('passed')\nsys.exit(0)\n",
        "import os\nos.write(1, b'passed')\nos._exit(0)\n",
    ],
)  # fmt: skip
def test_tests_can_not_be_patched_from_inside(sandbox: Sandbox, source: str) -> None:
    """They run elsewhere: a wrong program stays wrong, whatever it does to its own interpreter."""
    tests = "def check(candidate):\n    assert all(abs(candidate(x) - (x + 1)) < 1e-6 for x in (2, -1))\n"
    reason_of(sandbox, source, tests)


def test_an_object_that_would_run_when_it_is_read_is_refused(sandbox: Sandbox) -> None:
    """A pickle that names a function is no plain data."""
    source = (
        "import os, pickle, struct\nclass Evil:\n    def __reduce__(self): return (os.system, ('touch /tmp/evil',))\n"
        "def add_one(x):\n    data = pickle.dumps({'value': Evil()})\n    for fd in range(3, 64):\n        try: os.write(fd, struct.pack('<I', len(data)) + data)\n"
        "        except OSError: pass\n    return 3\n"
    )
    assert "no verdict" in reason_of(sandbox, source)


def test_several_at_once(sandbox: Sandbox) -> None:
    """Threads share nothing: each program has its own answer."""
    sources = [f"def add_one(x):\n    return x + {1 + i % 2}\n" for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        passed = list(pool.map(lambda s: sandbox.run(s, TESTS, "add_one", PATIENT).passed, sources))
    assert passed == [i % 2 == 0 for i in range(8)]


def test_a_box_leaves_nothing_behind(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is gone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sandbox.run(HONEST, TESTS, "add_one", PATIENT).passed
    assert list(tmp_path.iterdir()) == []


def test_without_isolation_it_refuses_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install and what to give; then limits hold, and the report says that there is no sandbox."""
    monkeypatch.setattr("cerebellum.evals.sandbox.runner.working_box", lambda: None)
    with pytest.raises(SandboxError, match=r"bubblewrap.*--unsafe-execution") as caught:
        Sandbox.find()
    assert caught.value.exit_code == 8
    unsafe = Sandbox.find(unsafe=True)
    assert "NO sandbox" in unsafe.describe()
    assert unsafe.run(HONEST, TESTS, "add_one", PATIENT).passed
    assert unsafe.run("def add_one(x):\n    while True: pass\n", TESTS, "add_one", LIMITS).reason == "timeout"


def test_root_takes_namespaces_by_hand() -> None:
    """They end as a user that nobody is, bubblewrap or not."""
    if os.geteuid() != 0 or not Box("namespaces").works():
        pytest.skip("not root, or no namespaces")
    boxes.refusals.cache_clear()
    assert boxes.working_box() == Box("namespaces")
