"""The middleware around real and bare ASGI apps."""

import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from capturekit.ratelimit import (
    RateLimitExceeded,
    RateLimitMiddleware,
    RequestLimit,
    by_header,
    constant,
    content_length_cost,
    spend,
)
from capturekit.ratelimit.admission import Admission
from capturekit.ratelimit.asgi import App, Receive, Scope, Send
from tests.unit.ratelimit.calls import Call, get, hello, limiter

pytestmark = pytest.mark.anyio

PROCESS = "POST /v1/admin/process-capture/{id}"


async def who(scope: Scope) -> str | None:
    return scope.get("user")


async def test_the_limit_is_per_route_template_and_not_per_id() -> None:
    app = RateLimitMiddleware(hello, limits={PROCESS: limiter("2/minute")})
    paths = [f"/v1/admin/process-capture/{number}" for number in range(3)]
    assert [(await get(app, path, "POST")).status for path in paths] == [200, 200, 429]


async def test_a_route_is_its_own_method_and_its_whole_path() -> None:
    app = RateLimitMiddleware(hello, limits={PROCESS: limiter("0/minute")})
    assert (await get(app, "/v1/admin/process-capture/1", "GET")).status == 200
    assert (await get(app, "/v1/admin/process-capture/1/more", "POST")).status == 200
    assert (await get(app, "/v1/admin/process-capture/1", "POST")).status == 429


async def test_a_line_break_at_the_end_of_a_path_finds_the_same_limit() -> None:
    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("here")

    inner = Starlette(routes=[Route("/lit", endpoint)])
    app = RateLimitMiddleware(inner, limits={"GET /lit": limiter("2/minute")})
    statuses = [(await get(app, path)).status for path in ("/lit\n", "/lit", "/lit\n", "/lit\n\n")]
    assert statuses == [200, 200, 429, 404]


async def test_a_route_without_a_method_takes_all_and_a_path_takes_slashes() -> None:
    app = RateLimitMiddleware(hello, limits={"/files/{rest:path}": limiter("0/minute")})
    assert (await get(app, "/files/a/b.c", "DELETE")).status == 429
    assert (await get(app, "/filesystem")).status == 200


async def test_the_first_route_that_matches_counts() -> None:
    limits = {"/a/b": limiter("9/minute", "first"), "/a/{x}": limiter("0/minute", "second")}
    app = RateLimitMiddleware(hello, limits=limits)
    assert '"first"' in (await get(app, "/a/b")).headers["ratelimit"]
    assert (await get(app, "/a/c")).status == 429


async def test_head_spends_from_the_limit_of_get_and_has_no_body() -> None:
    app = RateLimitMiddleware(hello, limits={"GET /": limiter("1/minute")})
    await get(app)
    refused = await get(app, "/", "HEAD")
    assert (refused.status, refused.body) == (429, b"")
    assert int(refused.headers["content-length"]) > 0


async def test_each_identity_has_its_own_quota() -> None:
    app = RateLimitMiddleware(hello, limits={"/": "1/minute"}, identify=who)
    statuses = []
    for user in ("ann", "bob", "ann", None, None):
        call = Call("GET", "/")
        call.scope["user"] = user
        statuses.append((await call.to(app)).status)
    assert statuses == [200, 200, 429, 200, 429]


async def test_an_identity_cannot_pose_as_an_address() -> None:
    app = RateLimitMiddleware(
        hello, limits={"/": "1/minute"}, identify=lambda scope: scope.get("user")
    )
    posing = Call("GET", "/")
    posing.scope["user"] = "203.0.113.9"
    assert (await posing.to(app)).status == 200
    assert (await get(app)).status == 200


async def test_the_star_lies_under_everything_unknown_paths_included() -> None:
    app = RateLimitMiddleware(Starlette(), limits={"*": limiter("2/minute")})
    assert [(await get(app, f"/{n}")).status for n in range(3)] == [404, 404, 429]


async def test_the_star_counts_by_address_whoever_asks() -> None:
    app = RateLimitMiddleware(hello, limits={"*": limiter("2/minute")}, identify=who)
    statuses = []
    for user in ("ann", "bob", "cyd"):
        call = Call("GET", "/")
        call.scope["user"] = user
        statuses.append((await call.to(app)).status)
    assert statuses == [200, 200, 429]


