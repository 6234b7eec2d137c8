"""Structured fields (RFC 9651) that devices send."""

from collections.abc import Mapping
from typing import Final, cast

import http_sf
from starlette.requests import Request

from capturekit.web.problems import Problem

MAX_BYTES: Final = 1024


def content_digest(request: Request) -> bytes | None:
    """The SHA-256 that the body should have; None when it says none, or another sort alone."""
    item = dictionary(request, "content-digest").get("sha-256")
    if item is None:
        return None
    if not isinstance(item[0], bytes):
        raise Problem(400, "bad-content-digest", "Content-Digest: sha-256 is no byte sequence")
    return item[0]


def dictionary(request: Request, field: str) -> Mapping[str, tuple[object, object]]:
    """A field that is an RFC 9651 dictionary; empty where it is missing."""
    text = ", ".join(request.headers.getlist(field))
    if len(text) > MAX_BYTES:
        raise Problem(422, "bad-field", f"{field} has more than {MAX_BYTES} bytes")
    try:
        parsed = http_sf.parse(text.encode("latin-1"), tltype="dictionary") if text else {}
    except ValueError as error:
        raise Problem(422, "bad-field", f"{field} is no structured dictionary: {error}") from error
    found = cast("dict[str, tuple[object, object]]", parsed)
    if any(isinstance(item[0], list) for item in found.values()):
        raise Problem(422, "bad-field", f"{field} holds a list, and none is known here")
    return found
