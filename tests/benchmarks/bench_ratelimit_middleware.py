"""What a limit costs each request: our middleware beside throttled-py's and slowapi's.

Run it: ``python tests/benchmarks/bench_ratelimit_middleware.py`` (needs fastapi, slowapi and
throttled-py). Every subject is the same Starlette app with one endpoint, limited by address
and with header fields on the answer, driven in process without a server, in turns.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from slowapi import Limiter as SlowLimiter
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from throttled.asyncio.contrib import fastapi as throttled

from capturekit.ratelimit import RateLimiter, RateLimitMiddleware

ROUNDS = 15
REQUESTS = 400
ADMITTED = "10000000/minute"
REFUSED = "1/hour"
"""Spent at once, in the requests before those that are measured."""

Message = MutableMapping[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]
Subject = Callable[[str], Starlette]


async def _hello(request: Request) -> Response:
    return Response(request.path_params["number"], media_type="text/plain")


def _app(endpoint: Endpoint = _hello) -> Starlette:
    return Starlette(routes=[Route("/things/{number}", endpoint, methods=["GET"])])


def _ours(rules: str) -> Starlette:
    app = _app()
    app.add_middleware(RateLimitMiddleware, limits={"GET /things/{number}": rules})
    return app


def _ours_with_star(rules: str) -> Starlette:
    app = _app()
    limits = {"*": rules, "GET /things/{number}": rules}
    app.add_middleware(RateLimitMiddleware, limits=limits, x_headers=True)
    return app


def _ours_in_an_endpoint(rules: str) -> Starlette:
    limiter = RateLimiter(rules)

    async def hello(request: Request) -> Response:
        decision = await limiter.hit(str(request.scope["client"][0]))
        return await _hello(request) if decision.allowed else Response(status_code=429)

    return _app(hello)


def _throttled_py(rules: str) -> Starlette:
    limiter = throttled.Limiter(rules, key_func=throttled.get_remote_address)
    app = _app(limiter.limit()(_hello))
    app.add_middleware(throttled.RateLimitMiddleware)
    app.add_exception_handler(
        throttled.RateLimitExceededError, throttled.rate_limit_exceeded_handler
    )
    return app


def _slowapi(rules: str, middleware: type[SlowAPIASGIMiddleware | SlowAPIMiddleware]) -> Starlette:
    app = _app()
    app.state.limiter = SlowLimiter(
        get_remote_address, default_limits=[rules], headers_enabled=True
    )
    app.add_middleware(middleware)
    return app


SUBJECTS: dict[str, Subject] = {
    "no limit": lambda _: _app(),
    "ours": _ours,
    "ours, * and route, x_headers": _ours_with_star,
    "ours, hit in the endpoint": _ours_in_an_endpoint,
    "throttled-py": _throttled_py,
    "slowapi, ASGI": lambda rules: _slowapi(rules, SlowAPIASGIMiddleware),
    "slowapi, BaseHTTP": lambda rules: _slowapi(rules, SlowAPIMiddleware),
}


async def cpu_us(app: Starlette, requests: int) -> float:
    """Microseconds of CPU a request."""
    started = time.process_time()
    for number in range(requests):
        await _get(app, number)
    return (time.process_time() - started) / requests * 1e6


async def _get(app: Starlette, number: int) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/things/{number}",
        "raw_path": f"/things/{number}".encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org"), (b"accept", b"*/*"), (b"user-agent", b"bench")],
        "client": (f"203.0.113.{number % 8}", 5000),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return sent


async def measure(
    rules: str, status: int, rounds: int = ROUNDS, requests: int = REQUESTS
) -> dict[str, float]:
    """Median CPU of a request of each subject, in µs, measured in turns."""
    apps = {name: make(rules) for name, make in SUBJECTS.items()}
    taken: dict[str, list[float]] = {name: [] for name in apps}
    for name, app in apps.items():
        await cpu_us(app, 16)
        sent = await _get(app, 0)
        assert sent[0]["status"] == (200 if name == "no limit" else status), name
    for _ in range(rounds):
        for name, app in apps.items():
            taken[name].append(await cpu_us(app, requests))
    return {name: statistics.median(one) for name, one in taken.items()}


def _print(says: str, medians: dict[str, float]) -> None:
    added = {name: taken - medians["no limit"] for name, taken in medians.items()}
    print(f"{says:>30} {'µs':>7} {'added':>7} {'/throttled-py':>14} {'/slowapi ASGI':>14}")
    for name, taken in medians.items():
        print(
            f"{name:>30} {taken:7.1f} {added[name]:7.1f} "
            f"{added[name] / added['throttled-py']:14.2f} "
            f"{added[name] / added['slowapi, ASGI']:14.2f}"
        )


def main() -> None:
    """Print what each adds to a request without a limit, and the ratios of that."""
    _print("admitted", asyncio.run(measure(ADMITTED, 200)))
    _print("refused", asyncio.run(measure(REFUSED, 429)))


if __name__ == "__main__":
    main()
