"""The application's routes and layers."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from capturekit.errors import ConfigError
from capturekit.kit import CaptureKit
from capturekit.ratelimit import ClientAddress, RateLimiter, RateLimitMiddleware, open_storage
from capturekit.store import Role
from capturekit.web import claims, problems
from capturekit.web.auth import caller_of
from capturekit.web.edge import Edge
from capturekit.web.events import Streams
from capturekit.web.openapi import HEADERS
from capturekit.web.operation import Operation
from capturekit.web.repeats import done_once
from capturekit.web.routes import LIMITS_PATH, ROUTES

BY_ADDRESS: Final = {"*": "ip", "POST /v1/claim": claims.LIMIT, "POST /v1/session": "login"}
"""Routes whose limit goes by the address of who asks; other callers are known by name."""


def create_app(kit: CaptureKit) -> Starlette:
    """The HTTP application over an opened kit, to serve alone or to mount.

    Raises ConfigError when a rate limit's rule cannot be read.
    """
    known = [_AllowingRoute(one) for one in ROUTES]
    routes: list[BaseRoute] = [*known]
    routes.append(Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")))
    limiters = _limiters(kit)
    address = ClientAddress(str(network) for network in kit.settings.trusted_proxies)

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Edge),
            *_cors(kit),
            Middleware(
                RateLimitMiddleware,
                limits={
                    route: limiters[name] for route, name in BY_ADDRESS.items() if name in limiters
                },
                named=limiters,
                exempt=_is_admin_of_limits(kit),
                trusted_proxies=address,
                members=_request_id,
            ),
        ],
        exception_handlers=problems.HANDLERS,
    )
    app.state.kit = kit
    app.state.operations = ROUTES
    app.state.templates = {one.endpoint: one.path for one in known}
    app.state.limiters = limiters
    app.state.address = address
    app.state.streams = Streams()
    return app


class _AllowingRoute(Route):
    """A route whose 405 names the methods of its whole path; starlette's names only its own."""

    def __init__(self, operation: Operation) -> None:
        endpoint = operation.endpoint
        if operation.is_done_once:
            endpoint = done_once(endpoint)
        super().__init__(operation.path, endpoint, methods=[operation.method])
        methods = {one.method for one in ROUTES if one.path == operation.path}
        self._allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or raise HTTPException 405."""
        if self.methods and scope["method"] not in self.methods:
            raise HTTPException(405, headers={"Allow": self._allowed})
        await super().handle(scope, receive, send)


def _cors(kit: CaptureKit) -> list[Middleware]:
    """For pages of other origins, if any may use the API; they send a token, never a cookie."""
    if not kit.settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=kit.settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", *sorted(HEADERS)],
            expose_headers=["ETag", "Location", "Retry-After", "RateLimit", "X-Request-Id"],
        )
    ]


def _limiters(kit: CaptureKit) -> dict[str, RateLimiter]:
    url, rules = kit.settings.redis_url, kit.settings.rate_limits
    try:
        storage = open_storage(url.get_secret_value() if url else "memory://")
    except ValueError as error:
        raise ConfigError(f"CAPTUREKIT_REDIS_URL: {error}") from error

    def scale_of_uploads() -> float:
        # Asked when it is needed: a kit that is mounted is opened after its app was made.
        return kit.pressure.scaling() if kit.pressure else 1.0

    scaled = {"ingest": scale_of_uploads}
    try:
        return {
            name: RateLimiter(rule, name=name, storage=storage, scale=scaled.get(name, _as_written))
            for name, rule in rules.items()
        }
    except ValueError as error:
        raise ConfigError(f"CAPTUREKIT_RATE_LIMITS: {error}") from error


def _as_written() -> float:
    return 1.0


def _is_admin_of_limits(kit: CaptureKit) -> Callable[[Scope], Awaitable[bool]]:
    """Whether an admin asks for limits: what locks out an address must not lock out its remedy."""

    async def exempt(scope: Scope) -> bool:
        if not scope["path"].removeprefix(scope.get("root_path", "")).startswith(LIMITS_PATH):
            return False
        principal = await caller_of(scope, kit)
        return principal is not None and principal.role is Role.ADMIN

    return exempt


def _request_id(scope: Scope) -> Mapping[str, object]:
    return {"id": scope["state"]["request_id"]}
