"""Rate limits around any ASGI app, by route template and by who asks."""

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import anyio

from capturekit.ratelimit.asgi import App, Message, Receive, Scope, Send, header_lines, route_path
from capturekit.ratelimit.decision import Decision, RateLimitExceeded, tightest
from capturekit.ratelimit.headers import rate_limit_fields, refusal, x_rate_limit_fields
from capturekit.ratelimit.identity import ClientAddress
from capturekit.ratelimit.limiter import RateLimiter
from capturekit.ratelimit.memory import MemoryStorage

EVERYTHING = "*"
"""The key of the limit that lies under all others."""

DEFAULT_DRAIN_BYTES = 32 * 2**20
"""Read of a refused upload. Over the largest upload that is taken by default (20 MiB)."""

DEFAULT_DRAIN_S = 10.0

SCOPE_KEY = "capturekit.ratelimit"

Identify = Callable[[Scope], Awaitable[str | None] | str | None]


class RateLimitMiddleware:
    """Lets a request through when every limit on it allows, and says so in the headers.

    A refusal is a 429 with a problem body. Before it is sent the upload is read and dropped,
    because a client that is still sending does not listen; one that waits for
    ``100 Continue`` is told at once. A websocket counts as a GET when it connects.

    Args:
        app: The app inside.
        limits: By route: ``"POST /v1/things/{id}"`` (or without a method for all of them;
            ``{rest:path}`` also takes slashes) to a RateLimiter or its rules. All ids share
            one limit. The first route that matches counts; GET stands for HEAD too. The key
            ``"*"`` limits all requests by address, unknown paths included, before the rest.
        named: For ``spend``: limiters of endpoints that learn who asks from the body.
        identify: Names the caller by a *verified* credential, or None to go by address.
            Its errors are not caught.
        trusted_proxies: See ClientAddress.
        x_headers: Also send the older ``X-RateLimit-*`` fields.
        drain_bytes: Most that is read of a refused upload.
        drain_s: Longest that reading it takes, in seconds.
    """

    def __init__(
        self,
        app: App,
        *,
        limits: Mapping[str, RateLimiter | str] | None = None,
        named: Mapping[str, RateLimiter] | None = None,
        identify: Identify | None = None,
        trusted_proxies: Iterable[str] = (),
        x_headers: bool = False,
        drain_bytes: int = DEFAULT_DRAIN_BYTES,
        drain_s: float = DEFAULT_DRAIN_S,
    ) -> None:
        limiters = _limiters(limits or {})
        self._app = app
        self._everything = limiters.pop(EVERYTHING, None)
        self._routes = [_Route.parse(route, limiter) for route, limiter in limiters.items()]
        self._named = dict(named or {})
        self._identify = identify
        self._address = ClientAddress(trusted_proxies)
        self._x_headers = x_headers
        self._drain_bytes, self._drain_s = drain_bytes, drain_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP and websockets passes through."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        upload = _Upload(scope, receive, self._drain_bytes, self._drain_s)
        exchange = _Exchange(scope, upload, send, self._named, x_headers=self._x_headers)
        # In place: frameworks outside look into the same scope for the route that was found.
        scope[SCOPE_KEY] = exchange
        try:
            await self._spend(scope, exchange)
            await self._app(scope, upload.receive, exchange.send)
        except RateLimitExceeded as exceeded:
            if exchange.has_started or not exchange.decided(exceeded.decision):
                raise
            await exchange.refuse(exceeded.decision)

    async def _spend(self, scope: Scope, exchange: "_Exchange") -> None:
        address = f"ip:{self._address(scope)}"
        if self._everything is not None:
            await exchange.spend(self._everything, address)
        method, path = scope.get("method", "GET"), route_path(scope)
        for route in self._routes:
            if route.takes(method, path):
                await exchange.spend(route.limiter, await self._caller(scope) or address)
                return

    async def _caller(self, scope: Scope) -> str | None:
        identity = self._identify(scope) if self._identify else None
        if inspect.isawaitable(identity):
            identity = await identity
        return None if identity is None else f"id:{identity}"


async def spend(scope: Scope, name: str, identity: str, cost: int = 1) -> Decision:
    """Spend from the limiter that the middleware has under ``named[name]``.

    For an endpoint, before its response starts: the response's headers then tell of it.
    Raises RateLimitExceeded when refused, LookupError for an unknown name, RuntimeError when
    no RateLimitMiddleware is around. A refusal that reaches the middleware becomes a 429, as
    it does from ``app.add_middleware``; where the middleware is put around a whole framework
    app, that app makes a 500 of it first, unless it has a handler that answers ``refusal``.
    """
    if SCOPE_KEY not in scope:
        raise RuntimeError("spend() works inside an app that RateLimitMiddleware wraps")
    exchange: _Exchange = scope[SCOPE_KEY]
    if name not in exchange.named:
        raise LookupError(f"no limiter is named {name!r}; there are {sorted(exchange.named)}")
    return await exchange.spend(exchange.named[name], identity, cost)


