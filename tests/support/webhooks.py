"""A web server that takes what is posted to it, and answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Posted:
    """What came: the path, the headers (in lower case), the body."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """A running server, what came so far, and what it is still to answer. Then it answers 204.

    While `hung` is set it answers nothing.
    """

    url: str = ""
    came: list[Posted] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    hung: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def receiver(answers: Sequence[Answer] = (), *, hangs: bool = False) -> Iterator[Receiver]:
    """Runs a server on a free port of the loopback address."""
    one = Receiver(answers=list(answers))
    if hangs:
        one.hung.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            one.came.append(Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            if one.hung.is_set():
                one.released.wait(60)
                return
            status, headers = one.answers.pop(0) if one.answers else (204, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield one
    finally:
        one.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
