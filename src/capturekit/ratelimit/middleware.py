"""Rate limits around any ASGI app, by route template and by who asks."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from capturekit.ratelimit.asgi import App, Receive, Scope, Send, route_path
from capturekit.ratelimit.decision import Decision, RateLimitExceeded
from capturekit.ratelimit.exchange import (
    SCOPE_KEY,
    Exchange,
    Terms,
    instance_of,
    refusal_of,
)
from capturekit.ratelimit.headers import overloaded
from capturekit.ratelimit.identity import NO_ADDRESS, ClientAddress
from capturekit.ratelimit.keys import (
    Exempt,
    Key,
    by_address,
    by_credential,
    first_of,
    name_by,
    settled,
)
from capturekit.ratelimit.limiter import RateLimiter
from capturekit.ratelimit.memory import MemoryStorage
from capturekit.ratelimit.request_limit import RequestLimit

EVERYTHING = "*"
"""The key of the limit that lies under all others."""

DEFAULT_DRAIN_BYTES = 32 * 2**20
"""Read of a refused upload. Over the largest upload that is taken by default (20 MiB)."""

DEFAULT_DRAIN_S = 10.0

T = TypeVar("T")


class Admits(Protocol):
    """What decides whether there is room for more work: an Admission, or one of yours."""

    async def admit(self, key: str) -> float | None:
        """Let this caller in and say None, or the seconds until it may try again."""
        ...


def _no_members(_scope: Scope) -> Mapping[str, object]:
    return {}


class RateLimitMiddleware:
    """Lets a request through when every limit on it allows, and says so in the headers.

    A refusal is a 429 with a problem body. Before it is sent the upload is read and dropped,
    because a client that is still sending does not listen; one that waits for
    ``100 Continue`` is told at once. A websocket counts as a GET when it connects.

    Args:
        app: The app inside.
        limits: By route: ``"POST /v1/things/{id}"`` (or without a method for all of them;
            ``{rest:path}`` also takes slashes) to a RateLimiter or its rules, or to a
            RequestLimit where the account, the cost or the exempt are special. All ids share
            one limit. The first route that matches counts; GET stands for HEAD too. The key
            ``"*"`` limits all requests by address, unknown paths included, before the rest.
        named: For ``spend``: limiters of endpoints that learn who asks from the body.
        identify: Names the caller by a *verified* credential, or None to go by address.
            Its errors are not caught.
        trusted_proxies: Their networks, or a ClientAddress.
        exempt: Requests for which it says True meet no limit here, and no admission.
        admission: By route, ``"*"`` for the rest: asked after the limits, with the caller's
            key. When it says to wait, the answer is a 503. What the limits took stays spent,
            so that they also hold those who try again at once. What the app refuses after
            that was admitted all the same: where it refuses much, ask in the endpoint.
        members: Further members of the problem body of a refusal, by the scope of the request:
            the id that is in your log, for example. They may replace ours.
        x_headers: Also send the older ``X-RateLimit-*`` fields.
        drain_bytes: Most that is read of a refused upload.
        drain_s: Longest that reading it takes, in seconds.
    """

    def __init__(  # noqa: PLR0913  # each is one choice, and has a default
        self,
        app: App,
        *,
        limits: Mapping[str, RateLimiter | RequestLimit | str] | None = None,
        named: Mapping[str, RateLimiter] | None = None,
        identify: Key | None = None,
        trusted_proxies: ClientAddress | Iterable[str] = (),
        exempt: Exempt | None = None,
        admission: Mapping[str, Admits] | None = None,
        members: Callable[[Scope], Mapping[str, object]] = _no_members,
        x_headers: bool = False,
        drain_bytes: int = DEFAULT_DRAIN_BYTES,
        drain_s: float = DEFAULT_DRAIN_S,
    ) -> None:
        address = by_address(trusted_proxies)
        caller = first_of(by_credential(identify), address) if identify else address
        self._app = app
        self._exempt = exempt
        self._everything, self._limits = _limits(limits or {}, address)
        # What stands for all routes is asked for last.
        ordered = sorted((admission or {}).items(), key=lambda item: item[0] == EVERYTHING)
        self._admission = _Routes(dict(ordered))
        self._terms = Terms(caller, dict(named or {}), x_headers, drain_bytes, drain_s, members)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP and websockets passes through."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._terms)
        # In place: frameworks outside look into the same scope for the route that was found.
        scope[SCOPE_KEY] = exchange
        try:
            if await self._lets_in(scope, exchange):
                await self._app(scope, exchange.receive, exchange.send)
        except RateLimitExceeded as exceeded:
            if exchange.has_started or not exchange.decided(exceeded.decision):
                raise
            await exchange.refuse(refusal_of(exceeded, scope), scope)
        finally:
            if exchange.holds:
                await exchange.release()
            exchange.close()

    async def _lets_in(self, scope: Scope, exchange: Exchange) -> bool:
        if self._exempt is not None and await settled(self._exempt(scope)):
            return True
        if self._everything is not None:
            await self._everything.spend(scope)
        limit = self._limits.find(scope)
        if limit is not None:
            await limit.spend(scope)
        admission = self._admission.find(scope)
        if admission is None:
            return True
        wait_s = await admission.admit(await name_by(self._terms.caller, scope) or NO_ADDRESS)
        if wait_s is not None:
            await exchange.refuse(overloaded(wait_s, instance_of(scope)), scope)
        return wait_s is None


async def spend(scope: Scope, name: str, identity: str, cost: int = 1) -> Decision:
    """Spend from the limiter that the middleware has under ``named[name]``.

    For an endpoint, before its response starts: the response's headers then tell of it.
    Raises RateLimitExceeded when refused, LookupError for an unknown name, RuntimeError when
    no RateLimitMiddleware is around. A refusal that nothing in the app answers becomes a 429,
    also where the middleware is put around a whole framework app: the 500 that such an app
    sends before it lets an error through is dropped.
    """
    exchange = scope.get(SCOPE_KEY)
    if not isinstance(exchange, Exchange):
        text = "spend() works inside an app that RateLimitMiddleware wraps"
        raise RuntimeError(text)  # noqa: TRY004  # it is missing, not of a wrong type
    named = exchange.terms.named
    if name not in named:
        raise LookupError(f"no limiter is named {name!r}; there are {sorted(named)}")
    return await exchange.spend(named[name], identity, cost)


class _Routes(Generic[T]):
    """Finds what stands for the first route that a request matches."""

    def __init__(self, by_route: Mapping[str, T]) -> None:
        self._values = list(by_route.values())
        self._routes = [_parsed(route) for route in by_route]
        methods = {method for method, _ in self._routes} - {""}
        self._by_method = {method: self._pattern(method) for method in methods | {"HEAD"}}
        self._other_methods = self._pattern("")

    def find(self, scope: Scope) -> T | None:
        if not self._values:
            return None
        pattern = self._by_method.get(scope.get("method", "GET"), self._other_methods)
        match = pattern.fullmatch(route_path(scope))
        # Only routes are groups, each of them exactly one.
        return self._values[int((match.lastgroup or "")[1:])] if match else None

    def _pattern(self, method: str) -> re.Pattern[str]:
        """One expression for all routes that take a method: it stops at the first."""
        taken = ("", "GET", "HEAD") if method == "HEAD" else ("", method)
        routes = [
            f"(?P<r{index}>{path})"
            for index, (its_method, path) in enumerate(self._routes)
            if its_method in taken
        ]
        # Starlette's patterns end with ``$``, which also stands before a last line break: a
        # path with one finds its endpoint there, and must find its limit here.
        return re.compile(rf"(?:{'|'.join(routes) or '(?!)'})\n?")


def _limits(
    limits: Mapping[str, RateLimiter | RequestLimit | str], address: Key
) -> tuple[RequestLimit | None, _Routes[RequestLimit]]:
    storage = MemoryStorage()

    def made(route: str, given: RateLimiter | RequestLimit | str) -> RequestLimit:
        if isinstance(given, RequestLimit):
            return given
        if isinstance(given, str):
            given = RateLimiter(given, name=route, storage=storage)
        return RequestLimit(given, key=address if route == EVERYTHING else None)

    by_route = {route: made(route, given) for route, given in limits.items()}
    everything = by_route.pop(EVERYTHING, None)
    return everything, _Routes(by_route)


def _parsed(route: str) -> tuple[str, str]:
    """Its method, empty for all of them, and an expression for its path."""
    if route == EVERYTHING:
        return "", "(?s:.*)"
    method, _, path = route.rpartition(" ")
    if not path.startswith("/"):
        raise ValueError(f"{route!r} is not a route; write 'POST /v1/things/{{id}}' or '*'")
    literals_and_parameters = re.split(r"\{(\w+(?::\w+)?)\}", path)
    for index, part in enumerate(literals_and_parameters):
        if index % 2:
            literals_and_parameters[index] = "(?s:.*)" if part.endswith(":path") else "[^/]+"
        else:
            literals_and_parameters[index] = re.escape(part)
    return method.strip().upper(), "".join(literals_and_parameters)