def _limiters(limits: Mapping[str, RateLimiter | str]) -> dict[str, RateLimiter]:
    storage = MemoryStorage()
    return {
        route: RateLimiter(given, name=route, storage=storage) if isinstance(given, str) else given
        for route, given in limits.items()
    }


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    """Empty for all methods."""
    path: re.Pattern[str]
    limiter: RateLimiter

    @classmethod
    def parse(cls, route: str, limiter: RateLimiter) -> "_Route":
        method, _, path = route.rpartition(" ")
        if not path.startswith("/"):
            raise ValueError(f"{route!r} is not a route; write 'POST /v1/things/{{id}}' or '*'")
        return cls(method.strip().upper(), _pattern(path), limiter)

    def takes(self, method: str, path: str) -> bool:
        fits = self.method in ("", method) or (self.method, method) == ("GET", "HEAD")
        return fits and self.path.fullmatch(path) is not None


def _pattern(path: str) -> re.Pattern[str]:
    literals_and_parameters = re.split(r"\{(\w+(?::\w+)?)\}", path)
    for index, part in enumerate(literals_and_parameters):
        if index % 2:
            literals_and_parameters[index] = "(?s:.*)" if part.endswith(":path") else "[^/]+"
        else:
            literals_and_parameters[index] = re.escape(part)
    return re.compile("".join(literals_and_parameters))


class _Upload:
    """What the client sends, and whether all of it has come."""

    def __init__(self, scope: Scope, receive: Receive, drain_bytes: int, drain_s: float) -> None:
        self._receive = receive
        self._drain_bytes, self._drain_s = drain_bytes, drain_s
        self._waits_for_us = "100-continue" in header_lines(scope, b"expect")
        self._was_read = False
        self._is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._was_read = True
        self._is_complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read and drop the rest, within the bounds."""
        if self._waits_for_us and not self._was_read:
            return
        left = self._drain_bytes
        with anyio.move_on_after(self._drain_s):
            while not self._is_complete and left > 0:
                left -= len((await self.receive()).get("body", b""))


class _Exchange:
    """One request and its answer, with what was decided on the way."""

    def __init__(
        self,
        scope: Scope,
        upload: _Upload,
        send: Send,
        named: Mapping[str, RateLimiter],
        *,
        x_headers: bool,
    ) -> None:
        self.named = named
        self.has_started = False
        self._scope, self._upload, self._send = scope, upload, send
        self._x_headers = x_headers
        self._decisions: list[Decision] = []

    async def spend(self, limiter: RateLimiter, identity: str, cost: int = 1) -> Decision:
        decision = await limiter.hit(identity, cost)
        self._decisions.append(decision)
        if not decision.allowed:
            raise RateLimitExceeded(decision)
        return decision

    def decided(self, decision: Decision) -> bool:
        """Whether a decision was made here, and not on some call that the app made."""
        return any(decision is one for one in self._decisions)

    async def send(self, message: Message) -> None:
        """Pass a message on; the start of the response gets the header fields."""
        self.has_started = True
        if message["type"].endswith("http.response.start") and self._decisions:
            decision = tightest(self._decisions)
            if not decision.allowed:
                await self._upload.drain()
            headers = self._with_fields(message.get("headers", ()), decision)
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, decision: Decision) -> None:
        """Answer with 429; a websocket is closed where the server cannot send one."""
        kind = self._scope["type"]
        prefix = "" if kind == "http" else "websocket."
        if kind == "websocket" and "websocket.http.response" not in (
            self._scope.get("extensions") or {}
        ):
            await self._upload.drain()
            await self.send({"type": "websocket.close", "code": 1013, "reason": "rate limit"})
            return
        answer = refusal(decision, quote(self._scope["path"]))
        body = json.dumps(answer.problem).encode()
        headers = [*_encoded(answer.fields), (b"content-length", str(len(body)).encode())]
        await self.send(
            {"type": f"{prefix}http.response.start", "status": answer.status, "headers": headers}
        )
        is_head = self._scope.get("method") == "HEAD"
        await self.send({"type": f"{prefix}http.response.body", "body": b"" if is_head else body})

    def _with_fields(
        self, headers: Iterable[tuple[bytes, bytes]], decision: Decision
    ) -> list[tuple[bytes, bytes]]:
        """Add each set of fields, unless the app, or a middleware in it, sent that set."""
        merged = list(headers)
        names = {name.lower() for name, _ in merged}
        sets = [rate_limit_fields(decision)]
        if self._x_headers:
            sets.append(x_rate_limit_fields(decision))
        for fields in map(_encoded, sets):
            if names.isdisjoint(name for name, _ in fields):
                merged += fields
        return merged


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields]
