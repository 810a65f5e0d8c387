"""What runs in a box: ``program`` holds what a model wrote and answers calls of it; ``judge`` holds the tests and makes the calls.

The two are processes in boxes of their own, so what was written can't touch its tests: it can't see them, patch them, exit for them or
speak for them. Plain data alone goes between them (numbers, texts, None, lists, tuples, sets, dicts), so that no object with an
``__eq__`` of its own arrives. A script without imports of ours: it is started by path, with nothing installed in sight.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import io
import os
import pickle
import resource
import struct
import sys
import types
from typing import Any, BinaryIO

#: Bytes of one message at most.
MESSAGE = 8 << 20
#: Kinds of plain values, each before those it extends.
CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset)
BASIC: tuple[Any, ...] = (bool, int, float, complex, str, bytes)


class Ended(Exception):
    """The other side is gone, or sent what is no message."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain data and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("builtins", "complex"), ("builtins", "set"), ("builtins", "frozenset")}:
            return getattr(builtins, name)
        raise Ended("sent something that is no plain data")


class Wire:
    """Messages over two file descriptors: their length, then a pickle of plain data."""

    def __init__(self, reader: int, writer: int) -> None:
        self._in: BinaryIO = os.fdopen(reader, "rb")
        self._out: BinaryIO = os.fdopen(writer, "wb")

    def send(self, value: Any) -> None:
        data = pickle.dumps(value, protocol=4)
        if len(data) > MESSAGE:
            raise ValueError(f"a value of {len(data)} bytes is too large")
        self._out.write(struct.pack("<I", len(data)) + data)
        self._out.flush()

    def receive(self) -> Any:
        head = self._in.read(4)
        if len(head) < 4:
            raise Ended("ended")
        (size,) = struct.unpack("<I", head)
        data = self._in.read(size) if size <= MESSAGE else b""
        if len(data) < size:
            raise Ended("sent too much, or broke off")
        try:
            return _PlainUnpickler(io.BytesIO(data)).load()
        except Ended:
            raise
        except Exception as error:
            raise Ended("sent what is no message") from error


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` as plain data; subclasses (Counter, namedtuple, …) as what they extend. Raises TypeError for anything else."""
    if depth > 100:
        raise TypeError("returned data nested too deep")
    if isinstance(value, dict):
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in dict.items(value)}
    for kind in CONTAINERS:
        if isinstance(value, kind):
            return kind(plain(each, depth + 1) for each in kind.__iter__(value))
    for basic in BASIC:
        if isinstance(value, basic):
            return basic(value)
    if value is None:
        return None
    raise TypeError(f"returned a {type(value).__name__}, which is no plain data")


def limit(memory: int, cpu_seconds: int, file_bytes: int, processes: int) -> None:
    """This process's limits and its children's. Some can't be set where lower ones are in force: those stay."""
    wanted = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: processes,
    }
    for name, most in wanted.items():
        try:
            resource.setrlimit(name, (most, most))
        except (ValueError, OSError):
            pass


def wire_of_standard_streams() -> Wire:
    """Take standard input and output for messages; what is printed goes to a file that may not grow large."""
    wire = Wire(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY)
    printed = os.open("printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(null, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    return wire


# -- the program's side ------------------------------------------------------------------------------------------------


def names_in(space: dict[str, Any]) -> dict[str, Any]:
    """What tests may use of a program: its functions' names, its plain values, the modules it imported."""
    public = {name: value for name, value in space.items() if not name.startswith("__")}
    values = {}
    for name, value in public.items():
        if value is None or isinstance(value, (*BASIC, list, tuple, dict, set)):
            try:
                values[name] = plain(value)
            except TypeError:
                continue
    return {
        "functions": [name for name, value in public.items() if callable(value)],
        "values": values,
        "modules": {n: v.__name__ for n, v in public.items() if isinstance(v, types.ModuleType)},
    }


def described(error: BaseException) -> dict[str, Any]:
    """An error as plain data: its built-in kind, and a short text."""
    kind = next((k.__name__ for k in type(error).__mro__ if getattr(builtins, k.__name__, None) is k), "Exception")
    try:
        text = str(error)[:200]
    except Exception:
        text = ""
    return {"error": kind, "text": f"{type(error).__name__}: {text}"}


def serve(source: str, wire: Wire) -> None:
    """Run ``source``, tell what it defines, then answer calls for ever."""
    space: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(source, "program", "exec"), space)
        answer = names_in(space)
    except BaseException as error:
        answer = described(error)
    wire.send(answer)
    while True:
        name, args, kwargs = wire.receive()
        try:
            answer = {"value": plain(space[name](*args, **kwargs))}
        except BaseException as error:
            answer = described(error)
        try:
            wire.send(answer)
        except (ValueError, MemoryError) as error:
            wire.send(described(error))


# -- the tests' side ---------------------------------------------------------------------------------------------------


class ProgramError(Exception):
    """The program raised an error that has no built-in kind."""


def proxy(name: str, wire: Wire) -> Any:
    """A function that calls the program's."""

    def call(*args: Any, **kwargs: Any) -> Any:
        wire.send((name, args, kwargs))
        answer = wire.receive()
        if "error" in answer:
            kind: Any = getattr(builtins, str(answer["error"]), None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                kind = ProgramError
            raise kind(str(answer.get("text")))
        return answer["value"]

    call.__name__ = name
    return call


def mentioned(tests: str) -> set[str]:
    """Names that the tests use and Python doesn't have: those of the program's that they may be given."""
    names = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return {name for name in names if not hasattr(builtins, name) and not name.startswith("__")}


def judge(tests: str, entry_point: str, wire: Wire) -> str:
    """Run ``check`` of the tests on the program's function: "passed", or what went wrong."""
    try:
        found = wire.receive()
        if "error" in found:
            return f"error: {found['text']}"
        if entry_point not in found["functions"]:
            return f"error: it defines no {entry_point}"
        space = given_to(tests, found, wire)
        exec(compile(tests, "tests", "exec"), space)
        space["check"](proxy(entry_point, wire))
    except BaseException as error:
        return reason_of(error)
    return "passed"


def given_to(tests: str, found: dict[str, Any], wire: Wire) -> dict[str, Any]:
    """The names that tests begin with: what they mention of the program's."""
    wanted = mentioned(tests)
    space: dict[str, Any] = {"__name__": "tests"}
    space |= {name: value for name, value in found["values"].items() if name in wanted}
    for alias, name in found["modules"].items():
        if alias in wanted and name in sys.stdlib_module_names:
            space[alias] = importlib.import_module(name)
    return space | {name: proxy(name, wire) for name in found["functions"] if name in wanted}


def reason_of(error: BaseException) -> str:
    """What ended the tests, in a few words."""
    if isinstance(error, Ended | BrokenPipeError):
        return f"no verdict: the program {error if isinstance(error, Ended) else 'ended'}"
    said = str(error)
    if isinstance(error, AssertionError) and not said.startswith("AssertionError"):
        return "assertion"
    return f"error: {said or type(error).__name__}"


def main() -> None:
    """``inside.py program|judge FOLDER MEMORY CPU FILE_BYTES PROCESSES [ENTRY_POINT]``; the text is in FOLDER."""
    role, folder, *numbers = sys.argv[1:7]
    with open(os.path.join(folder, "text.py"), encoding="utf-8") as stream:
        text = stream.read()
    verdict = None if role == "program" else os.dup(2)
    wire = wire_of_standard_streams()
    limit(*map(int, numbers))
    if verdict is None:
        serve(text, wire)
        return
    sys.setrecursionlimit(2000)
    said = judge(text, ast.literal_eval(sys.argv[7]), wire)
    os.write(verdict, said[:400].encode("utf-8", "replace"))
    os._exit(0)


if __name__ == "__main__":
    main()
