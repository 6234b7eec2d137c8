"""``POST /v1/ingest``: the form that camera clients in the field already send."""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import NotAuthorized
from capturekit.kit import Upload
from capturekit.store import Principal
from capturekit.web.auth import REFUSAL, admit, by_token, kit_of, spend_limit
from capturekit.web.device_config import config_field
from capturekit.web.fields import content_digest
from capturekit.web.form import Form, read_form
from capturekit.web.problems import Problem
from capturekit.web.signed import next_nonce, refusal, require_unsigned, uploader_of

MAX_KEY_CHARACTERS: Final = 200
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
"""A time before this is of a camera whose clock was never set; it counts as none given."""
MAX_READING: Final = 1e6

_SINCE_1970: Final = re.compile(r"(?P<seconds>(\d{1,7}|\d{9,10})(\.\d{1,9})?)|\d{12,13}", re.ASCII)
"""Seconds, or milliseconds where there are more digits. Eight digits are a date, 20261124; few are
the time since a start, which is before 2000 and so none."""


class IngestForm(BaseModel):
    """The form of a camera client. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    image: bytes
    """A JPEG, PNG, WebP or HEIC."""
    device_id: str | None = None
    """If given, that of the token."""
    token: str | None = None
    """The device's, where no header can be set."""
    captured_at: AwareDatetime | float | None = None
    """When it was taken: ISO 8601, or seconds or milliseconds since 1970."""
    timestamp: AwareDatetime | float | None = None
    """The same under its old name."""
    trigger_type: str | None = None
    cfg: int | None = None
    """The version of its configuration that the device has."""
    battery_v: float | None = None
    """Volts."""
    rssi: int | None = None
    """Signal strength in dBm."""
    metadata: str | None = None
    """JSON, or text."""


async def ingest(request: Request) -> Response:
    """Keep one picture; answers when it is on the disk."""
    kit = kit_of(request)
    principal = await uploader_of(request)
    if principal is not None:
        # Before the body is read: a camera over its limit costs no memory.
        await spend_limit(request, "ingest", principal)
    form = await _read(request, kit.settings.max_upload_bytes)
    if principal is None:
        principal = await _by_form_token(request, form)
    upload = _upload(request, form, _device_of(principal, form))
    await admit(request, principal)
    capture, is_duplicate = await kit.receive(upload)
    request.state.capture_id = capture.id
    return JSONResponse(
        {
            "status": "stored",
            "capture_id": capture.id,
            "message": "this picture was stored before" if is_duplicate else "picture stored",
            "duplicate": is_duplicate,
        },
        headers=config_field(principal, _integer(form.text("cfg"))) | await next_nonce(request),
    )


async def _read(request: Request, max_bytes: int) -> Form:
    """The form. Raises Problem 400 when it is not what ``Content-Digest`` says."""
    wanted = content_digest(request)
    if wanted is None:
        return await read_form(request, "image", max_bytes)
    digest = hashlib.sha256()
    form = await read_form(request, "image", max_bytes, digest.update)
    if digest.digest() != wanted:
        raise Problem(400, "digest-mismatch", "the body is not what its Content-Digest says")
    return form


async def _by_form_token(request: Request, form: Form) -> Principal:
    token = form.text("token")
    kit = kit_of(request)
    principal = await by_token(request.scope, kit, token) if token else None
    if principal is None:
        raise await refusal(kit, "not-authorized", REFUSAL)
    await require_unsigned(kit, principal)
    await spend_limit(request, "ingest", principal)
    return principal


def _device_of(principal: Principal, form: Form) -> str:
    claimed = form.text("device_id")
    if principal.device_id is None:
        raise Problem(403, "forbidden", "only a device's token uploads pictures")
    if claimed is not None and claimed != principal.device_id:
        # The same as a wrong token: it does not tell which devices exist.
        raise NotAuthorized(REFUSAL)
    return principal.device_id


def _upload(request: Request, form: Form, device_id: str) -> Upload:
    return Upload(
        content=form.picture("image"),
        device_id=device_id,
        key=_key(request.headers.get("idempotency-key")),
        captured_at=_time(form.text("captured_at") or form.text("timestamp")),
        trigger_type=form.text("trigger_type"),
        battery_v=_number(form.text("battery_v")),
        rssi_dbm=_integer(form.text("rssi")),
        metadata=_metadata(form.text("metadata")),
        via="form",
    )


def _key(header: str | None) -> str | None:
    if header is not None and len(header) > MAX_KEY_CHARACTERS:
        detail = f"the Idempotency-Key has more than {MAX_KEY_CHARACTERS} characters"
        raise Problem(400, "bad-idempotency-key", detail)
    return header or None


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        if (number := _SINCE_1970.fullmatch(text)) is not None:
            seconds = float(text) if number["seconds"] else float(text) / 1000
            return seconds if seconds >= EARLIEST else None
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        detail = (
            f"captured_at {text[:100]!r} is not ISO 8601, such as 2026-11-24T17:03:00Z, nor "
            "seconds or milliseconds since 1970"
        )
        raise Problem(422, "bad-timestamp", detail) from error
    return seconds if seconds >= EARLIEST else None


def _number(text: str | None) -> float | None:
    """A reading, or None when it is none: odd telemetry never costs a picture."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < MAX_READING else None


def _integer(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None else round(value)


def _metadata(text: str | None) -> dict[str, JsonValue]:
    if text is None:
        return {}
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return {"text": text}
    return value if isinstance(value, dict) else {"value": value}
