"""Cameras fetch their tokens with short codes, which people show them."""

from typing import Annotated, Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit import qr
from capturekit.store import Role
from capturekit.store.claims import MAX_VALID_S, VALID_S
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Body, Name, parse_body, refusing_values

LIMIT: Final = "claim"


class NewClaim(Body):
    """A token to offer: a device's, or without ``device_id`` that of whatever device comes."""

    device_id: Name | None = None
    name: Name | None = None
    exhaustive: bool = False
    valid_s: Annotated[float, Field(ge=10, le=MAX_VALID_S)] = VALID_S


class ClaimBody(Body):
    """What a device says to have its token."""

    code: Name
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None


async def offer_claim(request: Request) -> Response:
    """Make a code that is good once, for a while; a device that is new is made now."""
    await require(request, Role.ADMIN)
    new = await parse_body(request, NewClaim)
    with refusing_values():
        claim, code = await kit_of(request).store.claims.offer(
            new.device_id, name=new.name, is_exhaustive=new.exhaustive, valid_s=new.valid_s
        )
    path = f"{request.url.path}/{claim.id}"
    told = {"code": code, "url": _url(request, code), "qr": f"{path}/qr.svg"}
    return JSONResponse(claim.as_json() | told, 201, {"Location": path})


async def show_claim(request: Request) -> Response:
    """Whether the code was used, and by which device."""
    await require(request, Role.ADMIN)
    claim = await kit_of(request).store.claims.get(request.path_params["claim_id"])
    return JSONResponse(claim.as_json())


async def draw_claim(request: Request) -> Response:
    """The code and this server's address as a QR code; 409 when it is good no more."""
    await require(request, Role.ADMIN)
    code = await kit_of(request).store.claims.code(request.path_params["claim_id"])
    return Response(qr.as_svg(_url(request, code)), media_type="image/svg+xml")


async def use_claim(request: Request) -> Response:
    """Give the device its token, once; the same 403 for a code that is wrong, used or too old."""
    asked = await parse_body(request, ClaimBody)
    with refusing_values():
        device, token = await kit_of(request).store.claims.use(asked.code, asked.name)
    return JSONResponse({"id": device.id, "name": device.name, "token": token}, 201)


def _url(request: Request, code: str) -> str:
    return qr.claim_url(code, str(request.base_url).rstrip("/"))
