"""What is there, why we think so, and what things are called."""

from dataclasses import asdict
from typing import Final

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Unknown
from capturekit.store import Basis, Movement, StockRow, StockSort, Why
from capturekit.times import iso
from capturekit.web.auth import kit_of, require_admin
from capturekit.web.problems import Problem
from capturekit.web.query import parse_body, parse_query

MAX_LOCATIONS: Final = 500


class StockOptions(BaseModel):
    """Query of the stock list: ``?location=&item=&q=&sort=&limit=&cursor=``."""

    location: str | None = None
    item: str | None = None
    q: str | None = None
    sort: StockSort = StockSort.NAME
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class WhyOptions(BaseModel):
    """Query of why: ``?location=``."""

    location: str | None = None


class ItemChange(BaseModel):
    """What may be changed of an item."""

    name: str = Field(min_length=1, max_length=200)
    unit: str | None = Field(default=None, max_length=40)


class CodeChange(BaseModel):
    """How many of the item one such code stands for."""

    quantity: int = Field(default=1, ge=1, le=1_000_000)


async def list_stock(request: Request) -> Response:
    """Stock by item and location, a page at a time."""
    await require_admin(request)
    kit = kit_of(request)
    options = parse_query(request, StockOptions)
    try:
        page = await kit.store.inventory.stock(
            location=options.location,
            item=options.item,
            text=options.q,
            sort=options.sort,
            limit=options.limit,
            cursor=options.cursor,
        )
    except ValueError as error:
        raise Problem(422, "invalid-input", f"cursor: {error}") from error
    return JSONResponse(
        {
            "items": [_line(line) for line in page.rows],
            "next": page.next,
            "updated_at": iso(page.updated_at),
        }
    )


async def why(request: Request) -> Response:
    """Where each figure of the item comes from: moves, run, observations, boxes."""
    await require_admin(request)
    inventory = kit_of(request).store.inventory
    item_id = request.path_params["item_id"]
    options = parse_query(request, WhyOptions)
    page = await inventory.stock(item=item_id, location=options.location, limit=MAX_LOCATIONS)
    if not page.rows:
        raise Unknown("stock of item", item_id)
    found = [await inventory.why(item_id, line.location) for line in page.rows]
    return JSONResponse({"item_id": item_id, "stock": [_why(one) for one in found]})


async def change_item(request: Request) -> Response:
    """Give an item a name that people know, and its unit."""
    await require_admin(request)
    change = await parse_body(request, ItemChange)
    item = await kit_of(request).store.inventory.rename(
        request.path_params["item_id"], change.name, change.unit
    )
    return JSONResponse({"item_id": item.id, "name": item.name, "unit": item.unit})


async def assign_code(request: Request) -> Response:
    """Let a code stand for the item, for the past as well."""
    await require_admin(request)
    change = await parse_body(request, CodeChange)
    code, item_id = request.path_params["code"], request.path_params["item_id"]
    await kit_of(request).store.inventory.assign_code(code, item_id, change.quantity)
    return JSONResponse({"item_id": item_id, "code": code, "quantity": change.quantity})


def _line(line: StockRow) -> dict[str, object]:
    return {
        "item_id": line.item_id,
        "name": line.name,
        "quantity": line.quantity,
        "unit": line.unit,
        "location": line.location,
        "confidence": line.confidence,
        "last_seen_at": iso(line.last_seen_at),
        "codes": list(line.codes),
    }


def _why(why: Why) -> dict[str, object]:
    moves = [
        {
            "seq": move.seq,
            "from": move.source,
            "to": move.target,
            "quantity": move.quantity,
            "cause": move.cause,
            "cause_id": move.cause_id,
            "recorded_at": iso(move.recorded_at),
        }
        for move in why.moves
    ]
    return _line(why.stock) | {"basis": _basis(why.basis), "moves": moves}


def _basis(basis: Basis | Movement | None) -> dict[str, object] | None:
    if isinstance(basis, Basis):
        return asdict(basis) | {"kind": "camera", "captured_at": iso(basis.captured_at)}
    if isinstance(basis, Movement):
        return {"kind": "person", "movement_id": basis.id, "by": basis.by}
    return None
