"""What can be asked of a server, each as a value that a client of either kind sends.

Whatever changes something carries an Idempotency-Key, so that it is done once however often it is
sent.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, JsonValue

from capturekit.wire.captures import CapturePage, CaptureShown
from capturekit.wire.devices import DeviceAdded, DevicePage
from capturekit.wire.reviews import Decided, ReviewPage
from capturekit.wire.stock import HistoryPage, Kind, Moved, StockPage, Why
from capturekit.wire.tasks import Queued, Task
from capturekit.wire.uploads import Stored

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and the type of its answer."""

    answer: type[T]
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    json: JsonValue = None
    content: bytes | None = None
    picture: bytes | None = None
    """Sent as the form field ``image``, with ``fields``."""
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    """How long the server may hold the answer back, besides the client's timeout."""


def ingest(
    picture: bytes, *, captured_at: datetime | None = None, key: str | None = None
) -> Call[Stored]:
    """Upload a picture as a form; the same one again is the same capture."""
    fields = {"captured_at": captured_at.isoformat()} if captured_at else {}
    return Call(Stored, "POST", "/v1/ingest", picture=picture, fields=fields, headers=_once(key))


def put_frame(device_id: str, name: str, picture: bytes, *, meta: str = "") -> Call[Stored]:
    """Upload a JPEG as it is; ``name`` is ``BOOT-NUMBER``, such as ``7f3a-12``."""
    headers = {"Content-Type": "image/jpeg"} | ({"Capturekit-Meta": meta} if meta else {})
    path = f"/v1/devices/{_part(device_id)}/frames/{_part(name)}"
    return Call(Stored, "PUT", path, content=picture, headers=headers)


def captures(
    *, state: str | None = None, device: str | None = None, cursor: str | None = None
) -> Call[CapturePage]:
    """Captures, the newest upload first."""
    params = _given(state=state, device=device, cursor=cursor)
    return Call(CapturePage, "GET", "/v1/captures", params)


def capture(capture_id: str, *, wait_s: float = 0.0) -> Call[CaptureShown]:
    """One capture with its result; waits so long, at most 30 s, for it to be processed."""
    path = f"/v1/captures/{_part(capture_id)}"
    return Call(CaptureShown, "GET", path, {"wait": f"{wait_s:g}"}, wait_s=wait_s)


def process(capture_id: str) -> Call[Queued]:
    """Queue a capture."""
    path = f"/v1/admin/process-capture/{_part(capture_id)}"
    return Call(Queued, "POST", path, headers=_once())


def task(task_id: str, *, wait_s: float = 0.0) -> Call[Task]:
    """A task; waits so long, at most 30 s, for its end."""
    path = f"/v1/admin/task-status/{_part(task_id)}"
    return Call(Task, "GET", path, {"wait": f"{wait_s:g}"}, wait_s=wait_s)


def stock(
    *,
    location: str | None = None,
    item: str | None = None,
    as_of: datetime | None = None,
    cursor: str | None = None,
) -> Call[StockPage]:
    """Stock by item and location, now or as it was."""
    then = as_of.isoformat() if as_of else None
    params = _given(location=location, item=item, as_of=then, cursor=cursor)
    return Call(StockPage, "GET", "/v1/inventory", params)


def why(item_id: str) -> Call[Why]:
    """What each figure of an item follows from."""
    return Call(Why, "GET", f"/v1/inventory/{_part(item_id)}/why")


def history(*, item: str | None = None, cursor: str | None = None) -> Call[HistoryPage]:
    """Lines of the ledger, the last written first."""
    return Call(HistoryPage, "GET", "/v1/inventory/history", _given(item=item, cursor=cursor))


def move(
    kind: Kind,
    item: str,
    quantity: int,
    *,
    source: str | None = None,
    target: str | None = None,
    reason: str | None = None,
    key: str | None = None,
) -> Call[Moved]:
    """Record what a person did, from ``source`` to ``target`` as the kind needs them."""
    said: dict[str, JsonValue] = {"kind": kind, "item": item, "quantity": quantity}
    places = _given(**{"from": source, "to": target, "reason": reason})
    return Call(Moved, "POST", "/v1/movements", json={**said, **places}, headers=_once(key))


def undo(movement_id: str) -> Call[Moved]:
    """Take a movement back."""
    path = f"/v1/movements/{_part(movement_id)}/void"
    return Call(Moved, "POST", path, headers=_once())


def reviews(*, cursor: str | None = None) -> Call[ReviewPage]:
    """What waits for a person."""
    return Call(ReviewPage, "GET", "/v1/reviews", _given(cursor=cursor))


def accept(observation_id: int) -> Call[Decided]:
    """Let an observation count."""
    return Call(Decided, "POST", f"/v1/reviews/{observation_id}/accept", headers=_once())


def reject(observation_id: int) -> Call[Decided]:
    """Let an observation not count."""
    return Call(Decided, "POST", f"/v1/reviews/{observation_id}/reject", headers=_once())


def devices(*, cursor: str | None = None) -> Call[DevicePage]:
    """Devices by id."""
    return Call(DevicePage, "GET", "/v1/devices", _given(cursor=cursor))


def add_device(name: str) -> Call[DeviceAdded]:
    """Make a device; the answer has its token."""
    return Call(DeviceAdded, "POST", "/v1/devices", json={"name": name}, headers=_once())


def _once(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or secrets.token_hex(16)}


def _given(**words: str | None) -> dict[str, str]:
    return {name: word for name, word in words.items() if word is not None}


def _part(name: str) -> str:
    return quote(name, safe="")
