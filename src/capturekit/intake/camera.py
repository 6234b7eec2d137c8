"""A camera that is asked for a picture every so often, and what is done with what it says."""

import hashlib
import logging
import random
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from capturekit.errors import CaptureKitError, ImageError, NotAuthorized, Unknown
from capturekit.intake.folder import Receive
from capturekit.kit import Upload
from capturekit.ratelimit import RateLimiter, acquire
from capturekit.store.captures import Captures

logger = logging.getLogger("capturekit.intake")

LONGEST_PAUSE_S: Final = 300.0
"""Between tries with a camera that is silent, besides the time between its pictures."""

LIMIT_WAIT_S: Final = 3600.0
"""A camera waits so long for its turn where several share a host."""


class CameraFailed(CaptureKitError):
    """No picture came; ``retry_after_s`` is what the camera asked for, 0 when it did not."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture as the camera gave it."""

    content: bytes
    taken_at: float
    """When its first byte came, in seconds since 1970."""


class Camera(Protocol):
    """Something that gives a picture when it is asked."""

    @property
    def name(self) -> str:
        """For people: its address without what may be secret in it."""
        ...

    @property
    def host(self) -> str:
        """What requests are limited by."""
        ...

    async def shoot(self) -> Shot:
        """A picture of now, within a bounded time. Raises CameraFailed, and nothing else."""
        ...

    async def aclose(self) -> None:
        """Let go of what is held open."""
        ...


class PolledCamera:
    """Asks a camera again and again, and hands its pictures to ``receive``.

    Args:
        camera: It is closed when ``run`` ends.
        receive: Keeps an upload: ``kit.receive``.
        captures: Where the device's newest picture is looked up.
        device: Whose pictures they are.
        every_s: Seconds from one picture to the next.
        limiter: Requests to one host; share it between cameras.
        keeps_repeats: Whether the same bytes twice in a row are two captures.
    """

    def __init__(
        self,
        camera: Camera,
        receive: Receive,
        captures: Captures,
        *,
        device: str,
        every_s: float,
        limiter: RateLimiter,
        keeps_repeats: bool = False,
    ) -> None:
        self._camera = camera
        self._receive = receive
        self._captures = captures
        self._device = device
        self._every_s = every_s
        self._limiter = limiter
        self._keeps_repeats = keeps_repeats
        self._failures = 0

    async def run(self) -> None:
        """Ask until it is cancelled, whatever goes wrong."""
        try:
            while True:
                began = anyio.current_time()
                pause_s = await self.ask()
                # From begin to begin: a slow camera is not asked the less often for it.
                await anyio.sleep(max(0.0, began + self._every_s - anyio.current_time()) + pause_s)
        finally:
            with anyio.CancelScope(shield=True):
                await self._camera.aclose()

    async def ask(self) -> float:
        """Ask once; returns how long to wait beyond the usual time, in seconds."""
        try:
            await acquire(self._limiter, self._camera.host, wait_s=LIMIT_WAIT_S)
            shot = await self._camera.shoot()
            await self._keep(shot)
        except CaptureKitError as error:
            return self._failed(error)
        except Exception:
            logger.exception("camera %s of %s: it is tried again", self._camera.name, self._device)
            return self._pause_s(0.0)
        if self._failures:
            logger.info("camera %s of %s gives pictures again", self._camera.name, self._device)
        self._failures = 0
        return 0.0

    async def _keep(self, shot: Shot) -> None:
        if not self._keeps_repeats and await self._is_known(shot):
            logger.debug("camera %s of %s: nothing changed", self._camera.name, self._device)
            return
        upload = Upload(shot.content, self._device, captured_at=shot.taken_at, via="poll")
        await self._receive(upload)

    async def _is_known(self, shot: Shot) -> bool:
        """Whether the device's newest picture has the same bytes; also after a restart."""
        newest = (await self._captures.list(device_id=self._device, limit=1)).rows
        return bool(newest) and _sha256(shot) == newest[0].sha256

    def _failed(self, error: CaptureKitError) -> float:
        level = logging.DEBUG if self._failures else logging.WARNING
        what = "a picture is refused" if isinstance(error, ImageError) else "no picture"
        if isinstance(error, Unknown | NotAuthorized):
            what = "its pictures are refused"
        logger.log(level, "camera %s of %s: %s: %s", self._camera.name, self._device, what, error)
        return self._pause_s(error.retry_after_s if isinstance(error, CameraFailed) else 0.0)

    def _pause_s(self, asked_s: float) -> float:
        """Exponential with full jitter, and no shorter than what was asked for, in bounds."""
        self._failures += 1
        longest = min(LONGEST_PAUSE_S, self._every_s * 2.0 ** min(self._failures - 1, 30))
        jittered = random.uniform(0, longest)  # noqa: S311  # it spreads load, and guards nothing
        return min(LONGEST_PAUSE_S, max(jittered, asked_s - self._every_s))


def _sha256(shot: Shot) -> str:
    return hashlib.sha256(shot.content).hexdigest()
