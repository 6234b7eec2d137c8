"""The cameras that may upload: listed, added, changed, given another token, shut out."""

from typing import Annotated, Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.store import Role
from capturekit.store.devices import MAX_GRACE_S
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Body, Name, Query, parse_body, parse_query, refusing_values

GRACE_S: Final = 86400.0
"""Long enough for a camera that uploads once a day to learn its new token."""


class DeviceOptions(Query):
    """Query of devices: ``?q=&location=&revoked=&limit=&cursor=``."""

    q: Name | None = None
    location: Name | None = None
    revoked: bool | None = None
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class NewDevice(Body):
    """A device to add; its id is its name unless one is given."""

    name: Name
    id: Name | None = None
    exhaustive: bool = False


class DeviceChange(Body):
    """What may be changed of a device."""

    name: Name | None = None
    location: Name | None = None
    exhaustive: bool | None = None
    signed_only: bool | None = None
    """Whether its token alone is refused: it must sign."""


class RotateOptions(Query):
    """Query of a rotation: ``?grace_s=``."""

    grace_s: Annotated[float, Field(ge=0, le=MAX_GRACE_S)] = GRACE_S


async def list_devices(request: Request) -> Response:
    """Devices by id, revoked ones too, a page at a time."""
    await require(request, Role.ADMIN)
    options = parse_query(request, DeviceOptions)
    with refusing_values():
        page = await kit_of(request).store.fleet.page(
            text=options.q,
            location_id=options.location,
            is_revoked=options.revoked,
            limit=options.limit,
            cursor=options.cursor,
        )
    return JSONResponse({"devices": [one.as_json() for one in page.rows], "next": page.next})


async def add_device(request: Request) -> Response:
    """Make a device and show its token, this once; 409 when there is one of this id."""
    await require(request, Role.ADMIN)
    new = await parse_body(request, NewDevice)
    with refusing_values():
        device, token = await kit_of(request).store.devices.add(
            new.name, new.id, is_exhaustive=new.exhaustive
        )
    location = f"{request.url.path}/{device.id}"
    return JSONResponse(device.as_json() | {"token": token}, 201, {"Location": location})


async def show_device(request: Request) -> Response:
    """A device with its views and the keys that hold."""
    await require(request, Role.ADMIN)
    entry = await kit_of(request).store.fleet.entry(request.path_params["device_id"])
    return JSONResponse(entry.as_json())


async def change_device(request: Request) -> Response:
    """Give a device another name or place, or say whether it sees all of it."""
    await require(request, Role.ADMIN)
    change = await parse_body(request, DeviceChange)
    device = await kit_of(request).store.fleet.change(
        request.path_params["device_id"],
        name=change.name,
        location_id=change.location,
        is_exhaustive=change.exhaustive,
        is_signed_only=change.signed_only,
    )
    return JSONResponse(device.as_json())


async def rotate_device(request: Request) -> Response:
    """Give a device a new token, shown this once; the old one holds for a while."""
    await require(request, Role.ADMIN)
    options = parse_query(request, RotateOptions)
    device_id = request.path_params["device_id"]
    token = await kit_of(request).store.devices.rotate(device_id, grace_s=options.grace_s)
    entry = await kit_of(request).store.fleet.entry(device_id)
    return JSONResponse(entry.as_json() | {"token": token})


async def revoke_device(request: Request) -> Response:
    """End all tokens of a device at once."""
    await require(request, Role.ADMIN)
    device_id = request.path_params["device_id"]
    await kit_of(request).store.devices.revoke(device_id)
    entry = await kit_of(request).store.fleet.entry(device_id)
    return JSONResponse(entry.as_json())