async def test_the_tightest_of_star_and_route_speaks_once() -> None:
    limits = {"*": limiter("60/minute", "all"), "GET /": limiter("5/minute", "home")}
    app = RateLimitMiddleware(hello, limits=limits)
    assert (await get(app)).headers["ratelimit"] == '"home";r=4;t=60'
    assert (await get(app, "/else")).headers["ratelimit"] == '"all";r=58;t=60'


async def test_addresses_come_through_trusted_proxies() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "1/minute"}, trusted_proxies=["203.0.113.9"])
    statuses = []
    for client in (b"192.0.2.1", b"192.0.2.2", b"192.0.2.1"):
        call = Call("GET", "/")
        call.scope["headers"] = [(b"x-forwarded-for", client)]
        statuses.append((await call.to(app)).status)
    assert statuses == [200, 200, 429]


async def test_a_refusal_is_a_problem_with_retry_after() -> None:
    app = RateLimitMiddleware(hello, limits={"*": limiter("0/minute", "all")}, x_headers=True)
    refused = await get(app, "/küche")
    assert refused.headers == {
        "content-type": "application/problem+json",
        "content-length": str(len(refused.body)),
        "retry-after": "60",
        "ratelimit-policy": '"all";q=0;w=60',
        "ratelimit": '"all";r=0;t=60',
        "x-ratelimit-limit": "0",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "60",
    }
    problem = json.loads(refused.body)
    assert (problem["status"], problem["instance"]) == (429, "/k%C3%BCche")


async def test_there_is_never_a_second_set_of_fields() -> None:
    inner = RateLimitMiddleware(hello, limits={"*": limiter("9/minute", "inner")}, x_headers=True)
    outer = RateLimitMiddleware(inner, limits={"*": limiter("1/minute", "outer")}, x_headers=True)
    assert (await get(outer)).headers["ratelimit"].startswith('"inner"')
    assert (await get(outer)).headers["ratelimit"].startswith('"outer"')


async def test_a_route_below_a_mount_is_found() -> None:
    app = RateLimitMiddleware(hello, limits={"/v1/x": limiter("0/minute")})
    outside = Starlette(routes=[Mount("/capture", app=app)])
    assert (await get(outside, "/capture/v1/x")).status == 429
    assert (await get(outside, "/capture/v1/y")).status == 200


async def test_a_streaming_response_has_the_fields_on_its_one_start() -> None:
    async def parts() -> AsyncIterator[str]:
        for part in ("one", "two", "three"):
            yield part

    async def stream(_: Request) -> Response:
        return StreamingResponse(parts())

    inside = Starlette(routes=[Route("/", stream)])
    call = await get(RateLimitMiddleware(inside, limits={"*": "9/minute"}))
    starts = [message["type"] for message in call.sent].count("http.response.start")
    assert (starts, call.body, "ratelimit" in call.headers) == (1, b"onetwothree", True)


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_connections_pass_untouched(kind: str) -> None:
    seen: list[Scope] = []

    async def inside(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(dict(scope))

    call = Call("GET", "/")
    call.scope = {"type": kind}
    await call.to(RateLimitMiddleware(inside, limits={"*": "0/minute"}))
    assert seen == [{"type": kind}]


# Uploads


async def test_a_refused_upload_is_read_to_its_end_before_the_answer() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "0/minute"})
    call = await Call("POST", "/", [b"x" * 1000] * 5).to(app)
    assert (call.status, call.incoming) == (429, [])


async def test_no_more_than_the_bound_is_read() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "0/minute"}, drain_bytes=2000)
    call = await Call("POST", "/", [b"x" * 1000] * 5).to(app)
    assert (call.status, len(call.incoming)) == (429, 3)


async def test_an_upload_that_stalls_is_answered_after_the_bound() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "0/minute"}, drain_s=0.01)
    call = Call("POST", "/", [b"x", b"y"])
    call.incoming.pop()
    assert (await call.to(app)).status == 429


async def test_a_client_that_waits_for_100_continue_is_told_at_once() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "0/minute"})
    call = Call("POST", "/", [b"x", b"y"])
    call.scope["headers"] = [(b"expect", b"100-continue")]
    assert (await call.to(app)).status == 429
    assert len(call.incoming) == 2


