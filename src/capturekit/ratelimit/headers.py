"""What an answer says about limits: header fields and the body of a refusal.

Fields follow draft-ietf-httpapi-ratelimit-headers-10 in the notation of RFC 9651; bodies
are RFC 9457 problem details.
"""

import math
from dataclasses import dataclass
from typing import TypedDict

from capturekit.ratelimit.decision import Decision

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""The problem type that the draft registers."""

# With a dash, because the draft writes its member so.
Problem = TypedDict(
    "Problem",
    {
        "type": str,
        "title": str,
        "status": int,
        "detail": str,
        "instance": str,
        "violated-policies": list[str],
    },
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of status 429, for any framework: send ``problem`` as JSON."""

    status: int
    fields: list[tuple[str, str]]
    """Content-Type, Retry-After and the rate limit fields."""
    problem: Problem


def rate_limit_fields(decision: Decision) -> list[tuple[str, str]]:
    """``RateLimit-Policy`` and ``RateLimit``, of the rule that speaks."""
    name = _quoted(decision.name)
    return [
        ("RateLimit-Policy", f"{name};q={decision.limit};w={math.ceil(decision.window_s)}"),
        ("RateLimit", f"{name};r={decision.remaining};t={math.ceil(decision.reset_s)}"),
    ]


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
    fields = [("Content-Type", "application/problem+json"), ("Retry-After", str(retry_after_s))]
    return Refusal(
        429,
        fields + rate_limit_fields(decision),
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


def _quoted(text: str) -> str:
    # A limiter's name is printable ASCII, as a string of RFC 9651 is.
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
