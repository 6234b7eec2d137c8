"""What a camera is told to do: how often it takes pictures, and what sort.

Each change has a number of its own. A camera says which one it has, and is told a newer one on the
answer to an upload.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

WEEK_S: Final = 7 * 86400

WIRE_NAMES: Final[Mapping[str, str]] = {
    "every": "every_s",
    "phase": "phase_s",
    "size": "size",
    "q": "quality",
    "trigger": "trigger",
}
"""What devices call the members of ``DeviceConfig``: every byte costs them."""


class FrameSize(StrEnum):
    """Pixels of a picture, by the names of the usual camera drivers."""

    QQVGA = "qqvga"
    """160 x 120"""
    QVGA = "qvga"
    """320 x 240"""
    VGA = "vga"
    """640 x 480"""
    SVGA = "svga"
    """800 x 600"""
    XGA = "xga"
    """1024 x 768"""
    HD = "hd"
    """1280 x 720"""
    SXGA = "sxga"
    """1280 x 1024"""
    UXGA = "uxga"
    """1600 x 1200"""
    FHD = "fhd"
    """1920 x 1080"""
    QXGA = "qxga"
    """2048 x 1536"""
    QSXGA = "qsxga"
    """2592 x 1944"""


class Trigger(StrEnum):
    """What makes a camera take a picture."""

    TIMER = "timer"
    MOTION = "motion"
    DOOR = "door"
    LIGHT = "light"
    BUTTON = "button"


class DeviceConfig(BaseModel):
    """What a camera should do. What is left out stays as the camera has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    every_s: Annotated[int, Field(ge=1, le=WEEK_S)] | None = None
    """Seconds from one picture to the next."""
    phase_s: Annotated[int, Field(ge=0, lt=WEEK_S)] | None = None
    """When within ``every_s`` it takes them, in seconds of a common clock. Left out, it follows
    from the device's id, so that a fleet spreads over the period."""
    size: FrameSize | None = None
    quality: Annotated[int, Field(ge=4, le=63)] | None = None
    """Of the JPEG as the camera's driver counts: the less the better."""
    trigger: Trigger | None = None

    @model_validator(mode="after")
    def _phase_is_within_the_period(self) -> Self:
        if self.phase_s is not None and (self.every_s is None or self.phase_s >= self.every_s):
            raise ValueError("phase_s is a part of every_s: give one that is less than it")
        return self


@dataclass(frozen=True, slots=True)
class Configuration:
    """A device's configuration as it is stored."""

    version: int
    """0 when it has none."""
    stored: Mapping[str, JsonValue]

    @property
    def config(self) -> DeviceConfig:
        """What the device should do."""
        return DeviceConfig.model_validate(self.stored)

    def as_json(self) -> dict[str, JsonValue]:
        """The configuration as the HTTP API and the command line show it."""
        return {"version": self.version, "config": self.config.model_dump(mode="json")}

    def for_device(self, device_id: str) -> dict[str, int | str]:
        """What the device is told, in its words."""
        config = self.config
        told: dict[str, int | str] = {"v": self.version}
        for word, name in WIRE_NAMES.items():
            value: int | str | None = getattr(config, name)
            if name == "phase_s" and value is None and config.every_s is not None:
                value = phase_of(device_id, config.every_s)
            if value is not None:
                told[word] = value
        return told


NO_CONFIGURATION: Final = Configuration(0, {})


def phase_of(device_id: str, every_s: int) -> int:
    """When in its period a device takes pictures: evenly spread over devices, always the same."""
    digest = hashlib.sha256(device_id.encode()).digest()
    return int.from_bytes(digest[:8]) % every_s
