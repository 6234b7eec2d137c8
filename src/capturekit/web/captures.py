"""Captures and what became of them."""

from typing import Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Unknown
from capturekit.store import Capture, CaptureState, Role
from capturekit.times import iso
from capturekit.web.auth import kit_of, require
from capturekit.web.problems import Problem
from capturekit.web.query import Query, parse_query
from capturekit.web.waiting import WaitOptions, wait_until

ENDS: Final = (CaptureState.COMPLETED, CaptureState.FAILED)


class ListOptions(Query):
    """Query of the list: ``?state=&device=&limit=&cursor=``."""

    state: CaptureState | None = None
    device: str | None = None
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = None


async def list_captures(request: Request) -> Response:
    """Captures, the newest upload first, a page at a time."""
    await require(request, Role.VIEWER)
    options = parse_query(request, ListOptions)
    page = await kit_of(request).store.captures.list(
        state=options.state, device_id=options.device, limit=options.limit, cursor=options.cursor
    )
    return JSONResponse({"captures": [_row(capture) for capture in page.rows], "next": page.next})


async def show_capture(request: Request) -> Response:
    """One capture with the result of its run; ``?wait=5`` answers when it is processed."""
    await require(request, Role.VIEWER)
    captures = kit_of(request).store.captures
    capture_id = request.path_params["capture_id"]
    options = parse_query(request, WaitOptions)
    capture = await wait_until(
        lambda: captures.get(capture_id), lambda capture: capture.state in ENDS, options.wait
    )
    run = await captures.current_run(capture_id)
    result = None if run is None else run.result
    finished_at = None if run is None else iso(run.finished_at)
    return JSONResponse(_row(capture) | {"completed_at": finished_at, "result": result})


async def show_thumbnail(request: Request) -> Response:
    """A small picture made from the pixels, never the bytes that were uploaded."""
    await require(request, Role.VIEWER)
    kit = kit_of(request)
    capture = await kit.store.captures.get(request.path_params["capture_id"])
    if capture.picture_removed_at is not None:
        raise Problem(
            410,
            "picture-removed",
            "the picture was removed by retention; what was seen on it stays",
            members={"removed_at": iso(capture.picture_removed_at)},
        )
    if capture.thumbnail_sha256 is None:
        raise Unknown("thumbnail of capture", capture.id)
    return Response(await kit.blobs.get(capture.thumbnail_sha256), media_type="image/jpeg")


def _row(capture: Capture) -> dict[str, object]:
    removed_at = capture.picture_removed_at
    return {
        "capture_id": capture.id,
        "device_id": capture.device_id,
        "state": capture.state,
        "captured_at": iso(capture.captured_at),
        "received_at": iso(capture.received_at),
        "sha256": capture.sha256,
        "size_bytes": capture.size_bytes,
        "width": capture.width,
        "height": capture.height,
        "flags": list(capture.flags),
        "trigger_type": capture.trigger_type,
        "battery_v": capture.battery_v,
        "rssi": capture.rssi,
        "metadata": capture.metadata,
        "error": capture.error,
        "has_thumbnail": capture.thumbnail_sha256 is not None and not removed_at,
        "picture_removed_at": iso(removed_at),
    }
