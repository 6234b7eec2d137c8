"""Rate limits that hold in every window: as an object, as ASGI middleware, in an endpoint."""

from capturekit.ratelimit.decision import (
    Decision,
    Quota,
    RateLimitExceeded,
    Storage,
    tightest,
)
from capturekit.ratelimit.failover import Breaker, FailoverStats, FailoverStorage, OnFailure
from capturekit.ratelimit.headers import (
    Problem,
    Refusal,
    rate_limit_fields,
    refusal,
    x_rate_limit_fields,
)
from capturekit.ratelimit.identity import ClientAddress
from capturekit.ratelimit.limiter import LimiterStats, RateLimiter
from capturekit.ratelimit.memory import MemoryStorage
from capturekit.ratelimit.middleware import RateLimitMiddleware, spend
from capturekit.ratelimit.urls import open_storage

__all__ = [
    "Breaker",
    "ClientAddress",
    "Decision",
    "FailoverStats",
    "FailoverStorage",
    "LimiterStats",
    "MemoryStorage",
    "OnFailure",
    "Problem",
    "Quota",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "RateLimiter",
    "Refusal",
    "Storage",
    "open_storage",
    "rate_limit_fields",
    "refusal",
    "spend",
    "tightest",
    "x_rate_limit_fields",
]
