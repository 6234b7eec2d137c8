"""A limit on requests: by whom, at what cost, with whom exempt. For a route or an endpoint."""

import functools
import importlib
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from capturekit.ratelimit.asgi import App, Receive, Scope, Send
from capturekit.ratelimit.decision import Decision, RateLimitExceeded
from capturekit.ratelimit.exchange import (
    SCOPE_KEY,
    Exchange,
    Spendings,
    refusal_of,
    send_refusal,
)
from capturekit.ratelimit.headers import rate_limit_fields
from capturekit.ratelimit.identity import NO_ADDRESS
from capturekit.ratelimit.keys import Cost, Exempt, Key, by_address, name_by, settled
from capturekit.ratelimit.limiter import RateLimiter

P = ParamSpec("P")
R = TypeVar("R")


class HasScope(Protocol):
    """A Starlette Request, WebSocket or anything else around a scope."""

    @property
    def scope(self) -> Scope:
        """The scope of ASGI."""
        ...


class RequestLimit:
    """What a request spends where it arrives.

    It goes into ``RateLimitMiddleware(limits={"POST /v1/things": ...})``, or without that
    around an endpoint: ``@uploads.endpoint`` in Starlette, ``Depends(uploads.dependency)`` in
    FastAPI.

    Args:
        limiter: A RateLimiter, or its rules. Limits made of rules share no account.
        key: Whose account: see ``keys``. Where it says None, or is not given, the caller is
            who the middleware takes it for, or without one its address.
        cost: Of a request, as a number or as a function of the scope; 0 spends nothing.
        exempt: True lets a request pass without spending.
        name: Of the limiter that is made of rules.
    """

    def __init__(
        self,
        limiter: RateLimiter | str,
        *,
        key: Key | None = None,
        cost: Cost | int = 1,
        exempt: Exempt | None = None,
        name: str = "default",
    ) -> None:
        self.limiter = RateLimiter(limiter, name=name) if isinstance(limiter, str) else limiter
        self._key = key
        self._cost = cost
        self._exempt = exempt

    async def spend(self, scope: Scope) -> Decision | None:
        """Spend for this request, None if it is exempt; raise RateLimitExceeded if refused.

        The header fields of the answer tell of it when a middleware is around.
        """
        if self._exempt is not None and await settled(self._exempt(scope)):
            return None
        cost = self._cost if isinstance(self._cost, int) else await settled(self._cost(scope))
        if cost == 0:
            return None
        spendings: Spendings = scope.get(SCOPE_KEY) or scope.setdefault(SCOPE_KEY, Spendings())
        caller = spendings.terms.caller if isinstance(spendings, Exchange) else _address
        name = None if self._key is None else await name_by(self._key, scope)
        if name is None:
            name = await name_by(caller, scope) or NO_ADDRESS
        return await spendings.spend(self.limiter, name, cost)

    def endpoint(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Decorate an async endpoint, or a method of one, that takes the request."""

        @functools.wraps(function)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            await self.spend(_scope_among(*args, *kwargs.values()))
            return await function(*args, **kwargs)

        return limited

    @property
    def dependency(self) -> Callable[..., Awaitable[None]]:
        """For ``Depends`` of FastAPI, on a route, a router or an app; websockets too.

        Without a middleware the fields of a limit that allows are on answers that FastAPI
        makes itself, not on a Response that the endpoint returns.
        """

        # What FastAPI passes is its own; its classes are named below.
        async def limited(connection: Any, response: Any) -> None:  # noqa: ANN401
            decision = await self.spend(connection.scope)
            if decision is not None and not isinstance(connection.scope[SCOPE_KEY], Exchange):
                response.headers.update(dict(rate_limit_fields(decision)))

        # FastAPI reads what to pass from the annotations. It is there when this is asked for,
        # and nothing else here needs its framework.
        limited.__annotations__ = {
            "connection": importlib.import_module("starlette.requests").HTTPConnection,
            "response": importlib.import_module("starlette.responses").Response,
            "return": None,
        }
        return limited


# Starlette's types ask for its Response; it takes any ASGI app.
async def answer_refusal(request: HasScope, error: Exception) -> Any:  # noqa: ANN401
    """The answer to a limit that refused this request, for apps without the middleware.

    ``app.add_exception_handler(RateLimitExceeded, answer_refusal)`` in Starlette and FastAPI.
    The error of any other limiter, of one that guards a call to some service for example, is
    raised again.
    """
    spendings = request.scope.get(SCOPE_KEY)
    if not (
        isinstance(error, RateLimitExceeded)
        and isinstance(spendings, Spendings)
        and spendings.decided(error.decision)
    ):
        raise error
    answer = refusal_of(error, request.scope)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_refusal(answer, scope, send)

    taken: App = app
    return taken


_address = by_address()


def _scope_among(*arguments: object) -> Scope:
    for one in arguments:
        scope = getattr(one, "scope", None)
        if isinstance(scope, dict):
            return scope
    raise TypeError("a limited endpoint takes its request: async def endpoint(request: Request)")
