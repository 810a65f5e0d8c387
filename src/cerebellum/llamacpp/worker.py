"""The child process that holds llama.cpp: reads calls on its standard input, answers on what was its standard output.

Run as ``python -m cerebellum.llamacpp.worker``. Whatever native code prints goes to standard error, which the parent keeps for its
message should this process abort. It ends when its parent does.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cerebellum.errors import CerebellumError, EngineError


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

    def open(self, path: Path, settings: Any, sources: Any) -> int:
        from cerebellum.llamacpp.trial.engine import LlamaEngine

        self.engine = LlamaEngine(path, settings, sources)
        return int(self.engine.n_vocab)

    def open_responder(self, *args: Any) -> Any:
        from cerebellum.llamacpp.generate.responder import LlamaResponder

        self.engine = LlamaResponder(*args)
        return self.engine.facts

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        found = getattr(self.engine, method)
        return found(*args, **kwargs) if callable(found) else found


def serve(calls: BinaryIO, answers: BinaryIO) -> None:
    """Answer calls until the parent closes the pipe."""
    host = Host()
    while True:
        try:
            method, args, kwargs = pickle.load(calls)
        except EOFError:
            return
        _answer(answers, host, method, args, kwargs)


def _answer(answers: BinaryIO, host: Host, method: str, args: Any, kwargs: Any) -> None:
    try:
        result = getattr(host, method)(*args, **kwargs)
        if isinstance(result, Iterator):
            for item in result:
                _send(answers, "item", item)
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
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
