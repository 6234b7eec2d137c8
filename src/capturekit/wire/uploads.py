"""What a device is told."""

from typing import Literal

from pydantic import ConfigDict

from capturekit.wire.base import Answer, Moment


class Stored(Answer):
    """A picture is on the disk."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "stored",
                    "capture_id": "01k9x3v5d0w4f6m8q2r7t1y3z5",
                    "message": "picture stored",
                    "duplicate": False,
                }
            ]
        }
    )

    status: Literal["stored"] = "stored"
    capture_id: str
    message: str
    duplicate: bool
    """Whether it was there before."""


class UploadLimits(Answer):
    """What may be uploaded."""

    max_bytes: int
    max_pixels: int
    ingest: str | None
    """How many, such as ``10/minute``; null without a limit."""


class Hello(Answer):
    """The time, for a device without a clock, and what it may send."""

    time: Moment
    unix: float
    """The same in seconds since 1970."""
    nonce: str
    """To sign one upload with, within five minutes."""
    limits: UploadLimits
