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
RULES = "10000000/minute"
"""Never spent: an admitted request is what costs."""

Message = MutableMapping[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]
Subject = Callable[[], Starlette]


async def _hello(request: Request) -> Response:
    return Response(request.path_params["number"], media_type="text/plain")


def _app(endpoint: Endpoint = _hello) -> Starlette:
    return Starlette(routes=[Route("/things/{number}", endpoint, methods=["GET"])])


def _ours() -> Starlette:
    app = _app()
    app.add_middleware(RateLimitMiddleware, limits={"GET /things/{number}": RULES})
    return app


def _ours_with_star() -> Starlette:
    app = _app()
    limits = {"*": RULES, "GET /things/{number}": RULES}
    app.add_middleware(RateLimitMiddleware, limits=limits, x_headers=True)
    return app


def _ours_in_an_endpoint() -> Starlette:
    limiter = RateLimiter(RULES)

    async def hello(request: Request) -> Response:
        await limiter.hit(str(request.scope["client"][0]))
        return await _hello(request)

    return _app(hello)


def _throttled_py() -> Starlette:
    limiter = throttled.Limiter(RULES, key_func=throttled.get_remote_address)
    app = _app(limiter.limit()(_hello))
    app.add_middleware(throttled.RateLimitMiddleware)
    return app


def _slowapi(middleware: type[SlowAPIASGIMiddleware | SlowAPIMiddleware]) -> Starlette:
    app = _app()
    app.state.limiter = SlowLimiter(
        get_remote_address, default_limits=[RULES], headers_enabled=True
    )
    app.add_middleware(middleware)
    return app


SUBJECTS: dict[str, Subject] = {
    "no limit": _app,
    "ours": _ours,
    "ours, * and route, x_headers": _ours_with_star,
    "ours, hit in the endpoint": _ours_in_an_endpoint,
    "throttled-py": _throttled_py,
    "slowapi, ASGI": lambda: _slowapi(SlowAPIASGIMiddleware),
    "slowapi, BaseHTTP": lambda: _slowapi(SlowAPIMiddleware),
}


async def cpu_us(app: Starlette, requests: int) -> float:
    """Microseconds of CPU a request."""
    started = time.process_time()
    for number in range(requests):
        sent = await _get(app, number)
        assert sent[0]["status"] == 200
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


async def measure(rounds: int = ROUNDS, requests: int = REQUESTS) -> dict[str, float]:
    """Median CPU of a request of each subject, in µs, measured in turns."""
    apps = {name: make() for name, make in SUBJECTS.items()}
    taken: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(rounds):
        for name, app in apps.items():
            taken[name].append(await cpu_us(app, requests))
    return {name: statistics.median(one) for name, one in taken.items()}


def main() -> None:
    """Print what each adds to a request without a limit, and the ratios of that."""
    medians = asyncio.run(measure())
    added = {name: taken - medians["no limit"] for name, taken in medians.items()}
    print(f"{'':>30} {'µs':>7} {'added':>7} {'/throttled-py':>14} {'/slowapi ASGI':>14}")
    for name, taken in medians.items():
        print(
            f"{name:>30} {taken:7.1f} {added[name]:7.1f} "
            f"{added[name] / added['throttled-py']:14.2f} "
            f"{added[name] / added['slowapi, ASGI']:14.2f}"
        )


if __name__ == "__main__":
    main()