@pytest.mark.parametrize(
    ("version", "header", "is_read"),
    [
        ("1.1", b"accept", False),
        ("1.1", b"content-length", True),
        ("1.1", b"transfer-encoding", True),
        ("2", b"accept", True),
    ],
)
async def test_a_body_is_waited_for_where_one_may_come(
    version: str, header: bytes, *, is_read: bool
) -> None:
    call = Call("POST", "/", [b"x", b"y"])
    call.scope.update(http_version=version, headers=[(header, b"2")])
    await call.to(RateLimitMiddleware(hello, limits={"*": "0/minute"}))
    assert (call.status, call.incoming == []) == (429, is_read)


async def test_a_client_that_went_away_is_not_waited_for() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "0/minute"})
    call = Call("POST", "/", [b"x", b"y"])
    call.incoming[1:] = [{"type": "http.disconnect"}]
    assert (await call.to(app)).status == 429


# Websockets


async def websocket(app: App, *extensions: str) -> Call:
    call = Call("GET", "/ws")
    call.scope["type"] = "websocket"
    del call.scope["method"]
    call.scope["extensions"] = {name: {} for name in extensions}
    call.incoming = [{"type": "websocket.connect"}]
    return await call.to(app)


async def test_a_websocket_is_limited_when_it_connects() -> None:
    async def inside(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    app = RateLimitMiddleware(inside, limits={"GET /ws": limiter("1/minute")})
    assert (await websocket(app)).sent == [{"type": "websocket.accept"}]
    (closed,) = (await websocket(app)).sent
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)


async def test_a_server_that_can_answer_a_handshake_gets_the_429() -> None:
    app = RateLimitMiddleware(hello, limits={"*": limiter("0/minute")})
    call = await websocket(app, "websocket.http.response")
    assert call.sent[0]["type"] == "websocket.http.response.start"
    assert (call.status, call.headers["retry-after"]) == (429, "60")
    assert json.loads(call.body)["status"] == 429


# Spending inside an endpoint


def ingest_app(endpoint: Callable[[Request], Awaitable[Response]], rules: str) -> App:
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    app.add_middleware(
        RateLimitMiddleware,
        limits={"*": limiter("600/minute", "all")},
        named={"ingest": limiter(rules, "ingest")},
    )
    return app


async def spends_by_body(request: Request) -> Response:
    token = (await request.body()).decode()
    decision = await spend(request.scope, "ingest", token)
    return PlainTextResponse(str(decision.remaining))


async def test_an_endpoint_spends_for_whom_it_finds_in_the_body() -> None:
    app = ingest_app(spends_by_body, "2/minute")
    first = await Call("POST", "/", [b"tok", b"en"]).to(app)
    assert (first.body, first.headers["ratelimit"]) == (b"1", '"ingest";r=1;t=60')


async def test_a_refusal_inside_an_endpoint_is_the_same_answer() -> None:
    app = ingest_app(spends_by_body, "1/minute")
    calls = [await Call("POST", "/", [token]).to(app) for token in (b"ann", b"bob", b"ann")]
    assert [call.status for call in calls] == [200, 200, 429]
    assert calls[-1].headers["retry-after"] == "60"
    assert json.loads(calls[-1].body)["violated-policies"] == ["ingest"]


async def test_an_endpoint_may_answer_a_refusal_itself() -> None:
    async def answers(request: Request) -> Response:
        try:
            return await spends_by_body(request)
        except RateLimitExceeded:
            return PlainTextResponse("later", 429)

    call = await Call("POST", "/", [b"ann"]).to(ingest_app(answers, "0/minute"))
    assert (call.body, call.headers["ratelimit"]) == (b"later", '"ingest";r=0;t=60')


async def test_what_an_endpoint_left_of_a_refused_upload_is_read() -> None:
    async def refuses_unread(request: Request) -> Response:
        await spend(request.scope, "ingest", "ann")
        return PlainTextResponse("never")

    app = ingest_app(refuses_unread, "0/minute")
    call = await Call("POST", "/", [b"x"] * 5).to(app)
    assert (call.status, call.incoming) == (429, [])


