"""Chat templates rendered in a child process, within bounds of time, memory and length. One child serves all templates of a process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

#: Processor time of one rendering, seconds; memory of the child, bytes; length of a rendering, characters.
SECONDS, MEMORY, MOST = 5, 1 << 30, 1 << 24
#: How long the parent waits, in multiples of that time: a busy machine gives a child a small share of its processors.
_PATIENCE = 12


class TemplateRefusal(Exception):
    """The template refuses these messages; others it may take."""


class TemplateBroken(Exception):
    """The template can't be used at all: what it says when compiled, or which bound it broke."""


class Renderer:
    """A child process, started when it is first wanted and again where a template ended it. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(self, source: str, values: Mapping[str, Any] | None) -> str:
        """The template ``source`` with ``values``; None: only compiled. Raises `TemplateRefusal` or `TemplateBroken`."""
        try:
            request = json.dumps({"source": source, "values": values, "seconds": SECONDS, "most": MOST})
        except (RecursionError, ValueError, TypeError) as error:
            raise TemplateRefusal(f"its messages can't be handed over: {error}") from error
        with self._lock:
            answer = self._asked(request.encode() + b"\n")
        if "refused" in answer:
            raise TemplateRefusal(answer["refused"])
        if "broken" in answer:
            raise TemplateBroken(answer["broken"])
        return answer["text"]

    def _asked(self, request: bytes) -> dict[str, str]:
        child = self._started()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(request)
            child.stdin.flush()
        line = self._line(child, time.monotonic() + _PATIENCE * SECONDS)
        if line is None:
            child.kill()
        elif line:
            return {str(name): str(text) for name, text in json.loads(line).items()}
        self._child = None
        try:
            code = child.wait(timeout=_PATIENCE * SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        slow = line is None or code == -signal.SIGXCPU
        return {"broken": f"takes longer than {SECONDS} s" if slow else f"ends the process that renders it ({code})"}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
            command = [sys.executable, "-P", "-m", "cerebellum.text.rendering_child", str(MEMORY)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            self._owner = os.getpid()
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        return self._child

    def _line(self, child: subprocess.Popen[bytes], deadline: float) -> bytes | None:
        """The child's answer; empty where it ended, None where it took or wrote too much."""
        assert child.stdout is not None
        descriptor, line = child.stdout.fileno(), bytearray()
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or len(line) > 16 * MOST or not select.select([descriptor], [], [], left)[0]:
                return None
            block = os.read(descriptor, 1 << 20)
            if not block:
                return b""
            line += block
        return bytes(line)


RENDERER = Renderer()
