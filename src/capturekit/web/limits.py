"""What callers have spent of their limits, and forgetting it for one of them."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Unknown
from capturekit.ratelimit import RateLimiter
from capturekit.store import Role
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Query, parse_query

LOOKED_AT: Final = 300
"""Keys among which the fullest are looked for; each is a trip where limits are in Redis."""


class LimitsQuery(Query):
    """Query of ``GET /v1/admin/limits``."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Keys shown of each limit."""


async def show_limits(request: Request) -> Response:
    """Every limit with its scale and the keys that spent lately, the fullest first."""
    await require(request, Role.ADMIN)
    query = parse_query(request, LimitsQuery)
    pressure = kit_of(request).pressure
    told = [await _told(limiter, query.limit) for limiter in _limiters(request).values()]
    return JSONResponse({"scale": pressure.scaling() if pressure else 1.0, "limits": told})


async def reset_limit(request: Request) -> Response:
    """Forget what one key spent of one limit."""
    await require(request, Role.ADMIN)
    name, key = request.path_params["name"], request.path_params["key"]
    limiter = _limiters(request).get(name)
    if limiter is None:
        raise Unknown("limit", name)
    await limiter.reset(key)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _limiters(request: Request) -> Mapping[str, RateLimiter]:
    limiters: Mapping[str, RateLimiter] = request.app.state.limiters
    return limiters


async def _told(limiter: RateLimiter, most: int) -> dict[str, object]:
    keys = await limiter.keys(max(most, LOOKED_AT))
    spent = [(key, await limiter.peek(key)) for key in keys]
    spent.sort(key=lambda pair: (pair[1].remaining / max(pair[1].limit, 1), pair[0]))
    usage = [
        {
            "key": key,
            "limit": decision.limit,
            "remaining": decision.remaining,
            "window_s": decision.window_s,
            "reset_s": round(decision.reset_s, 3),
        }
        for key, decision in spent[:most]
    ]
    return {**limiter.describe(), "usage": usage}
