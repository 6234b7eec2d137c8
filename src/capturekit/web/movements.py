"""What people say was received, used, moved, counted or written off, and take back."""

from datetime import date

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.store import Movement, MovementKind, NewMovement, Role, StockChange
from capturekit.web.auth import kit_of, require
from capturekit.web.inventory import seconds
from capturekit.web.query import Body, Name, Time, idempotency_key, parse_body, refusing_values


class MovementBody(Body):
    """A movement; ``from`` and ``to`` are real locations, as the kind needs them.

    ``by`` is who asks, unless it says who did it.
    """

    kind: MovementKind
    item: Name
    quantity: int
    source: Name | None = Field(default=None, alias="from")
    target: Name | None = Field(default=None, alias="to")
    at: Time | None = None
    by: Name | None = None
    reason: Name | None = None
    lot: Name | None = None
    expires_on: date | None = None
    may_go_negative: bool = False


class CountBody(Body):
    """How much there is, as a person counted it."""

    item: Name
    location: Name
    quantity: int
    at: Time | None = None
    by: Name | None = None
    reason: Name | None = None


class VoidBody(Body):
    """Who takes it back."""

    by: Name | None = None


async def record_movement(request: Request) -> Response:
    """Do what a person did; the same Idempotency-Key again answers with the same movement."""
    asking = await require(request, Role.OPERATOR)
    body = await parse_body(request, MovementBody)
    with refusing_values():
        new = NewMovement(
            body.kind,
            body.item,
            body.quantity,
            source=body.source,
            target=body.target,
            at=seconds(body.at),
            by=body.by or asking.name,
            key=idempotency_key(request),
            may_go_negative=body.may_go_negative,
            reason=body.reason,
            lot=body.lot,
            expires_on=body.expires_on,
        )
        movement, changes = await kit_of(request).store.inventory.move(new)
    return _answer(movement, changes)


async def override(request: Request) -> Response:
    """Count by hand: what is there now, whatever was thought before."""
    asking = await require(request, Role.OPERATOR)
    body = await parse_body(request, CountBody)
    with refusing_values():
        new = NewMovement(
            MovementKind.COUNT,
            body.item,
            body.quantity,
            target=body.location,
            at=seconds(body.at),
            by=body.by or asking.name,
            key=idempotency_key(request),
            reason=body.reason,
        )
        movement, changes = await kit_of(request).store.inventory.move(new)
    return _answer(movement, changes)


async def show_movement(request: Request) -> Response:
    """A movement as it was recorded."""
    await require(request, Role.VIEWER)
    movement = await kit_of(request).store.inventory.movement(request.path_params["movement_id"])
    return JSONResponse(movement.as_json())


async def void_movement(request: Request) -> Response:
    """Take a movement back, whatever came after it; again changes nothing."""
    asking = await require(request, Role.OPERATOR)
    inventory = kit_of(request).store.inventory
    movement_id = request.path_params["movement_id"]
    has_body = request.headers.get("content-length", "0") != "0"
    body = await parse_body(request, VoidBody) if has_body else VoidBody()
    changes = await inventory.void(movement_id, by=body.by or asking.name)
    return _answer(await inventory.movement(movement_id), changes)


def _answer(movement: Movement, changes: list[StockChange]) -> Response:
    told = [
        {
            "item_id": change.item_id,
            "location_id": change.location_id,
            "before": change.before,
            "after": change.after,
        }
        for change in changes
    ]
    return JSONResponse({"movement": movement.as_json(), "changes": told})
