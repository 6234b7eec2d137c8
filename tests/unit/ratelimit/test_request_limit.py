"""A limit around endpoints of Starlette, and as a dependency of FastAPI."""

import json
from collections.abc import Callable
from typing import Annotated

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from capturekit.ratelimit import (
    RateLimitExceeded,
    RateLimitMiddleware,
    RequestLimit,
    answer_refusal,
    by_header,
)
from capturekit.ratelimit.asgi import App, Scope
from tests.unit.ratelimit.calls import Call, get, limiter

pytestmark = pytest.mark.anyio


def once(cost: int = 1) -> RequestLimit:
    return RequestLimit(limiter("1/minute", "once"), cost=cost)


def starlette(endpoint: object, *, has_middleware: bool) -> App:
    middleware = [Middleware(RateLimitMiddleware)] if has_middleware else []
    route = Route("/", endpoint, methods=["GET", "POST"])  # type: ignore[arg-type]
    handlers = {RateLimitExceeded: answer_refusal}
    return Starlette(routes=[route], middleware=middleware, exception_handlers=handlers)


both_ways = pytest.mark.parametrize("has_middleware", [True, False])


@both_ways
async def test_an_endpoint_is_limited_with_or_without_the_middleware(
    *, has_middleware: bool
) -> None:
    @once().endpoint
    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("hello")

    app = starlette(endpoint, has_middleware=has_middleware)
    allowed, refused = await get(app), await get(app)
    assert (allowed.status, refused.status) == (200, 429)
    assert refused.headers["ratelimit"] == '"once";r=0;t=60'
    assert refused.headers["retry-after"] == "60"
    assert json.loads(refused.body)["instance"] == "/"
    assert ("ratelimit" in allowed.headers) == has_middleware


@both_ways
async def test_a_method_of_a_class_of_endpoints_is_limited(*, has_middleware: bool) -> None:
    class Things(HTTPEndpoint):
        @once().endpoint
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(request.method)

    app = starlette(Things, has_middleware=has_middleware)
    assert [(await get(app)).status for _ in range(2)] == [200, 429]
    assert (await get(app, "/", "POST")).status == 405


async def test_an_endpoint_without_its_request_is_a_type_error() -> None:
    @once().endpoint
    async def endpoint(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="takes its request"):
        await endpoint(1)


async def test_a_websocket_endpoint_is_limited() -> None:
    @once().endpoint
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    app = Starlette(
        routes=[WebSocketRoute("/", endpoint)],
        exception_handlers={RateLimitExceeded: answer_refusal},
    )
    kinds = []
    for _ in range(2):
        call = Call("GET", "/")
        call.scope["type"] = "websocket"
        call.incoming = [{"type": "websocket.connect"}]
        kinds.append((await call.to(app)).sent[0]["type"])
    assert kinds == ["websocket.accept", "websocket.close"]


async def test_the_middleware_says_who_asks() -> None:
    @once().endpoint
    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("hello")

    inside = Starlette(routes=[Route("/", endpoint)])
    app = RateLimitMiddleware(inside, identify=lambda scope: scope.get("user"))
    statuses = []
    for user in ("ann", "bob", "ann"):
        call = Call("GET", "/")
        call.scope["user"] = user
        statuses.append((await call.to(app)).status)
    assert statuses == [200, 200, 429]


async def test_a_cost_of_nothing_and_the_exempt_spend_nothing() -> None:
    def is_head(scope: Scope) -> bool:
        return bool(scope["method"] == "HEAD")

    free = RequestLimit(limiter("0/minute"), cost=lambda _: 0)
    exempt = RequestLimit(limiter("0/minute"), exempt=is_head)
    assert await free.spend(Call("GET", "/").scope) is None
    assert await exempt.spend(Call("HEAD", "/").scope) is None
    with pytest.raises(RateLimitExceeded):
        await exempt.spend(Call("GET", "/").scope)


async def test_a_negative_cost_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await once(cost=-1).spend(Call("GET", "/").scope)


async def test_the_refusal_of_another_limiter_is_not_answered() -> None:
    vision = limiter("0/minute", "vision")

    @once().endpoint
    async def endpoint(_: Request) -> Response:
        raise RateLimitExceeded(await vision.hit("model"))

    with pytest.raises(RateLimitExceeded):
        await get(starlette(endpoint, has_middleware=False))


# FastAPI


def fast_app(dependency: Callable[..., object], *, has_middleware: bool) -> App:
    app = fastapi.FastAPI(dependencies=[fastapi.Depends(dependency)])
    app.add_exception_handler(RateLimitExceeded, answer_refusal)
    if has_middleware:
        app.add_middleware(RateLimitMiddleware, x_headers=True)

    @app.get("/things/{number}")
    async def thing(number: int) -> dict[str, int]:
        return {"number": number}

    @app.websocket("/ws")
    async def talk(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return app


@both_ways
async def test_a_dependency_limits_all_ids_of_a_route_at_once(*, has_middleware: bool) -> None:
    app = fast_app(once().dependency, has_middleware=has_middleware)
    allowed, refused = await get(app, "/things/1"), await get(app, "/things/2")
    assert (allowed.status, allowed.body, refused.status) == (200, b'{"number":1}', 429)
    assert allowed.headers["ratelimit"] == refused.headers["ratelimit"] == '"once";r=0;t=60'
    assert ("x-ratelimit-limit" in allowed.headers) == has_middleware


async def test_a_dependency_limits_websockets_too() -> None:
    app = fast_app(once().dependency, has_middleware=True)
    kinds = []
    for _ in range(2):
        call = Call("GET", "/ws")
        call.scope["type"] = "websocket"
        call.scope["state"] = {}
        call.incoming = [{"type": "websocket.connect"}]
        kinds.append((await call.to(app)).sent[0]["type"])
    assert kinds == ["websocket.accept", "websocket.close"]


async def test_a_dependency_needs_no_place_in_the_documented_parameters() -> None:
    app = fastapi.FastAPI()
    limited = RequestLimit("1/minute", key=by_header("x-key")).dependency

    @app.get("/")
    async def home(_: Annotated[None, fastapi.Depends(limited)]) -> None:
        pass

    assert "parameters" not in app.openapi()["paths"]["/"]["get"]


async def test_an_endpoint_of_fastapi_keeps_its_signature() -> None:
    app = fastapi.FastAPI()
    app.add_exception_handler(RateLimitExceeded, answer_refusal)

    @app.get("/things/{number}")
    @once().endpoint
    async def thing(number: int, request: Request) -> dict[str, object]:
        return {"number": number, "method": request.method}

    assert (await get(app, "/things/7")).body == b'{"number":7,"method":"GET"}'
    assert (await get(app, "/things/8")).status == 429


async def test_unknown_paths_of_fastapi_are_limited_and_its_lifespan_runs() -> None:
    app = fastapi.FastAPI()
    app.add_middleware(RateLimitMiddleware, limits={"*": limiter("2/minute")})
    assert [(await get(app, f"/{number}")).status for number in range(3)] == [404, 404, 429]
    call = Call("GET", "/")
    call.scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    call.incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    await call.to(app)
    assert [one["type"] for one in call.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
