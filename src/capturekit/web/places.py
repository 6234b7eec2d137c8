"""Where things are: locations and what devices see of them; par levels and alerts."""

from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Unknown
from capturekit.store import Role
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Body, Name, Query, parse_body, parse_query, refusing_values


class NewLocation(Body):
    """A location to add."""

    location_id: Name
    name: Name | None = None
    parent_id: Name | None = None


class LocationChange(Body):
    """What may be changed of a location. ``parent_id: null`` puts it into no other."""

    name: Name | None = None
    parent_id: Name | None = None


class ViewBody(Body):
    """What a device sees of a location."""

    polygon: Annotated[list[tuple[float, float]], Field(min_length=3, max_length=1000)] | None = (
        None
    )
    is_exhaustive: bool = False


class LevelOptions(Query):
    """Query of par levels: ``?item=&location=&limit=&cursor=``."""

    item: Name | None = None
    location: Name | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class LevelBody(Body):
    """A par level; ``restock_at`` is one over the minimum unless it is given."""

    minimum: int
    restock_at: int | None = None
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    by: Name | None = None


class AlertOptions(Query):
    """Query of alerts: ``?open=true&item=&limit=&cursor=``."""

    open: bool = True
    item: Name | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


async def list_locations(request: Request) -> Response:
    """Every location but the virtual ones, by id."""
    await require(request, Role.VIEWER)
    found = await kit_of(request).store.inventory.locations()
    return JSONResponse({"locations": [one.as_json() for one in found]})


async def add_location(request: Request) -> Response:
    """Make a location; 409 when there is one of this id."""
    await require(request, Role.OPERATOR)
    new = await parse_body(request, NewLocation)
    with refusing_values():
        made = await kit_of(request).store.inventory.add_location(
            new.location_id, new.name, parent=new.parent_id
        )
    return JSONResponse(made.as_json(), 201)


async def change_location(request: Request) -> Response:
    """Give a location another name, or put it into another; 409 when that is within it."""
    await require(request, Role.OPERATOR)
    change = await parse_body(request, LocationChange)
    inventory = kit_of(request).store.inventory
    location_id = request.path_params["location_id"]
    if "parent_id" in change.model_fields_set:
        await inventory.move_location(location_id, change.parent_id)
    if change.name is not None:
        await inventory.rename_location(location_id, change.name)
    for one in await inventory.locations():
        if one.id == location_id:
            return JSONResponse(one.as_json())
    raise Unknown("location", location_id)


async def set_view(request: Request) -> Response:
    """Say what a device sees of a location; replaces what was said before."""
    await require(request, Role.ADMIN)
    view = await parse_body(request, ViewBody)
    device_id = request.path_params["device_id"]
    location_id = request.path_params["location_id"]
    with refusing_values():
        await kit_of(request).store.devices.add_view(
            device_id, location_id, polygon=view.polygon, is_exhaustive=view.is_exhaustive
        )
    return JSONResponse(
        {"device_id": device_id, "location_id": location_id} | view.model_dump(mode="json")
    )


async def list_levels(request: Request) -> Response:
    """Par levels, a page at a time."""
    await require(request, Role.VIEWER)
    options = parse_query(request, LevelOptions)
    with refusing_values():
        page = await kit_of(request).store.inventory.par_levels(
            item=options.item,
            location=options.location,
            limit=options.limit,
            cursor=options.cursor,
        )
    return JSONResponse({"par_levels": [one.as_json() for one in page.rows], "next": page.next})


async def set_level(request: Request) -> Response:
    """Say how little of an item there may be in a place and all below it."""
    asking = await require(request, Role.OPERATOR)
    body = await parse_body(request, LevelBody)
    with refusing_values():
        level = await kit_of(request).store.inventory.set_par_level(
            request.path_params["item_id"],
            request.path_params["location_id"],
            body.minimum,
            restock_at=body.restock_at,
            min_confidence=body.min_confidence,
            by=body.by or asking.name,
        )
    return JSONResponse(level.as_json())


async def remove_level(request: Request) -> Response:
    """Forget a par level; its alert is cleared."""
    await require(request, Role.OPERATOR)
    await kit_of(request).store.inventory.remove_par_level(
        request.path_params["item_id"], request.path_params["location_id"]
    )
    return Response(status_code=204)


async def list_alerts(request: Request) -> Response:
    """Alerts, the newest first: those that are open, or with ``open=false`` all."""
    await require(request, Role.VIEWER)
    options = parse_query(request, AlertOptions)
    with refusing_values():
        page = await kit_of(request).store.inventory.alerts(
            item=options.item, is_open=options.open, limit=options.limit, cursor=options.cursor
        )
    return JSONResponse({"alerts": [one.as_json() for one in page.rows], "next": page.next})
