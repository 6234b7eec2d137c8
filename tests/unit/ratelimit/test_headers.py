"""Header fields, read back by an independent parser of structured fields."""

import math
from collections.abc import Callable
from typing import Any

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.ratelimit import (
    Decision,
    RateLimiter,
    RateLimitMiddleware,
    overloaded,
    rate_limit_fields,
    refusal,
    x_rate_limit_fields,
)
from capturekit.ratelimit.headers import rate_limit_lines
from tests.unit.ratelimit.calls import get, hello, limiter

DECISION = Decision(
    allowed=False,
    name="ingest",
    limit=10,
    window_s=60.0,
    remaining=3,
    reset_s=42.2,
    retry_after_s=12.01,
    cost=4,
)

# http_sf declares no types for what its parser returns.
parse: Callable[..., Any] = http_sf.parse


def parsed(fields: list[tuple[str, str]], name: str) -> Any:  # noqa: ANN401  # as above
    return parse(dict(fields)[name].encode(), tltype="list")


def test_the_fields_are_those_of_the_draft() -> None:
    assert rate_limit_fields(DECISION) == [
        ("RateLimit-Policy", '"ingest";q=10;w=60'),
        ("RateLimit", '"ingest";r=3;t=43'),
    ]


def test_a_structured_field_parser_reads_the_same() -> None:
    fields = rate_limit_fields(DECISION)
    assert parsed(fields, "RateLimit-Policy") == [("ingest", {"q": 10, "w": 60})]
    assert parsed(fields, "RateLimit") == [("ingest", {"r": 3, "t": 43})]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_any_name_of_a_limiter_survives_the_header(name: str) -> None:
    RateLimiter("1/minute", name=name)
    decision = Decision(
        allowed=True,
        name=name,
        limit=1,
        window_s=60.0,
        remaining=0,
        reset_s=60.0,
        retry_after_s=0.0,
        cost=1,
    )
    assert parsed(rate_limit_fields(decision), "RateLimit") == [(name, {"r": 0, "t": 60})]


@pytest.mark.anyio
async def test_the_largest_limit_survives_the_header() -> None:
    decision = await RateLimiter("999999999999999/minute").peek("a")
    policy = parsed(rate_limit_fields(decision), "RateLimit-Policy")
    assert policy == [("default", {"q": 999_999_999_999_999, "w": 60})]


def test_the_older_fields_say_the_same() -> None:
    assert x_rate_limit_fields(DECISION) == [
        ("X-RateLimit-Limit", "10"),
        ("X-RateLimit-Remaining", "3"),
        ("X-RateLimit-Reset", "43"),
    ]


def test_a_refusal_is_a_problem_that_names_policy_and_wait() -> None:
    answer = refusal(DECISION, "/v1/ingest")
    assert answer.status == 429
    assert answer.problem == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": "The limit is 10 in 60 seconds; try again in 13 seconds.",
        "instance": "/v1/ingest",
        "violated-policies": ["ingest"],
    }


def test_a_busy_server_blames_nobody_and_says_when() -> None:
    answer = overloaded(2.1, "/v1/ingest")
    assert (answer.status, dict(answer.fields)) == (
        503,
        {"Content-Type": "application/problem+json", "Retry-After": "3"},
    )
    assert answer.problem == {
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "Request cannot be satisfied due to temporary server capacity constraints",
        "status": 503,
        "detail": "The server is busy; try again in 3 seconds.",
        "instance": "/v1/ingest",
    }


@pytest.mark.parametrize("retry_after_s", [0.0, 0.01])
def test_a_busy_server_never_says_at_once(retry_after_s: float) -> None:
    assert dict(overloaded(retry_after_s, "/").fields)["Retry-After"] == "1"


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    st.integers(0, 999_999_999_999_999),
    st.integers(0, 999_999_999_999_999),
    st.floats(0.1, 1e6),
    st.floats(0, 1e6),
)
def test_the_lines_for_asgi_say_what_the_fields_say(
    name: str, quota: int, left: int, window_s: float, reset_s: float
) -> None:
    decision = DECISION._replace(
        name=name, limit=quota, remaining=left, window_s=window_s, reset_s=reset_s
    )
    lines = dict(rate_limit_lines(decision))
    told = {key.lower().encode(): value.encode() for key, value in rate_limit_fields(decision)}
    assert lines == told
    policy = parse(lines[b"ratelimit-policy"], tltype="list")
    state = parse(lines[b"ratelimit"], tltype="list")
    assert policy == [(name, {"q": quota, "w": math.ceil(window_s)})]
    assert state == [(name, {"r": left, "t": math.ceil(reset_s)})]


@pytest.mark.anyio
async def test_what_the_middleware_sends_is_read_by_a_structured_field_parser() -> None:
    inner, outer = limiter("3/minute", 'in"ner'), limiter("2/minute", "outer")
    app = RateLimitMiddleware(
        RateLimitMiddleware(hello, limits={"GET /": inner}), limits={"*": outer}
    )
    told = [
        parse(call.headers["ratelimit"].encode(), tltype="list")
        for call in [await get(app) for _ in range(3)]
    ]
    assert told == [
        [('in"ner', {"r": 2, "t": 60})],
        [('in"ner', {"r": 1, "t": 60})],
        [("outer", {"r": 0, "t": 60})],
    ]


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    fields = dict(refusal(DECISION, "/").fields)
    assert fields["Retry-After"] == "13"
    assert fields["Content-Type"] == "application/problem+json"
    assert "RateLimit" in fields
