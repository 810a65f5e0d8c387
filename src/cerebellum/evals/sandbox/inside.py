"""What runs in a box: ``program`` holds what a model wrote and answers calls of it; ``judge`` holds the tests and makes the calls.

The two are processes in boxes of their own, so what was written can't touch its tests: it can't see them, patch them, exit for them or
speak for them. Plain data alone goes between them (numbers, texts, None, ranges, lists, tuples, sets, dicts), so that no object with an
``__eq__`` of its own arrives. Beside it a message of the program may name, by numbers, what can't be copied:

* a list, dict or set of the arguments: the very one that the tests gave, and what is in it now where the call changed that;
* an iterator: the tests get a generator of their own that asks for each item when it is wanted, `MOST_ITEMS` at most.

A dict's view arrives as that of a dict made anew. A script without imports of ours: it is started by path, with nothing installed in sight.
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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

#: Bytes of one message at most.
MESSAGE = 8 << 20
#: Items of one iterator at most; what yields without end is ended here or by the time.
MOST_ITEMS = 100_000
#: Kinds of plain values, each before those it extends.
CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset)
BASIC: tuple[Any, ...] = (bool, int, float, complex, str, bytes, range)
#: Kinds that a call can change, and a dict's views: how they are made again of a list.
MUTABLE = (list, dict, set)
VIEWS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "keys": (type({}.keys()), lambda listed: dict.fromkeys(listed).keys()),
    "values": (type({}.values()), lambda listed: dict(enumerate(listed)).values()),
    "items": (type({}.items()), lambda listed: dict(listed).items()),
}


class Ended(Exception):
    """The other side is gone, or sent what is no message."""


class Ref:
    """In a message, what can't be copied: ``pid`` is the number of a container among the arguments, or ("iterator", number), or the kind
    of a view and what is in it."""

    __slots__ = ("pid",)

    def __init__(self, pid: Any) -> None:
        self.pid = pid


class _PlainPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if type(obj) is Ref else None


def refused(pid: Any) -> Any:
    """No reference is understood."""
    raise Ended("sent something that is no plain data")


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain data and nothing that could run; ``meant`` says what a reference stands for."""

    def __init__(self, stream: BinaryIO, meant: Callable[[Any], Any]) -> None:
        super().__init__(stream)
        self._meant = meant

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in {"complex", "set", "frozenset", "range"}:
            return getattr(builtins, name)
        raise Ended("sent something that is no plain data")

    def persistent_load(self, pid: Any) -> Any:
        return self._meant(pid)


class Wire:
    """Messages over two file descriptors: their length, then a pickle of plain data."""

    def __init__(self, reader: int, writer: int) -> None:
        self._in: BinaryIO = os.fdopen(reader, "rb")
        self._out: BinaryIO = os.fdopen(writer, "wb")

    def send(self, value: Any) -> None:
        stream = io.BytesIO()
        _PlainPickler(stream, protocol=4).dump(value)
        data = stream.getvalue()
        if len(data) > MESSAGE:
            raise ValueError(f"a value of {len(data)} bytes is too large")
        self._out.write(struct.pack("<I", len(data)) + data)
        self._out.flush()

    def receive(self, meant: Callable[[Any], Any] = refused) -> Any:
        head = self._in.read(4)
        if len(head) < 4:
            raise Ended("ended")
        (size,) = struct.unpack("<I", head)
        data = self._in.read(size) if size <= MESSAGE else b""
        if len(data) < size:
            raise Ended("sent too much, or broke off")
        try:
            return _PlainUnpickler(io.BytesIO(data), meant).load()
        except Ended:
            raise
        except Exception as error:
            raise Ended("sent what is no message") from error


def plain(value: Any, marked: Callable[[Any], Ref | None] = lambda value: None, depth: int = 0) -> Any:
    """``value`` as plain data; subclasses (Counter, namedtuple, …) as what they extend. ``marked``: what goes as a reference.

    Raises TypeError for anything else.
    """
    if value is None or type(value) in BASIC:
        return value
    if depth > 100:
        raise TypeError("returned data nested too deep")
    if (reference := marked(value)) is not None:
        return reference
    if isinstance(value, dict):
        return {plain(k, marked, depth + 1): plain(v, marked, depth + 1) for k, v in dict.items(value)}
    for kind in CONTAINERS:
        if isinstance(value, kind):
            return kind(plain(each, marked, depth + 1) for each in kind.__iter__(value))
    for basic in BASIC:
        if isinstance(value, basic):
            return basic(value)
    raise TypeError(f"returned a {type(value).__name__}, which is no plain data")


