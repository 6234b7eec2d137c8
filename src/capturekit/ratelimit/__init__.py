"""Rate limits that hold in every window: as an object, as ASGI middleware, in an endpoint."""

from capturekit.ratelimit.admission import Admission, AdmissionStats
from capturekit.ratelimit.decision import (
    Decision,
    Quota,
    RateLimitExceeded,
    Storage,
    tightest,
)
from capturekit.ratelimit.failover import Breaker, FailoverStats, FailoverStorage, OnFailure
from capturekit.ratelimit.guard import acquire, limit
from capturekit.ratelimit.headers import (
    Problem,
    Refusal,
    overloaded,
    rate_limit_fields,
    refusal,
    x_rate_limit_fields,
)
from capturekit.ratelimit.identity import ClientAddress
from capturekit.ratelimit.keys import (
    Cost,
    Exempt,
    Key,
    both,
    by_address,
    by_credential,
    by_header,
    constant,
    content_length_cost,
    first_of,
)
from capturekit.ratelimit.limiter import LimiterStats, RateLimiter
from capturekit.ratelimit.load import (
    EventLoopLag,
    MemoryLoad,
    PressureLoad,
    QueueLoad,
    QueueMeter,
    QueueNumbers,
    Scaling,
    ScalingStats,
    Signal,
    watch,
)
from capturekit.ratelimit.memory import MemoryStorage
from capturekit.ratelimit.middleware import Admits, RateLimitMiddleware, spend
from capturekit.ratelimit.request_limit import RequestLimit, answer_refusal
from capturekit.ratelimit.urls import open_storage

__all__ = [
    "Admission",
    "AdmissionStats",
    "Admits",
    "Breaker",
    "ClientAddress",
    "Cost",
    "Decision",
    "EventLoopLag",
    "Exempt",
    "FailoverStats",
    "FailoverStorage",
    "Key",
    "LimiterStats",
    "MemoryLoad",
    "MemoryStorage",
    "OnFailure",
    "PressureLoad",
    "Problem",
    "QueueLoad",
    "QueueMeter",
    "QueueNumbers",
    "Quota",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "RateLimiter",
    "Refusal",
    "RequestLimit",
    "Scaling",
    "ScalingStats",
    "Signal",
    "Storage",
    "acquire",
    "answer_refusal",
    "both",
    "by_address",
    "by_credential",
    "by_header",
    "constant",
    "content_length_cost",
    "first_of",
    "limit",
    "open_storage",
    "overloaded",
    "rate_limit_fields",
    "refusal",
    "spend",
    "tightest",
    "watch",
    "x_rate_limit_fields",
]
