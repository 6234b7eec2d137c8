"""Cameras."""

from capturekit.wire.base import Answer, Cursor, Moment, Point


class DeviceRow(Answer):
    """A device, and what it last said of itself."""

    id: str
    name: str
    location: str
    exhaustive: bool
    """Whether what is not seen there is not there."""
    last_seen_at: Moment | None
    battery_v: float | None
    rssi: int | None
    """Signal strength in dBm."""
    signed_only: bool
    """Whether its token alone is refused."""
    created_at: Moment
    revoked_at: Moment | None


class DevicePage(Answer):
    """Devices by id."""

    devices: list[DeviceRow]
    next: Cursor


class DeviceAdded(DeviceRow):
    """A device with its token, which is shown this once."""

    token: str


class DeviceView(Answer):
    """What a device sees of a location."""

    location_id: str
    polygon: list[Point] | None
    """In pixels of the upright picture; null for all of it."""
    is_exhaustive: bool


class DeviceKey(Answer):
    """A token that holds, without what would let anyone use it."""

    id: str
    created_at: Moment
    ends_at: Moment | None
    """The end of its grace; null for the newest."""


class DeviceShown(DeviceRow):
    """A device with its views and the keys that hold."""

    views: list[DeviceView]
    keys: list[DeviceKey]


class DeviceRotated(DeviceShown):
    """A device with its new token, which is shown this once."""

    token: str


class ConfigTold(Answer):
    """What a device should do; null where that is left to it."""

    every_s: int | None
    """Seconds from one picture to the next."""
    phase_s: int | None
    """When in that period; null for what follows from the device's id."""
    size: str | None
    quality: int | None
    trigger: str | None


class DeviceConfigured(Answer):
    """What a device should do, with the version of it."""

    device_id: str
    version: int
    """0 when nothing was said."""
    config: ConfigTold


class ClaimShown(Answer):
    """A token that is offered to whoever has the code."""

    claim_id: str
    device_id: str | None
    """Whose token it is; null until an unnamed device takes it."""
    created_at: Moment
    expires_at: Moment
    used_at: Moment | None


class ClaimOffered(ClaimShown):
    """The same with its code."""

    code: str
    """Eight letters and digits, with a dash that may be left out."""
    url: str
    """The code and this server's address, as a camera reads them from the QR code."""
    qr: str
    """Where the QR code is drawn while the code is good."""


class DeviceClaimed(Answer):
    """A device and its token, which is shown this once."""

    id: str
    name: str
    token: str
