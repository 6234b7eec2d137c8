"""Query parameters as typed values, and refusals that name the one that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from starlette.requests import Request

from capturekit.web.problems import Problem

Q = TypeVar("Q", bound=BaseModel)

MAX_KEY: Final = 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("leave out line breaks and what cannot be printed")
    return text


Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
"""A name or an id of something."""


def _not_a_number(text: object) -> object:
    # pydantic would take a number, also in quotes, for seconds since 1970.
    if not isinstance(text, str) or "-" not in text[1:]:
        raise ValueError("give a time as 2026-11-24T17:03:00Z")
    return text


Time: TypeAlias = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_not_a_number)]
"""A time with its zone, in ISO 8601."""


class Query(BaseModel):
    """Parameters behind the question mark. Names that are not known here are ignored."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)


class Body(BaseModel):
    """A JSON body, with no ``"5"`` for 5 and no 1 for true.

    A name that it does not know is refused: it may have been meant for another.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def parse_query(request: Request, model: type[Q]) -> Q:
    """The query of the request as ``model``. Raises Problem 422; unknown names are ignored."""
    return _parse(model, dict(request.query_params))


async def parse_body(request: Request, model: type[Q], *, max_bytes: int = 64 * 1024) -> Q:
    """The JSON body as ``model``. Raises Problem 413 or 422."""
    body = await read_body(request, max_bytes=max_bytes)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _problem(error) from error


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The body as it came. Raises Problem 413."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise Problem(413, "too-many-bytes", f"the body has more than {max_bytes} bytes")
    return bytes(body)


def idempotency_key(request: Request) -> str | None:
    """What the caller names this request, to send it again without doing it twice.

    Raises Problem 422.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise Problem(422, "invalid-input", f"Idempotency-Key: give 1 to {MAX_KEY} letters")
    return key


@contextmanager
def refusing_values() -> Iterator[None]:
    """Turn a ValueError of what was asked into Problem 422."""
    try:
        yield
    except ValueError as error:
        raise Problem(422, "invalid-input", str(error)) from error


def _parse(model: type[Q], values: object) -> Q:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _problem(error) from error


def _problem(error: ValidationError) -> Problem:
    parts = (
        f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()
    )
    return Problem(422, "invalid-input", "; ".join(parts))
