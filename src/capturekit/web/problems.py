"""Every refusal as ``application/problem+json`` (RFC 9457), with an id that is in the log."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit import errors
from capturekit.ratelimit import RateLimitExceeded, Refusal, overloaded, refusal

TYPE_PREFIX: Final = "urn:capturekit:problem:"
RETRY_AFTER_S: Final = "5"
"""For storage trouble: long enough for a lock to clear, short enough for a camera."""

_STATUS_OF: Final[Mapping[type[Exception], tuple[int, str]]] = {
    errors.TooManyBytes: (413, "too-many-bytes"),
    errors.TooManyPixels: (413, "too-many-pixels"),
    errors.NotAnImage: (415, "not-an-image"),
    errors.UnsupportedFormat: (415, "unsupported-format"),
    errors.DamagedImage: (422, "damaged"),
    errors.ImageError: (422, "bad-picture"),
    errors.Unknown: (404, "not-found"),
    errors.UnknownJob: (404, "unknown-task"),
    errors.UnknownWorker: (404, "unknown-worker"),
    errors.NotAuthorized: (401, "not-authorized"),
    errors.ClaimRefused: (403, "claim-refused"),
    errors.Conflict: (409, "conflict"),
    errors.OutOfDate: (412, "out-of-date"),
    errors.ImportRefused: (422, "import-refused"),
    errors.QueueFull: (503, "queue-full"),
    errors.StorageFull: (507, "storage-full"),
    errors.StorageError: (503, "storage-unavailable"),
}
"""The answer to an error that no route turned into one; the nearest base class counts."""


class Problem(Exception):
    """A refusal decided by a route. ``kind`` ends the problem's type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})


class Overloaded(Exception):
    """A picture that would wait too long for its turn; ``retry_after_s`` from now it may not."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


def problem_response(request: Request, problem: Problem) -> Response:
    """The answer for a problem. Its ``id`` is the request's, as in the log."""
    request_id = request.scope["state"]["request_id"]
    request.scope["state"]["refusal"] = f"{problem.kind}: {problem.detail}"
    body = {
        "type": TYPE_PREFIX + problem.kind,
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": f"urn:capturekit:request:{request_id}",
        "id": request_id,
        **problem.members,
    }
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    return JSONResponse(
        body,
        problem.status,
        headers | problem.headers,
        media_type="application/problem+json",
    )


def as_problem(error: Exception) -> Problem:
    """The problem that tells a client about an error; never more than its message."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        kind = phrase.lower().replace(" ", "-")
        return Problem(error.status_code, kind, error.detail, headers=error.headers)
    for base in type(error).__mro__:
        if base in _STATUS_OF:
            status, kind = _STATUS_OF[base]
            return Problem(
                status, kind, _detail(error), headers=_headers(status), members=_members(error)
            )
    return Problem(500, "internal-error", "something went wrong here; the log has it under the id")


def _detail(error: Exception) -> str:
    if isinstance(error, errors.StorageFull):
        return "the server has no space left; nothing was kept, send it again later"
    if isinstance(error, errors.StorageError):
        # Its text names files and SQL: for the log, not for the client.
        return "the server's storage is not available; nothing was kept, send it again later"
    return str(error)


def _headers(status: int) -> dict[str, str]:
    return {"Retry-After": RETRY_AFTER_S} if status in (503, 507) else {}


def _members(error: Exception) -> dict[str, object]:
    if isinstance(error, errors.TooManyBytes):
        return {"max_bytes": error.max_bytes}
    if isinstance(error, errors.TooManyPixels):
        return {"max_pixels": error.max_pixels}
    if isinstance(error, errors.ImportRefused):
        return {"errors": [fault._asdict() for fault in error.faults]}
    return {}


Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _handle(request: Request, error: Exception) -> Response:
    if isinstance(error, errors.StorageError):
        request.scope["state"]["cause"] = error
    return problem_response(request, as_problem(error))


async def _handle_limit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RateLimitExceeded)  # noqa: S101  # starlette chose by the type
    return _as_the_limiter_says(request, refusal(error.decision, request.url.path))


async def _handle_overload(request: Request, error: Exception) -> Response:
    assert isinstance(error, Overloaded)  # noqa: S101  # starlette chose by the type
    return _as_the_limiter_says(request, overloaded(error.retry_after_s, request.url.path))


def _as_the_limiter_says(request: Request, answer: Refusal) -> Response:
    """Its refusal in the form of ours. RateLimit fields are added further out."""
    own = ("status", "detail", "instance")
    problem = Problem(
        answer.status,
        "limited",
        answer.problem["detail"],
        headers={"Retry-After": dict(answer.fields)["Retry-After"]},
        members={name: value for name, value in answer.problem.items() if name not in own},
    )
    return problem_response(request, problem)


HANDLERS: Final[Mapping[type[Exception], Handler]] = {
    HTTPException: _handle,
    errors.CaptureKitError: _handle,
    Problem: _handle,
    RateLimitExceeded: _handle_limit,
    Overloaded: _handle_overload,
}
"""What starlette calls for the errors that routes raise."""