async def test_a_refusal_of_another_limiter_is_an_error_like_any_other() -> None:
    vision = limiter("0/minute", "vision")

    async def calls_out(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RateLimitExceeded(await vision.hit("model"))

    with pytest.raises(RateLimitExceeded):
        await get(RateLimitMiddleware(calls_out, limits={"*": "9/minute"}))


async def test_a_refusal_after_the_start_of_a_response_is_not_hidden() -> None:
    async def too_late(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        await spend(scope, "ingest", "ann")

    app = RateLimitMiddleware(too_late, named={"ingest": limiter("0/minute")})
    with pytest.raises(RateLimitExceeded):
        await get(app)


async def test_spending_from_an_unknown_name_says_which_there_are() -> None:
    async def misspelt(request: Request) -> Response:
        await spend(request.scope, "ingets", "ann")
        return PlainTextResponse("never")

    with pytest.raises(LookupError, match=r"'ingets'; there are \['ingest'\]"):
        await Call("POST", "/").to(ingest_app(misspelt, "1/minute"))


async def test_spending_without_the_middleware_says_so() -> None:
    with pytest.raises(RuntimeError, match="RateLimitMiddleware wraps"):
        await spend({"type": "http"}, "ingest", "ann")


@pytest.mark.parametrize("route", ["POST", "POST v1/x", "v1"])
def test_a_key_that_is_no_route_is_a_value_error(route: str) -> None:
    with pytest.raises(ValueError, match="is not a route"):
        RateLimitMiddleware(hello, limits={route: "1/minute"})


# Costs, exemptions and keys


async def test_a_request_limit_says_whose_account_and_what_it_costs() -> None:
    uploads = RequestLimit(
        limiter("10/minute"), key=by_header("x-key"), cost=content_length_cost(unit=100)
    )
    app = RateLimitMiddleware(hello, limits={"POST /": uploads})
    statuses = []
    for key, length in ((b"a", b"650"), (b"b", b"1000"), (b"a", b"400"), (b"a", b"300")):
        call = Call("POST", "/")
        call.scope["headers"] = [(b"x-key", key), (b"content-length", length)]
        statuses.append((await call.to(app)).status)
    assert statuses == [200, 200, 429, 200]


async def test_who_has_no_key_counts_by_address() -> None:
    uploads = RequestLimit(limiter("1/minute"), key=by_header("x-key"))
    app = RateLimitMiddleware(hello, limits={"/": uploads})
    assert [(await get(app)).status for _ in range(2)] == [200, 429]


async def test_the_star_may_have_a_key_of_its_own() -> None:
    everyone = RequestLimit(limiter("1/minute"), key=constant("global"))
    app = RateLimitMiddleware(hello, limits={"*": everyone})
    statuses = []
    for host in ("192.0.2.1", "192.0.2.2"):
        call = Call("GET", "/")
        call.scope["client"] = (host, 5000)
        statuses.append((await call.to(app)).status)
    assert statuses == [200, 429]


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_exempt_meet_no_limit_and_no_admission(*, is_async: bool) -> None:
    def is_probe(scope: Scope) -> bool:
        return bool(scope["path"] == "/probe")

    async def is_probe_later(scope: Scope) -> bool:
        return is_probe(scope)

    app = RateLimitMiddleware(
        hello,
        limits={"*": limiter("0/minute"), "/probe": limiter("0/minute")},
        admission={"*": Full()},
        exempt=is_probe_later if is_async else is_probe,
    )
    probe = await get(app, "/probe")
    assert (probe.status, "ratelimit" in probe.headers) == (200, False)
    assert (await get(app, "/other")).status == 429


# Admission


class Full:
    """No room for anyone, for as many seconds as ``wait_s``; it remembers who asked."""

    def __init__(self, wait_s: float | None = 2.5) -> None:
        self.wait_s = wait_s
        self.asked: list[str] = []

    async def admit(self, key: str) -> float | None:
        self.asked.append(key)
        return self.wait_s


async def test_a_full_server_answers_503_and_when_to_try_again() -> None:
    app = RateLimitMiddleware(
        hello, limits={"*": limiter("9/minute")}, admission={"POST /work": Full()}
    )
    refused = await Call("POST", "/work", [b"x" * 1000] * 5).to(app)
    assert (refused.status, refused.headers["retry-after"], refused.incoming) == (503, "3", [])
    assert refused.headers["ratelimit"].endswith("r=8;t=60")
    problem = json.loads(refused.body)
    assert problem["type"].endswith("#temporary-reduced-capacity")
    assert (await get(app, "/work")).status == 200


async def test_the_limits_are_asked_before_the_admission() -> None:
    full = Full(wait_s=None)
    app = RateLimitMiddleware(
        hello,
        limits={"/": limiter("1/minute")},
        admission={"*": Full(), "/": full},
        identify=lambda _: "ann",
    )
    assert [(await get(app)).status for _ in range(2)] == [200, 429]
    assert full.asked == ["id:ann"]
    assert (await get(app, "/else")).status == 503


async def test_a_refusal_may_carry_the_id_that_is_in_the_log() -> None:
    app = RateLimitMiddleware(
        hello,
        limits={"/": limiter("0/minute")},
        admission={"*": Full()},
        members=lambda scope: {"id": scope["request_id"], "instance": "urn:x"},
    )
    for path in ("/", "/else"):
        call = Call("GET", path)
        call.scope["request_id"] = "r17"
        problem = json.loads((await call.to(app)).body)
        assert (problem["id"], problem["instance"]) == ("r17", "urn:x")
        assert "title" in problem


async def test_our_own_admission_fits() -> None:
    app = RateLimitMiddleware(hello, admission={"*": Admission(1.0, cold_depth=2)})
    statuses = [(await get(app)).status for _ in range(5)]
    assert statuses[0] == 200
    assert statuses[-1] == 503


# Around a whole framework app


def whole_app(endpoint: Callable[[Request], Awaitable[Response]], rules: str) -> App:
    inside = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    return RateLimitMiddleware(inside, named={"ingest": limiter(rules, "ingest")})


async def test_the_500_of_a_framework_does_not_stand_for_a_refusal() -> None:
    call = await Call("POST", "/", [b"ann"]).to(whole_app(spends_by_body, "0/minute"))
    assert (call.status, call.headers["retry-after"]) == (429, "60")
    assert json.loads(call.body)["violated-policies"] == ["ingest"]


async def test_a_500_that_an_endpoint_answers_to_a_refusal_is_sent_whole() -> None:
    async def answers(request: Request) -> Response:
        with suppress(RateLimitExceeded):
            await spends_by_body(request)

        async def parts() -> AsyncIterator[str]:
            for part in ("no", "thing"):
                yield part

        return StreamingResponse(parts(), 500)

    call = await Call("POST", "/", [b"ann"]).to(whole_app(answers, "0/minute"))
    assert (call.status, call.body) == (500, b"nothing")
    assert "ratelimit" in call.headers


async def test_a_500_that_has_nothing_to_do_with_a_limit_is_not_held_back() -> None:
    sent_when_half_done = []
    call = Call("GET", "/")

    async def fails_slowly(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        sent_when_half_done.extend(call.sent)
        await send({"type": "http.response.body", "body": b"b"})

    await call.to(RateLimitMiddleware(fails_slowly, limits={"*": "9/minute"}))
    assert (len(sent_when_half_done), call.body) == (2, b"ab")


async def test_an_error_of_an_endpoint_stays_an_error() -> None:
    async def fails(request: Request) -> Response:
        with suppress(RateLimitExceeded):
            await spends_by_body(request)
        raise LookupError("something else")

    call = Call("POST", "/", [b"ann"])
    with pytest.raises(LookupError):
        await call.to(whole_app(fails, "0/minute"))
    assert call.status == 500


async def test_the_lifespan_of_an_app_runs_through() -> None:
    states = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        states.append("up")
        yield
        states.append("down")

    call = Call("GET", "/")
    call.scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    call.incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    await call.to(RateLimitMiddleware(Starlette(lifespan=lifespan), limits={"*": "0/minute"}))
    assert states == ["up", "down"]


async def test_a_finished_request_leaves_nothing_for_the_collector() -> None:
    app = RateLimitMiddleware(hello, limits={"*": "9/minute"})
    gc.collect()
    gc.disable()
    try:
        await get(app)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [one for one in gc.garbage if type(one).__name__ == "Exchange"]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
