"""Refusals."""

from pydantic import ConfigDict

from capturekit.wire.base import Answer


class ProblemDetails(Answer):
    """Why a request was refused (RFC 9457). Some kinds have more members."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:capturekit:problem:not-found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no capture 'nope'",
                    "instance": "urn:capturekit:request:8a3c3f1c5b0d9e42",
                    "id": "8a3c3f1c5b0d9e42",
                }
            ]
        },
    )

    type: str
    """A name for this kind of problem, to compare with."""
    title: str
    """The status in words."""
    status: int
    detail: str
    """What was wrong, for people."""
    instance: str
    """This one refusal."""
    id: str
    """Of the request; the server's log has it."""
