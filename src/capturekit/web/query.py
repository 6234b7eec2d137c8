"""Query parameters as typed values, and refusals that name the one that is wrong."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from capturekit.web.problems import Problem

Q = TypeVar("Q", bound=BaseModel)


def parse_query(request: Request, model: type[Q]) -> Q:
    """The query of the request as ``model``. Raises Problem 422; unknown names are ignored."""
    return _parse(model, dict(request.query_params))


async def parse_body(request: Request, model: type[Q], *, max_bytes: int = 64 * 1024) -> Q:
    """The JSON body as ``model``. Raises Problem 413 or 422."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise Problem(413, "too-many-bytes", f"the body has more than {max_bytes} bytes")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _problem(error) from error


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
