"""All the ways in that the settings name, run side by side in a server."""

import anyio

from capturekit.errors import ConfigError
from capturekit.intake.camera import Camera, PolledCamera
from capturekit.intake.folder import ANY_DEVICE, Done, WatchedFolder
from capturekit.intake.snapshot import SnapshotCamera
from capturekit.intake.stream import STREAM_PREFIX, StreamCamera
from capturekit.kit import CaptureKit
from capturekit.ratelimit import RateLimiter


def open_camera(url: str, *, max_bytes: int, every_s: float) -> Camera:
    """What the address names: ``http`` and ``https`` a snapshot, all else a stream.

    Raises ConfigError; the address, which may hold a password, is not in its text.
    """
    if url.startswith(("rtsp://", "rtsps://", STREAM_PREFIX)):
        return StreamCamera(url, max_bytes=max_bytes, every_s=every_s)
    return SnapshotCamera(url, max_bytes=max_bytes)


def polled(kit: CaptureKit) -> list[PolledCamera]:
    """The cameras of the settings. Raises ConfigError."""
    settings = kit.settings
    try:
        limiter = RateLimiter(settings.poll_limit, name="poll")
    except ValueError as error:
        raise ConfigError(f"CAPTUREKIT_POLL_LIMIT: {error}") from error
    cameras = []
    for device, url in settings.poll.items():
        try:
            camera = open_camera(
                url.get_secret_value(),
                max_bytes=settings.max_upload_bytes,
                every_s=settings.poll_every_s,
            )
        except ConfigError as error:
            raise ConfigError(f"CAPTUREKIT_POLL: {device}: {error}") from error
        cameras.append(
            PolledCamera(
                camera,
                kit.receive,
                kit.store.captures,
                device=device,
                every_s=settings.poll_every_s,
                limiter=limiter,
            )
        )
    return cameras


def watched(kit: CaptureKit) -> list[WatchedFolder]:
    """The folders of the settings."""
    settings = kit.settings
    return [
        WatchedFolder(
            folder,
            kit.receive,
            device=None if device == ANY_DEVICE else device,
            done=Done(settings.watch_done),
            max_bytes=settings.max_upload_bytes,
        )
        for device, folder in settings.watch.items()
    ]


class Intake:
    """The ways in of a kit's settings. Raises ConfigError for what is wrong in them."""

    def __init__(self, kit: CaptureKit) -> None:
        self._runs = [one.run for one in watched(kit)] + [one.run for one in polled(kit)]

    async def run(self) -> None:
        """Take what comes until it is cancelled; none of them fails the others."""
        async with anyio.create_task_group() as tasks:
            for run in self._runs:
                tasks.start_soon(run)
