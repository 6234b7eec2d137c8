"""Requests to ASGI apps without a server, and limiters whose time stands still."""

from collections.abc import Iterable
from typing import Any

import anyio
from starlette.responses import PlainTextResponse

from capturekit.ratelimit import MemoryStorage, RateLimiter
from capturekit.ratelimit.asgi import App, Message, Receive, Scope, Send


def limiter(rules: str, name: str = "default") -> RateLimiter:
    return RateLimiter(rules, name=name, storage=MemoryStorage(clock=lambda: 1000.0))


class Call:
    """One request to an app, and all that the app sent for it."""

    def __init__(self, method: str, path: str, body: Iterable[bytes] = (b"",)) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [],
            "client": ("203.0.113.9", 5000),
        }
        *head, last = body
        self.incoming: list[Message] = [
            *({"type": "http.request", "body": part, "more_body": True} for part in head),
            {"type": "http.request", "body": last, "more_body": False},
        ]
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self.incoming:
            return self.incoming.pop(0)
        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def to(self, app: App) -> "Call":
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        (start,) = [one for one in self.sent if one["type"].endswith("response.start")]
        status: int = start["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(key.decode(), value.decode()) for key, value in self.sent[0]["headers"]]
        assert len(dict(pairs)) == len(pairs), f"a field was sent twice: {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.sent)


async def get(app: App, path: str = "/", method: str = "GET") -> Call:
    return await Call(method, path).to(app)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)
