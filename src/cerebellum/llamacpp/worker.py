"""The child process that holds llama.cpp: reads calls on its standard input, answers on what was its standard output.

Run as ``python -P -m cerebellum.llamacpp.worker``. Whatever native code prints goes to standard error, which the parent keeps for its
message should this process abort. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cerebellum.errors import CerebellumError, EngineError

#: New objects before Python looks for garbage: numba and the loops make 108,000 that stay.
MANY_OBJECTS = 100_000


class Host:
    """What the parent can call. One engine or responder at most is open."""

    def __init__(self) -> None:
        self.engine: Any = None

    def build_id(self) -> str:
        from cerebellum.llamacpp import native

        return native.build_id()

    def types(self, *args: Any) -> Any:
        from cerebellum.llamacpp.files import realized_types

        return realized_types(*args)

    def quantize(self, *args: Any) -> None:
        from cerebellum.llamacpp.files import write_file

        write_file(*args)

    def weight_errors(self, *args: Any) -> Any:
        from cerebellum.llamacpp.trial.weight_errors import weight_errors

        return weight_errors(*args)

    def native(self) -> Any:
        from cerebellum.llamacpp.health import native_facts

        return native_facts()

    def memory(self, *args: Any) -> Any:
        from cerebellum.llamacpp.memory import allocated

        return allocated(*args)

    def speed(self, *args: Any) -> Any:
        from cerebellum.llamacpp.speed import timed

        return timed(*args)

    def open(self, path: Path, settings: Any, sources: Any) -> int:
        from cerebellum.llamacpp.trial.engine import LlamaEngine

        if settings.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, settings.cores)  # before llama.cpp and our own pools start threads
        self.engine = LlamaEngine(path, settings, sources)
        return int(self.engine.n_vocab)

    def open_responder(self, *args: Any) -> Any:
        from cerebellum.llamacpp.generate.responder import LlamaResponder

        self.engine = LlamaResponder(*args)
        return self.engine.facts

    def close(self) -> None:
        self.engine.close()
        self.engine = None

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        attribute = getattr(self.engine, method)
        return attribute(*args, **kwargs) if callable(attribute) else attribute


class Mailbox:
    """What the parent sends: calls, in their order, and the number of the last call that it no longer reads."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.calls: queue.SimpleQueue[tuple[int, str, Any, Any] | None] = queue.SimpleQueue()
        self.stopped = 0
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def is_stopped(self, number: int) -> bool:
        """Whether the parent no longer reads what call ``number`` gives."""
        return self.stopped >= number

    def _read(self, pipe: BinaryIO) -> None:
        while True:
            try:
                kind, number, *rest = pickle.load(pipe)
            except (EOFError, OSError):
                self.calls.put(None)
                return
            if kind == "stop":
                self.stopped = number
            else:
                self.calls.put((number, *rest))


def serve(calls: BinaryIO, answers: BinaryIO) -> None:
    """Answer calls until the parent closes the pipe."""
    host, mailbox = Host(), Mailbox(calls)
    while call := mailbox.calls.get():
        number, method, args, kwargs = call
        _answer(answers, host, functools.partial(mailbox.is_stopped, number), method, args, kwargs)


def _answer(answers: BinaryIO, host: Host, is_stopped: Callable[[], bool], method: str, args: Any, kwargs: Any) -> None:
    """The result of a call, or its items one by one until nobody reads on, or its error."""
    try:
        result = getattr(host, method)(*args, **kwargs)
        if isinstance(result, Iterator):
            for item in result:
                if is_stopped():
                    break
                _send(answers, "item", item)
            close = getattr(result, "close", None)
            if close is not None:
                close()  # puts the weights back now
            result = None
        _send(answers, "value", result)
    except CerebellumError as error:
        _send(answers, "error", error)
    except MemoryError:
        _send(answers, "error", EngineError("out of memory"))
    except Exception as error:
        _send(answers, "error", EngineError(f"unexpected {type(error).__name__} in the engine: {error}"))


def _send(answers: BinaryIO, kind: str, value: Any) -> None:
    pickle.dump((kind, value), answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


def _end_with_parent(parent: int) -> None:
    """A long native call doesn't see the pipe close, so watch the parent itself."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    gc.set_threshold(MANY_OBJECTS)
    with contextlib.suppress(BrokenPipeError):
        serve(os.fdopen(os.dup(0), "rb"), answers)
    os._exit(0)  # the system takes everything back at once; the interpreter would visit every object of numba first


if __name__ == "__main__":
    main()
