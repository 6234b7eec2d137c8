"""Reads a ``multipart/form-data`` body under a cap on bytes and memory; its time is the edge's.

Everything stays in memory: a picture is a few hundred kilobytes, and what all requests
hold together is bounded.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from capturekit.errors import TooManyBytes
from capturekit.web.problems import Problem

MAX_FIELD_BYTES: Final = 64 * 1024
"""Largest value of a text field; the longest we read is ``metadata``."""
MAX_FIELDS: Final = 64
FORM_OVERHEAD_BYTES: Final = MAX_FIELD_BYTES * 2
"""What a body may hold besides the picture: the other fields and the part headers."""
MAX_BUFFERED_BYTES: Final = 512 * 2**20
"""What the bodies of all requests of this process may hold together."""


class _Buffered:
    """What the bodies under way hold now. One event loop: no lock."""

    size_bytes = 0


@dataclass(slots=True)
class _Part:
    name: str = ""
    disposition: bytes = b""
    content: bytearray = field(default_factory=bytearray)


class _Collector:
    """Callbacks of the parser; keeps the first part of each name."""

    def __init__(self, picture_name: str, max_picture_bytes: int) -> None:
        self.parts: dict[str, bytearray] = {}
        self.is_complete = False
        self._picture_name = picture_name
        self._max_picture_bytes = max_picture_bytes
        self._part = _Part()
        self._header_name = bytearray()
        self._header_value = bytearray()

    def on_part_begin(self) -> None:
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._part.disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._part.disposition)
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part.name == self._picture_name and self._picture_name in self.parts:
            detail = f"the form has two fields {self._picture_name!r}; send one picture a request"
            raise Problem(422, "two-pictures", detail)
        if len(self.parts) >= MAX_FIELDS:
            raise Problem(400, "malformed-form", f"the form has more than {MAX_FIELDS} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part.content += memoryview(data)[start:end]
        size = len(self._part.content)
        if self._part.name == self._picture_name:
            if size > self._max_picture_bytes:
                raise TooManyBytes(self._max_picture_bytes)
        elif size > MAX_FIELD_BYTES:
            raise Problem(
                413,
                "field-too-large",
                f"the form field {self._part.name[:100]!r} has more than {MAX_FIELD_BYTES} bytes",
            )

    def on_part_end(self) -> None:
        self.parts.setdefault(self._part.name, self._part.content)

    def on_end(self) -> None:
        self.is_complete = True


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, by name; texts are UTF-8."""

    parts: dict[str, bytearray]

    def picture(self, name: str) -> bytes:
        """The bytes of a file field. Raises Problem 422 when it is missing or empty."""
        if name not in self.parts:
            raise Problem(422, "missing-field", f"the form has no field {name!r}")
        if not self.parts[name]:
            raise Problem(422, "empty-picture", f"the form field {name!r} is empty")
        return bytes(self.parts[name])

    def text(self, name: str) -> str | None:
        """A text field without surrounding space, or None when missing or empty.

        What is not UTF-8, and NUL, which Postgres does not keep, becomes U+FFFD.
        """
        value = self.parts.get(name, b"").decode("utf-8", "replace").strip()
        return value.replace("\0", "\ufffd") or None


async def read_form(
    request: Request,
    picture_name: str,
    max_picture_bytes: int,
    seen: Callable[[bytes], object] | None = None,
) -> Form:
    """Read the whole form; ``picture_name`` is the one field that may be large.

    ``seen`` is told each part of the body as it came. Raises TooManyBytes, or Problem 400, 408,
    411, 413, 415 or 503; and starlette's ClientDisconnect when the sender goes away.
    """
    collector = _Collector(picture_name, max_picture_bytes)
    try:
        # Its boundary may be one that it refuses.
        parser = _parser(request, collector)
        async for chunk in chunks(request, max_picture_bytes, overhead=FORM_OVERHEAD_BYTES):
            if seen is not None:
                seen(chunk)
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, "malformed-form", f"the form cannot be read: {error}") from error
    if not collector.is_complete:
        raise Problem(400, "malformed-form", "the form ends before its closing boundary")
    return Form(collector.parts)


def _parser(request: Request, collector: _Collector) -> MultipartParser:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != b"multipart/form-data":
        given = media_type.decode("latin-1") or "no Content-Type"
        raise Problem(415, "not-a-form", f"send multipart/form-data, not {given}")
    boundary = options.get(b"boundary")
    if not boundary:
        raise Problem(400, "malformed-form", "the Content-Type has no boundary")
    return MultipartParser(
        boundary,
        {
            "on_part_begin": collector.on_part_begin,
            "on_part_data": collector.on_part_data,
            "on_part_end": collector.on_part_end,
            "on_header_field": collector.on_header_field,
            "on_header_value": collector.on_header_value,
            "on_header_end": collector.on_header_end,
            "on_headers_finished": collector.on_headers_finished,
            "on_end": collector.on_end,
        },
    )


async def chunks(request: Request, max_bytes: int, *, overhead: int = 0) -> AsyncIterator[bytes]:
    """The body, part after part, as long as it holds so many bytes and those around them.

    Raises TooManyBytes, Problem 503 when all bodies together are too many, and ClientDisconnect.
    """
    declared, most = request.headers.get("content-length", "0"), max_bytes + overhead
    if declared.isdecimal() and int(declared) > most:
        raise TooManyBytes(max_bytes)
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            _Buffered.size_bytes += len(chunk)
            if received > most:
                raise TooManyBytes(max_bytes)
            if _Buffered.size_bytes > MAX_BUFFERED_BYTES:
                raise Problem(503, "busy", "too many uploads at once", headers={"Retry-After": "5"})
            yield chunk
    finally:
        _Buffered.size_bytes -= received
