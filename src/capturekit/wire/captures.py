"""Captures."""

from typing import Literal, TypeAlias

from pydantic import JsonValue

from capturekit.wire.base import Answer, Cursor, Moment

State: TypeAlias = Literal["pending", "processing", "completed", "failed"]
"""``store.CaptureState``, without the store."""


class CaptureRow(Answer):
    """An upload and its record."""

    capture_id: str
    device_id: str
    state: State
    captured_at: Moment
    received_at: Moment
    sha256: str
    """Of the bytes as they were uploaded."""
    size_bytes: int
    width: int
    height: int
    flags: list[str]
    trigger_type: str | None
    battery_v: float | None
    rssi: int | None
    metadata: dict[str, JsonValue]
    error: JsonValue
    has_thumbnail: bool
    picture_removed_at: Moment | None


class CaptureShown(CaptureRow):
    """A capture with what its run found."""

    completed_at: Moment | None
    result: JsonValue


class CapturePage(Answer):
    """Captures, the newest upload first."""

    captures: list[CaptureRow]
    next: Cursor
