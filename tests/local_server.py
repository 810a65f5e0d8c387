"""A web server on this machine, for tests of what talks to a hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering(BaseHTTPRequestHandler):
    """Every request goes to `answer`, which a test's own server says."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        pass

    def json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.start(code, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def start(self, code: int, length: int | None, headers: Mapping[str, str]) -> None:
        """``length`` None: the body ends with the connection."""
        self.send_response(code)
        ends = {"Connection": "close"} if length is None else {"Content-Length": str(length)}
        for name, value in {**headers, **ends}.items():
            self.send_header(name, value)
        self.end_headers()


class Quiet(ThreadingHTTPServer):
    """A client that goes away in the middle is no error, and is not told on the standard error of the test that runs meanwhile."""

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def served(handler: type[Answering], **state: Any) -> Iterator[str]:
    """A server of ``handler`` with ``state`` as its class's attributes; gives the address."""
    server = Quiet(("127.0.0.1", 0), type("Served", (handler,), state))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
