"""What is there, what was, and why we think so."""

from datetime import datetime
from typing import Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Unknown
from capturekit.store import Role, StockSort
from capturekit.times import iso
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Name, Query, Time, parse_query, refusing_values

MAX_LOCATIONS: Final = 500


class StockOptions(Query):
    """Query of the stock list: ``?location=&item=&q=&as_of=&sort=&limit=&cursor=``."""

    location: Name | None = None
    item: Name | None = None
    q: Name | None = None
    as_of: Time | None = None
    sort: StockSort = StockSort.NAME
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class WhyOptions(Query):
    """Query of why: ``?location=&as_of=``."""

    location: Name | None = None
    as_of: Time | None = None


class HistoryOptions(Query):
    """Query of the history: ``?item=&location=&since=&until=&limit=&cursor=``."""

    item: Name | None = None
    location: Name | None = None
    since: Time | None = None
    until: Time | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class ExpiringOptions(Query):
    """Query of what expires: ``?within_days=&location=``."""

    within_days: int = Field(default=7, ge=0, le=3660)
    location: Name | None = None


def seconds(time: datetime | None) -> float | None:
    """Seconds since 1970 of a time that was asked for."""
    return None if time is None else time.timestamp()


async def list_stock(request: Request) -> Response:
    """Stock by item and location, a page at a time; with ``as_of`` as it was then."""
    await require(request, Role.VIEWER)
    options = parse_query(request, StockOptions)
    with refusing_values():
        page = await kit_of(request).store.inventory.stock(
            location=options.location,
            item=options.item,
            text=options.q,
            sort=options.sort,
            limit=options.limit,
            cursor=options.cursor,
            as_of=seconds(options.as_of),
        )
    return JSONResponse(
        {
            "items": [line.as_json() for line in page.rows],
            "next": page.next,
            "updated_at": iso(page.updated_at),
        }
    )


async def why(request: Request) -> Response:
    """Where each figure of the item comes from: count, boxes, movements, lines."""
    await require(request, Role.VIEWER)
    inventory = kit_of(request).store.inventory
    item_id = request.path_params["item_id"]
    options = parse_query(request, WhyOptions)
    as_of = seconds(options.as_of)
    page = await inventory.stock(
        item=item_id, location=options.location, as_of=as_of, limit=MAX_LOCATIONS
    )
    if not page.rows:
        raise Unknown("stock of item", item_id)
    found = [await inventory.why(item_id, line.location, as_of=as_of) for line in page.rows]
    return JSONResponse({"item_id": item_id, "stock": [one.as_json() for one in found]})


async def history(request: Request) -> Response:
    """Lines of the ledger, the last written first, with who or what caused each."""
    await require(request, Role.VIEWER)
    options = parse_query(request, HistoryOptions)
    with refusing_values():
        page = await kit_of(request).store.inventory.history(
            item=options.item,
            location=options.location,
            since=seconds(options.since),
            until=seconds(options.until),
            limit=options.limit,
            cursor=options.cursor,
        )
    return JSONResponse({"lines": [line.as_json() for line in page.rows], "next": page.next})


async def list_expiring(request: Request) -> Response:
    """Stock that expires soon or did, what expires first first."""
    await require(request, Role.VIEWER)
    options = parse_query(request, ExpiringOptions)
    found = await kit_of(request).store.inventory.expiring(
        options.within_days, location=options.location
    )
    return JSONResponse({"items": [one.as_json() for one in found]})
