"""Sends calls, again where that may help, and reads answers and refusals."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NoReturn, Self, TypedDict, TypeVar

import anyio
import httpx2
from pydantic import BaseModel, ValidationError

from capturekit.client.calls import Call
from capturekit.errors import CaptureKitError
from capturekit.wire.problem import ProblemDetails

T = TypeVar("T", bound=BaseModel)

TIMEOUT_S: Final = 20.0
TRIES: Final = 4
LONGEST_PAUSE_S: Final = 60.0
"""A server that asks for a longer one is not waited for."""

_AGAIN: Final = (408, 429, 503, 507)


class Refused(CaptureKitError):
    """The server refused: ``status`` and ``problem`` say why."""

    def __init__(self, status: int, problem: ProblemDetails | None) -> None:
        told = f"{problem.detail} (request {problem.id})" if problem else "no problem document"
        super().__init__(f"{status}: {told}")
        self.status = status
        self.problem = problem


class NoAnswer(CaptureKitError):
    """The server could not be reached, or what it said is not of this API."""


class _Request(TypedDict):
    method: str
    url: str
    params: dict[str, str]
    headers: dict[str, str]
    content: bytes | None
    json: object
    data: dict[str, str] | None
    files: dict[str, tuple[str, bytes, str]] | None
    timeout: float


class Client:
    """Asks a server; a context manager. ``token`` is a device's for uploads, else one of the API.

    What fails on the way, and what the server asks to send later, is sent again, at most ``tries``
    times in all: every call that changes something has a key that makes this harmless.
    """

    def __init__(self, url: str, token: str, *, tries: int = TRIES) -> None:
        self._tries = tries
        self._client = httpx2.Client(base_url=url, headers=_bearer(token))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, call: Call[T]) -> T:
        """The server's answer. Raises Refused, or NoAnswer."""
        for pause_s in _pauses(self._tries):
            try:
                response = self._client.request(**_request(call))
            except httpx2.TransportError as error:
                _raise_at_last(error, pause_s)
                time.sleep(pause_s or 0)
                continue
            if (wait_s := _wait_s(response, pause_s)) is None:
                return _read(call, response)
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


class AsyncClient:
    """As ``Client``, for async code."""

    def __init__(self, url: str, token: str, *, tries: int = TRIES) -> None:
        self._tries = tries
        self._client = httpx2.AsyncClient(base_url=url, headers=_bearer(token))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def ask(self, call: Call[T]) -> T:
        """The server's answer. Raises Refused, or NoAnswer."""
        for pause_s in _pauses(self._tries):
            try:
                response = await self._client.request(**_request(call))
            except httpx2.TransportError as error:
                _raise_at_last(error, pause_s)
                await anyio.sleep(pause_s or 0)
                continue
            if (wait_s := _wait_s(response, pause_s)) is None:
                return _read(call, response)
            await anyio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _pauses(tries: int) -> Iterator[float | None]:
    """Seconds to wait after each try that failed; None after the last."""
    for number in range(tries - 1):
        yield 0.25 * 2**number
    yield None


def _request(call: Call[T]) -> _Request:
    picture = call.picture
    return _Request(
        method=call.method,
        url=call.path,
        params=dict(call.params),
        headers=dict(call.headers),
        content=call.content,
        json=call.json,
        data=dict(call.fields) or None,
        files=None if picture is None else {"image": ("picture", picture, "image/jpeg")},
        timeout=TIMEOUT_S + call.wait_s,
    )


def _raise_at_last(error: httpx2.TransportError, pause_s: float | None) -> None:
    if pause_s is None:
        raise NoAnswer(f"no answer: {error}") from error


def _wait_s(response: httpx2.Response, pause_s: float | None) -> float | None:
    """Seconds until to try again; None when there is nothing to try again for."""
    if response.status_code not in _AGAIN or pause_s is None:
        return None
    asked = response.headers.get("retry-after", "")
    wait_s = max(pause_s, float(asked) if asked.isdecimal() else 0.0)
    return wait_s if wait_s <= LONGEST_PAUSE_S else None


def _read(call: Call[T], response: httpx2.Response) -> T:
    if not response.is_success:
        _refuse(response)
    try:
        return call.answer.model_validate_json(response.content)
    except ValidationError as error:
        raise NoAnswer(f"the answer to {call.path} is not of this API: {error}") from error


def _refuse(response: httpx2.Response) -> NoReturn:
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        problem = None
    raise Refused(response.status_code, problem)
