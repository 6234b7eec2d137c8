"""What things are called: items and the codes that name them; their lots and forecasts."""

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Conflict, Unknown
from capturekit.store import Inventory, Role
from capturekit.web.auth import kit_of, require
from capturekit.web.inventory import WhyOptions
from capturekit.web.query import Body, Name, Query, parse_body, parse_query, refusing_values


class ItemOptions(Query):
    """Query of the catalogue: ``?q=&limit=&cursor=``."""

    q: Name | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class CodeChange(Body):
    """How many of the item one such code stands for."""

    quantity: int = Field(default=1, ge=1, le=1_000_000)


class NewCode(CodeChange):
    """A code of a new item."""

    code: Name


class NewItem(Body):
    """An item to add."""

    item_id: Name
    name: Name
    unit: Name | None = None
    codes: list[NewCode] = Field(default=[], max_length=100)


class ItemChange(Body):
    """What may be changed of an item."""

    name: Name
    unit: Name | None = None


class ForecastOptions(Query):
    """Query of a forecast: ``?location=&days=``."""

    location: Name | None = None
    days: int = Field(default=28, ge=1, le=366)


def _inventory(request: Request) -> Inventory:
    return kit_of(request).store.inventory


async def list_items(request: Request) -> Response:
    """The catalogue, a page at a time."""
    await require(request, Role.VIEWER)
    options = parse_query(request, ItemOptions)
    with refusing_values():
        page = await _inventory(request).items(
            text=options.q, limit=options.limit, cursor=options.cursor
        )
    return JSONResponse({"items": [one.as_json() for one in page.rows], "next": page.next})


async def show_item(request: Request) -> Response:
    """An item with its codes."""
    await require(request, Role.VIEWER)
    item = await _inventory(request).item(request.path_params["item_id"])
    return JSONResponse(item.as_json())


async def add_item(request: Request) -> Response:
    """Make an item with its codes; 409 when there is one of this id."""
    await require(request, Role.OPERATOR)
    new = await parse_body(request, NewItem)
    inventory = _inventory(request)
    if await _is_known(inventory, new.item_id):
        raise Conflict(f"there is an item {new.item_id!r} already; PATCH changes it")
    await inventory.add_item(new.item_id, new.name, new.unit)
    for one in new.codes:
        await inventory.assign_code(one.code, new.item_id, one.quantity)
    return JSONResponse((await inventory.item(new.item_id)).as_json(), 201)


async def change_item(request: Request) -> Response:
    """Give an item a name that people know, and its unit."""
    await require(request, Role.OPERATOR)
    change = await parse_body(request, ItemChange)
    item = await _inventory(request).rename(
        request.path_params["item_id"], change.name, change.unit
    )
    return JSONResponse({"item_id": item.id, "name": item.name, "unit": item.unit})


async def assign_code(request: Request) -> Response:
    """Let a code stand for the item, for the past as well."""
    await require(request, Role.OPERATOR)
    change = await parse_body(request, CodeChange)
    code, item_id = request.path_params["code"], request.path_params["item_id"]
    await _inventory(request).assign_code(code, item_id, change.quantity)
    return JSONResponse({"item_id": item_id, "code": code, "quantity": change.quantity})


async def release_code(request: Request) -> Response:
    """Take a code from the item: it names an item of its own again, for the past as well."""
    await require(request, Role.OPERATOR)
    code, item_id = request.path_params["code"], request.path_params["item_id"]
    await _inventory(request).release_code(code, item_id)
    return Response(status_code=204)


async def show_lots(request: Request) -> Response:
    """Which lots stock of the item is made of."""
    await require(request, Role.VIEWER)
    options = parse_query(request, WhyOptions)
    lots = await _inventory(request).lots(request.path_params["item_id"], options.location)
    return JSONResponse(lots.as_json())


async def show_forecast(request: Request) -> Response:
    """When the item will be used up."""
    await require(request, Role.VIEWER)
    options = parse_query(request, ForecastOptions)
    forecast = await _inventory(request).forecast(
        request.path_params["item_id"], options.location, days=options.days
    )
    return JSONResponse(forecast.as_json())


async def _is_known(inventory: Inventory, item_id: str) -> bool:
    try:
        await inventory.item(item_id)
    except Unknown:
        return False
    return True
