"""One request on its way: what was decided for it, and how a refusal is sent."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import anyio

from capturekit.ratelimit.asgi import Message, Receive, Scope, Send, header_lines
from capturekit.ratelimit.decision import Decision, RateLimitExceeded, tightest
from capturekit.ratelimit.headers import (
    Refusal,
    rate_limit_lines,
    refusal,
    x_rate_limit_fields,
)
from capturekit.ratelimit.keys import Key
from capturekit.ratelimit.limiter import RateLimiter

SCOPE_KEY = "capturekit.ratelimit"

_FIELDS = (b"ratelimit-policy", b"ratelimit")
_X_FIELDS = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")


@dataclass(frozen=True, slots=True)
class Terms:
    """What all exchanges of one middleware have in common; see there."""

    caller: Key
    named: Mapping[str, RateLimiter]
    x_headers: bool
    drain_bytes: int
    drain_s: float
    members: Callable[[Scope], Mapping[str, object]]


class Spendings:
    """What was decided for one request."""

    __slots__ = ("decisions", "refused")

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.refused = False

    async def spend(self, limiter: RateLimiter, key: str, cost: int = 1) -> Decision:
        """Spend, or raise RateLimitExceeded."""
        decision = await limiter.hit(key, cost)
        self.decisions.append(decision)
        if not decision.allowed:
            self.refused = True
            raise RateLimitExceeded(decision)
        return decision

    def decided(self, decision: Decision) -> bool:
        """Whether a decision was made here, and not on some call that the app made."""
        return any(decision is one for one in self.decisions)


class Exchange(Spendings):
    """One request through a middleware: between its server and its app."""

    __slots__ = (
        "_headers",
        "_held",
        "_http_version",
        "_is_complete",
        "_receive",
        "_send",
        "_was_read",
        "has_started",
        "terms",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, terms: Terms) -> None:
        super().__init__()
        self.has_started = False
        self.terms = terms
        # Not the scope, which holds this: only the collector would free the two.
        self._headers = scope.get("headers", ())
        self._http_version = scope.get("http_version", "")
        self._receive, self._send = receive, send
        self._was_read = self._is_complete = False
        self._held: list[Message] | None = None

    async def receive(self) -> Message:
        """Pass on what the client sends, and remember whether all of it has come."""
        message = await self._receive()
        self._was_read = True
        self._is_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on; the start of the response gets the header fields."""
        if self._held is not None:
            self._held.append(message)
        elif message["type"].endswith("http.response.start"):
            if self.refused and message["status"] == 500:
                # Frameworks send one for an error before they let the error through.
                self._held = [message]
            else:
                await self._start(message)
        else:
            self.has_started = True
            await self._send(message)

    @property
    def holds(self) -> bool:
        """Whether a 500 is held back, because it may be a framework's word for a refusal."""
        return self._held is not None

    async def release(self) -> None:
        """Send what was held back: it was an answer of the app's own."""
        held, self._held = self._held or [], None
        for message in held:
            await (self._send if self.has_started else self._start)(message)

    def close(self) -> None:
        """Let go of the server.

        It holds the scope and the scope this, and only the collector would free the three.
        """
        self._receive, self._send = _receive_nothing, _send_nothing

    async def refuse(self, answer: Refusal, scope: Scope) -> None:
        """Answer so; a websocket is closed where the server cannot send an answer."""
        self.refused, self._held = True, None
        if scope["type"] == "websocket" and not self._was_read:
            # The connect event, which always comes; then the server knows that it was heard.
            await self.receive()
        await send_refusal(answer, scope, self.send, self.terms.members(scope))

    async def _start(self, message: Message) -> None:
        self.has_started = True
        if self.refused:
            await self._drain()
        if self.decisions:
            message = {**message, "headers": self._with_fields(message.get("headers", ()))}
        await self._send(message)

    async def _drain(self) -> None:
        """Read and drop the rest of the upload, within the bounds."""
        if not self._announces_body():
            return
        if not self._was_read and "100-continue" in header_lines(
            {"headers": self._headers}, b"expect"
        ):
            return
        left = self.terms.drain_bytes
        with anyio.move_on_after(self.terms.drain_s):
            while not self._is_complete and left > 0:
                left -= len((await self.receive()).get("body", b""))

    def _announces_body(self) -> bool:
        """Whether a body may come. With HTTP/1 it is announced; not to look saves 10 µs."""
        if not self._http_version.startswith("1"):
            return True
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    def _with_fields(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Add each set of fields, unless the app, or a middleware in it, sent that set."""
        decision = self.decisions[0] if len(self.decisions) == 1 else tightest(self.decisions)
        merged = list(headers)
        names = {name.lower() for name, _ in merged}
        if names.isdisjoint(_FIELDS):
            merged += rate_limit_lines(decision)
        if self.terms.x_headers and names.isdisjoint(_X_FIELDS):
            merged += _encoded(x_rate_limit_fields(decision))
        return merged


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}


async def _send_nothing(_message: Message) -> None:
    pass


async def send_refusal(
    answer: Refusal, scope: Scope, send: Send, members: Mapping[str, object] | None = None
) -> None:
    """Send it as the whole answer to the request of a scope, with more members or other ones."""
    if _is_mute_websocket(scope):
        await send(
            {"type": "websocket.close", "code": 1013, "reason": answer.problem["title"][:99]}
        )
        return
    prefix = "" if scope["type"] == "http" else "websocket."
    body = json.dumps({**answer.problem, **(members or {})}).encode()
    headers = [*_encoded(answer.fields), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": f"{prefix}http.response.start", "status": answer.status, "headers": headers}
    )
    is_head = scope.get("method") == "HEAD"
    await send({"type": f"{prefix}http.response.body", "body": b"" if is_head else body})


def refusal_of(exceeded: RateLimitExceeded, scope: Scope) -> Refusal:
    """The answer for a request that met this error."""
    return refusal(exceeded.decision, instance_of(scope))


def instance_of(scope: Scope) -> str:
    """The path asked for, as a URI reference."""
    return quote(scope["path"])


def _is_mute_websocket(scope: Scope) -> bool:
    extensions = scope.get("extensions") or {}
    return scope["type"] == "websocket" and "websocket.http.response" not in extensions


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields]
