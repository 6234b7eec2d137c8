"""``PUT /v1/devices/{device}/frames/{boot}-{seq}``: a picture as it is, for tiny devices.

No form to build and none to parse. The name makes an upload that is repeated the same capture,
and what a device without a clock knows of time is how old the picture is.
"""

import hashlib
import re
import time
from http import HTTPStatus
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.kit import Upload
from capturekit.store import Principal, PrincipalKind
from capturekit.times import iso
from capturekit.web.auth import REFUSAL, admit, kit_of, spend_limit
from capturekit.web.device_config import config_field
from capturekit.web.fields import content_digest, dictionary
from capturekit.web.form import chunks
from capturekit.web.problems import Problem
from capturekit.web.signed import next_nonce, refusal, uploader_of

NAME: Final = re.compile(r"[0-9A-Za-z_]{1,32}-[0-9]{1,10}")
"""A frame's: what tells one start of the device from another, and a number."""


class Meta(BaseModel):
    """``Capturekit-Meta``, an RFC 9651 dictionary; keys that are not known here are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    age: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Seconds since the picture was taken."""
    rssi: Annotated[int, Field(ge=-200, le=100)] | None = None
    """Signal strength in dBm."""
    vbat: Annotated[int, Field(ge=0, le=10**6)] | None = None
    """Battery in millivolts."""
    heap: Annotated[int, Field(ge=0, le=10**12)] | None = None
    """Free memory in bytes."""
    q: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Pictures that wait on the device."""
    drop: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Pictures that it had to throw away."""
    tries: Annotated[int | None, Field(alias="try", ge=0, le=10**9)] = None
    """Times that it sent this one."""
    rst: Annotated[str, Field(max_length=64)] | None = None
    """Why it started last."""
    fw: Annotated[str, Field(max_length=64)] | None = None
    """Version of its firmware."""
    cfg: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Version of its configuration."""


async def put_frame(request: Request) -> Response:
    """Keep one picture; answers when it is on the disk. 201, or 200 when it was there."""
    kit = kit_of(request)
    device_id, name = request.path_params["device_id"], request.path_params["name"]
    principal = await _device(request, device_id)
    await spend_limit(request, "ingest", principal)
    if not NAME.fullmatch(name):
        detail = f"a frame is named BOOT-NUMBER, such as 7f3a-12, not {name[:60]!r}"
        raise Problem(422, "bad-frame-name", detail)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "image/jpeg":
        raise Problem(415, "not-jpeg", f"send image/jpeg, not {media_type[:60] or 'no type'}")
    meta = _meta(request)
    upload = await _upload(request, device_id, name, meta)
    await admit(request, principal)
    capture, is_duplicate = await kit.receive(upload)
    request.state.capture_id = capture.id
    body = {
        "status": "stored",
        "capture_id": capture.id,
        "message": "this picture was stored before" if is_duplicate else "picture stored",
        "duplicate": is_duplicate,
    }
    status = HTTPStatus.OK if is_duplicate else HTTPStatus.CREATED
    fields = config_field(principal, meta.cfg) | await next_nonce(request)
    return JSONResponse(body, status, fields)


async def hello(request: Request) -> Response:
    """The time, for a device that has none, a nonce to sign with, and what it may send."""
    kit = kit_of(request)
    settings = kit.settings
    limits = {"max_bytes": settings.max_upload_bytes, "max_pixels": settings.max_pixels}
    rule = settings.rate_limits.get("ingest")
    now = time.time()
    nonce = await kit.store.nonces.issue()
    told = {"time": iso(now), "unix": round(now, 3), "nonce": nonce}
    return JSONResponse(told | {"limits": limits | {"ingest": rule}})


async def _device(request: Request, device_id: str) -> Principal:
    """The device that asks, which must be the one of the path."""
    principal = await uploader_of(request)
    if principal is None:
        raise await refusal(kit_of(request), "not-authorized", REFUSAL)
    if principal.kind is not PrincipalKind.DEVICE or principal.device_id != device_id:
        detail = "this token is not that device's: each uploads under its own name"
        raise Problem(403, "forbidden", detail)
    return principal


async def _upload(request: Request, device_id: str, name: str, meta: Meta) -> Upload:
    content, digest = bytearray(), hashlib.sha256()
    async for chunk in chunks(request, kit_of(request).settings.max_upload_bytes):
        content += chunk
        digest.update(chunk)
    wanted = content_digest(request)
    if wanted is not None and wanted != digest.digest():
        raise Problem(400, "digest-mismatch", "the body is not what its Content-Digest says")
    return Upload(
        content=bytes(content),
        device_id=device_id,
        key=name,
        captured_at=None if meta.age is None else time.time() - meta.age,
        battery_v=None if meta.vbat is None else meta.vbat / 1000,
        rssi_dbm=meta.rssi,
        metadata=meta.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"vbat", "rssi"}
        ),
        via="frame",
    )


def _meta(request: Request) -> Meta:
    found = dictionary(request, "capturekit-meta")
    try:
        # An item is a value and its parameters, of which we know none.
        return Meta.model_validate({name: item[0] for name, item in found.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        detail = f"Capturekit-Meta: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise Problem(422, "bad-meta", detail) from error