def containers_in(values: tuple[Any, ...]) -> list[Any]:
    """The lists, dicts and sets in plain data, each once: the tests' side and the program's find them in the same order."""
    containers, seen, left = [], set(), list(values)
    while left:
        each = left.pop()
        if type(each) not in (*MUTABLE, tuple) or id(each) in seen:
            continue
        seen.add(id(each))
        if type(each) is not tuple:
            containers.append(each)
        left.extend(each.values() if type(each) is dict else () if type(each) is set else each)
    return containers


def limit(memory: int, cpu_seconds: int, file_bytes: int, processes: int) -> None:
    """This process's limits. Lower ones that are in force stay. Raises OSError where one can't be set."""
    wanted = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: processes,
    }
    for name, most in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (value, value))


def wire_of_standard_streams() -> Wire:
    """Take standard input and output for messages; what is printed goes to a file that may not grow large."""
    wire = Wire(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY | os.O_CREAT, 0o600)  # a plain file where a box has no devices
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


class Given:
    """The containers that a call was given, and what was in them when the tests last knew it."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.containers = containers_in(arguments)
        self.numbers = {id(each): number for number, each in enumerate(self.containers)}
        self._known = [contents(each) for each in self.containers]

    def changed(self) -> dict[int, Any]:
        """Those that hold something else now, by number."""
        now = [contents(each) for each in self.containers]
        pairs = enumerate(zip(self._known, now, strict=True))
        changed_ones = [
            n for n, (a, b) in pairs if len(a) != len(b) or any(x is not y for x, y in zip(a, b, strict=True))
        ]
        self._known = now
        return {number: self.containers[number] for number in changed_ones}


def contents(container: Any) -> list[Any]:
    """What is in it, one after another."""
    return [*container, *(container.values() if type(container) is dict else ())]


class Server:
    """Answers calls of a program's functions, and for the items of the iterators that they returned."""

    def __init__(self, space: Mapping[str, Any]) -> None:
        self._space = space
        self._iterators: list[tuple[Iterator[Any], Given]] = []

    def answer(self, asked: Any) -> dict[str, Any]:
        """``("call", name, args, kwargs)`` or ``("next", number)``: the value, or the error, or nothing at an iterator's end; and what
        the arguments' containers hold where that is changed."""
        if asked[0] == "next":
            iterator, given = self._iterators[asked[1]]
            return self._told(partial(next, iterator), given, ends=StopIteration)
        _, name, args, kwargs = asked
        return self._told(lambda: self._space[name](*args, **kwargs), Given((*args, *kwargs.values())))

    def _told(
        self, work: Callable[[], Any], given: Given, ends: tuple[()] | type[StopIteration] = ()
    ) -> dict[str, Any]:
        mark = partial(self._marked, given)
        try:
            answer = {"value": plain(work(), mark)}
        except ends:
            answer = {}
        except BaseException as error:
            answer = described(error)
        try:
            changed = {n: plain_contents(each, mark) for n, each in given.changed().items()}
        except BaseException as error:
            return described(error)
        return {**answer, "changed": changed} if changed else answer

    def _marked(self, given: Given, value: Any) -> Ref | None:
        """A reference to what isn't copied; views and iterators only where nothing plain is extended."""
        if (number := given.numbers.get(id(value))) is not None:
            return Ref(number)
        if isinstance(value, (*CONTAINERS, *BASIC, dict)):
            return None
        for name, (kind, _) in VIEWS.items():
            if isinstance(value, kind):
                return Ref((name, [plain(each, partial(self._marked, given), 1) for each in value]))
        if isinstance(value, Iterator):
            self._iterators.append((value, given))
            return Ref(("iterator", len(self._iterators) - 1))
        return None


def plain_contents(container: Any, marked: Callable[[Any], Ref | None]) -> Any:
    """A list, dict or set whose own identity is known, by what is in it."""
    if type(container) is dict:
        return {plain(k, marked, 1): plain(v, marked, 1) for k, v in container.items()}
    return type(container)(plain(each, marked, 1) for each in container)


