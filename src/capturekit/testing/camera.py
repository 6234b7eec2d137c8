"""A camera client without a camera: uploads given pictures as small cameras in the field do.

It keeps a picture until the server has answered for good, as a camera with a memory card would.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from types import TracebackType
from typing import Final, Self

import anyio
import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

FULL_BATTERY_V: Final = 4.15
EMPTY_BATTERY_V: Final = 3.3
BATTERY_PER_UPLOAD_V: Final = 0.0005
"""A LiPo cell of 2 Ah lasts an ESP32-CAM some 1,500 wake-ups."""

FIRST_BACKOFF_S: Final = 0.25
MAX_BACKOFF_S: Final = 10.0

_TRY_AGAIN: Final = frozenset({429, 502, 503, 504})


class _Stored(BaseModel):
    """What the camera reads of the answer; other fields may come."""

    model_config = ConfigDict(extra="ignore")

    capture_id: str
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class UploadAnswer:
    """How the server settled one upload."""

    status: int
    capture_id: str | None
    """The stored capture; None when the server refused the picture."""
    is_duplicate: bool
    """The server says that it already had this very upload."""
    tries: int
    """Requests sent, the settled one included."""
    body: str
    """The answer's text: a problem document when the picture was refused."""


class NoAnswer(Exception):
    """The server could not be reached, or stayed busy, in all the tries the camera makes."""


class FakeCamera:
    """A device that uploads by the form of ``POST /v1/ingest``. An async context manager.

    Tries again after a lost connection, a time-out, 429, 502, 503 and 504. It waits as long
    as ``Retry-After`` asks (seconds or an HTTP date) plus a random part of a doubling backoff,
    so that a fleet does not come back all at once. Any other answer settles the upload.

    ``sleep``, ``random`` and ``clock`` are injected so that a test can hold time still.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        max_tries: int = 8,
        timeout_s: float = 30.0,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.battery_v = FULL_BATTERY_V
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._max_tries = max_tries
        self._random = random or Random()
        self._sleep = sleep
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(exc_type, exc, traceback)

    async def upload(
        self, image: bytes, *, captured_at: datetime, trigger_type: str = "timer"
    ) -> UploadAnswer:
        """Send one picture until it is settled.

        The same bytes with the same ``captured_at`` are the same upload to the server.
        Raises NoAnswer after ``max_tries``.
        """
        self.battery_v = max(self.battery_v - BATTERY_PER_UPLOAD_V, EMPTY_BATTERY_V)
        form = {
            "captured_at": captured_at.isoformat(),
            "battery_v": f"{self.battery_v:.3f}",
            "rssi": str(self._random.randint(-78, -48)),
            "trigger_type": trigger_type,
        }
        for tries in range(1, self._max_tries + 1):
            response = await self._post(image, form)
            if response is not None and response.status_code not in _TRY_AGAIN:
                return _answer(response, tries)
            if tries < self._max_tries:
                await self._sleep(self._wait_s(response, tries))
        raise NoAnswer(f"no answer to an upload in {self._max_tries} tries")

    async def _post(self, image: bytes, form: Mapping[str, str]) -> httpx2.Response | None:
        """One request; None when the connection failed."""
        files = {"image": ("capture.jpg", image, "image/jpeg")}
        try:
            return await self._http.post(
                "/v1/ingest", data=form, files=files, headers=self._headers
            )
        except httpx2.TransportError:
            return None

    def _wait_s(self, response: httpx2.Response | None, tries: int) -> float:
        asked_s = 0.0
        if response is not None:
            asked_s = retry_after_s(response.headers.get("Retry-After", ""), self._clock())
        backoff_s = min(FIRST_BACKOFF_S * 2 ** (tries - 1), MAX_BACKOFF_S)
        return asked_s + self._random.uniform(0, backoff_s)


def retry_after_s(value: str, now: datetime) -> float:
    """Seconds that a ``Retry-After`` header asks for, at least 0; 0 when it is not readable."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    # "-0000" is UTC as well, but comes back without a zone.
    moment = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


def _answer(response: httpx2.Response, tries: int) -> UploadAnswer:
    try:
        stored = _Stored.model_validate_json(response.content) if response.is_success else None
    except ValidationError:
        stored = None
    return UploadAnswer(
        status=response.status_code,
        capture_id=stored.capture_id if stored else None,
        is_duplicate=stored.duplicate if stored else False,
        tries=tries,
        body=response.text,
    )
