"""What an answer says about limits: header fields and the body of a refusal.

Fields follow draft-ietf-httpapi-ratelimit-headers-10 in the notation of RFC 9651; bodies
are RFC 9457 problem details.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NotRequired, TypedDict

from capturekit.ratelimit.decision import Decision

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""The problem type that the draft registers for a caller over its quota."""

REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
"""The one for a server that is too busy, whatever the caller's quota."""

# With a dash, because the draft writes its member so.
Problem = TypedDict(
    "Problem",
    {
        "type": str,
        "title": str,
        "status": int,
        "detail": str,
        "instance": str,
        "violated-policies": NotRequired[list[str]],
    },
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of status 429 or 503, for any framework: send ``problem`` as JSON."""

    status: int
    fields: list[tuple[str, str]]
    """Content-Type, Retry-After and, with 429, the rate limit fields."""
    problem: Problem


def rate_limit_fields(decision: Decision) -> list[tuple[str, str]]:
    """``RateLimit-Policy`` and ``RateLimit``, of the rule that speaks."""
    policy, state = _values(decision)
    return [("RateLimit-Policy", policy), ("RateLimit", state)]


def rate_limit_lines(decision: Decision) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """The same as ASGI has headers."""
    policy, state = _values(decision)
    return (b"ratelimit-policy", policy.encode()), (b"ratelimit", state.encode())


def x_rate_limit_fields(decision: Decision) -> list[tuple[str, str]]:
    """The older names, for clients that know only those. Reset is in seconds from now."""
    return [
        ("X-RateLimit-Limit", str(decision.limit)),
        ("X-RateLimit-Remaining", str(decision.remaining)),
        ("X-RateLimit-Reset", str(math.ceil(decision.reset_s))),
    ]


def refusal(decision: Decision, instance: str) -> Refusal:
    """The answer to a caller that was refused; ``instance`` is the path asked for."""
    retry_after_s = math.ceil(decision.retry_after_s)
    return Refusal(
        429,
        _refusal_fields(retry_after_s) + rate_limit_fields(decision),
        {
            "type": QUOTA_EXCEEDED,
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "status": 429,
            "detail": f"The limit is {decision.limit} in {decision.window_s:g} seconds; "
            f"try again in {retry_after_s} seconds.",
            "instance": instance,
            "violated-policies": [decision.name],
        },
    )


def overloaded(retry_after_s: float, instance: str) -> Refusal:
    """The answer to a caller that did nothing wrong, when the server has too much to do."""
    wait_s = max(1, math.ceil(retry_after_s))
    return Refusal(
        503,
        _refusal_fields(wait_s),
        {
            "type": REDUCED_CAPACITY,
            "title": "Request cannot be satisfied due to temporary server capacity constraints",
            "status": 503,
            "detail": f"The server is busy; try again in {wait_s} seconds.",
            "instance": instance,
        },
    )


def _refusal_fields(retry_after_s: int) -> list[tuple[str, str]]:
    return [("Content-Type", "application/problem+json"), ("Retry-After", str(retry_after_s))]


def _values(decision: Decision) -> tuple[str, str]:
    name, policy = _policy(decision.name, decision.limit, decision.window_s)
    return policy, f"{name};r={decision.remaining};t={math.ceil(decision.reset_s)}"


@lru_cache(maxsize=256)
def _policy(name: str, limit: int, window_s: float) -> tuple[str, str]:
    """A name as a string of RFC 9651 (it is printable ASCII), and its policy."""
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return quoted, f"{quoted};q={limit};w={math.ceil(window_s)}"