def serve(source: str, wire: Wire) -> None:
    """Run ``source``, tell what it defines, then answer for ever."""
    space: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(source, "program", "exec"), space)
        answer = names_in(space)
    except BaseException as error:
        answer = described(error)
    wire.send(answer)
    server = Server(space)
    while True:
        asked = wire.receive()
        answer = server.answer(asked)
        try:
            wire.send(answer)
        except (ValueError, MemoryError) as error:
            wire.send(described(error))


# -- the tests' side ---------------------------------------------------------------------------------------------------


class ProgramError(Exception):
    """The program raised an error that has no built-in kind."""


class Remote:
    """The program, as the tests reach it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function's value, or its error; containers among the arguments are changed as it changed them."""
        given = containers_in((*args, *kwargs.values()))
        return self._ask(("call", name, args, kwargs), given)["value"]

    def _items(self, number: int, given: list[Any]) -> Iterator[Any]:
        """The items of an iterator of the program's, each when it is wanted."""
        for _ in range(MOST_ITEMS):
            answer = self._ask(("next", number), given)
            if "value" not in answer:
                return
            yield answer["value"]
        raise RuntimeError(f"an iterator yields more than {MOST_ITEMS:,} items")

    def _ask(self, asked: tuple[Any, ...], given: list[Any]) -> dict[str, Any]:
        self._wire.send(asked)
        answer = self._wire.receive(partial(self._meant, given))
        if not isinstance(answer, dict):
            raise Ended("sent what is no message")
        put_back(given, answer.get("changed", {}))
        if "error" not in answer:
            return answer
        kind: Any = getattr(builtins, str(answer["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = ProgramError
        raise kind(str(answer.get("text")))

    def _meant(self, given: list[Any], pid: Any) -> Any:
        if type(pid) is int and 0 <= pid < len(given):
            return given[pid]
        kind, what = pid
        return self._items(what, given) if kind == "iterator" else VIEWS[kind][1](what)


def put_back(given: list[Any], changed: Any) -> None:
    """The arguments' containers as the program left them."""
    for number, now in changed.items():
        before = given[number]
        if type(now) is not type(before):
            raise Ended("sent what is no message")
        before.clear()
        (before.extend if type(before) is list else before.update)(now)


def proxy(name: str, remote: Remote) -> Any:
    """A function that calls the program's."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return remote.call(name, args, kwargs)

    call.__name__ = name
    return call


def mentioned(tests: str) -> set[str]:
    """Names that the tests use and Python doesn't have: those of the program's that they may be given. The verdict is never its own."""
    names = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return {name for name in names if not hasattr(builtins, name) and not name.startswith("__")} - {"check"}


def judge(tests: str, entry_point: str, wire: Wire) -> str:
    """Run ``check`` of the tests on the program's function: "passed", or what went wrong."""
    try:
        reply = wire.receive()
        if "error" in reply:
            return f"error: {reply['text']}"
        if entry_point not in reply["functions"]:
            return f"error: it defines no {entry_point}"
        remote = Remote(wire)
        space = given_to(tests, reply, remote)
        exec(compile(tests, "tests", "exec"), space)
        space["check"](proxy(entry_point, remote))
    except BaseException as error:
        return reason_of(error)
    return "passed"


def given_to(tests: str, definitions: dict[str, Any], remote: Remote) -> dict[str, Any]:
    """The names that tests begin with: what they mention of the program's."""
    wanted = mentioned(tests)
    space: dict[str, Any] = {"__name__": "tests"}
    space |= {name: value for name, value in definitions["values"].items() if name in wanted}
    for alias, name in definitions["modules"].items():
        if alias in wanted and name in sys.stdlib_module_names:
            space[alias] = importlib.import_module(name)
    return space | {name: proxy(name, remote) for name in definitions["functions"] if name in wanted}


def reason_of(error: BaseException) -> str:
    """What ended the tests, in a few words."""
    if isinstance(error, Ended | BrokenPipeError):
        return f"no verdict: the program {error if isinstance(error, Ended) else 'ended'}"
    message = str(error)
    if isinstance(error, AssertionError) and not message.startswith("AssertionError"):
        return "assertion"
    return f"error: {message or type(error).__name__}"


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
    word = judge(text, ast.literal_eval(sys.argv[7]), wire)
    os.write(verdict, word[:400].encode("utf-8", "replace"))
    os._exit(0)


if __name__ == "__main__":
    main()
