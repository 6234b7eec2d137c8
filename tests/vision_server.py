"""A real server on loopback that speaks OpenAI's chat completions, and fails as real ones do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOMATOES = {
    "name": "Chopped Tomatoes",
    "brand": "Example",
    "package": "can 400 g",
    "quantity": 3,
    "confidence": 0.8,
    "expiry": "03/2027",
}
SHELF = {"scene": {"type": "pantry shelf", "confidence": 0.9}, "items": [TOMATOES]}


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    how: str = "whole"
    """``whole``, ``hang``, ``drip header``, ``drip body``, ``flood`` or ``close``."""


def said(
    content: object, finish: str = "stop", *, usage: object = (1_000, 100), **message: object
) -> Reply:
    """A completion with this content."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }
    body: dict[str, object] = {"object": "chat.completion", "choices": [choice]}
    if isinstance(usage, tuple):
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(body=json.dumps(body).encode())


def refused(status: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's form."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), fields)


GOOD = said(json.dumps(SHELF))
Replies = Callable[["Asked"], Reply]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any  # JSON


class _Http(ThreadingHTTPServer):
    """Knows whom its handlers ask."""

    def __init__(self, vision: "VisionServer") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.vision = vision


class VisionServer:
    """Answers with ``replies`` in their order, the last one for ever."""

    def __init__(self) -> None:
        self.replies: list[Reply | Replies] = [GOOD]
        self.asked: list[Asked] = []
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        self._http = _Http(self)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def run(self) -> None:
        self._http.serve_forever(poll_interval=0.01)

    def close(self) -> None:
        self.is_over.set()
        self._http.shutdown()
        self._http.server_close()

    def next_reply(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply if isinstance(reply, Reply) else reply(asked)


class _Handler(BaseHTTPRequestHandler):
    server: _Http

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.vision.next_reply(Asked(self.path, headers, json.loads(content)))
        self.close_connection = True
        # The client may have had enough before the end.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.answer(reply)

    def answer(self, reply: Reply) -> None:
        if reply.how == "hang":
            self.server.vision.is_over.wait(30)
        elif reply.how == "drip header":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000)
        elif reply.how != "close":
            self.send_head(reply)
            self.send_body(reply)

    def send_head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.how == "whole":
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()

    def send_body(self, reply: Reply) -> None:
        if reply.how == "drip body":
            self.drip(b" " * 10_000)
        elif reply.how == "flood":
            while not self.server.vision.is_over.is_set():
                self.wfile.write(b" " * 65_536)
        else:
            self.wfile.write(reply.body)

    def drip(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            if self.server.vision.is_over.wait(0.02):
                return

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def vision_server() -> Iterator[VisionServer]:
    """A server in a thread, ended at the end."""
    server = VisionServer()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
