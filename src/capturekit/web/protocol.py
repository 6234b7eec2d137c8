"""How a connection is read: uvicorn's, with an end to patience.

Uvicorn with httptools waits for ever for the rest of a request's head, and takes any size of it.
Bodies have their deadlines in the application's edge, wherever it is mounted.
"""

import asyncio
import json
import secrets
from http import HTTPStatus
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_S: Final = 10.0
"""Seconds for the head of a request, from the connection or its first byte to the empty line."""

HEAD_BYTES: Final = 32 * 1024
"""Bytes of a request's head at most; what clients send is a twentieth of it."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a deadline and a size for heads, and refusals that are problem documents."""

    _timer: asyncio.TimerHandle | None = None
    _is_in_head = True
    _head_bytes = 0
    _has_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it makes too long a head."""
        if self._has_refused:
            return
        was_in_head = self._is_in_head
        super().data_received(data)
        if was_in_head and self._is_in_head and not self._has_refused:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse_size()

    def on_message_begin(self) -> None:
        """A head begins, the first or one on a connection that was kept."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = 0
        if self._timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """The head is there: ask the application, if it is not too long."""
        self._is_in_head = False
        self._stop_waiting()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES:
            self._refuse_size()
        elif not self._has_refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body; that of a refused request belongs to nobody."""
        if not self._has_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is over."""
        if not self._has_refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        self._refuse(HTTPStatus.BAD_REQUEST, "not-http", msg)

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        detail = f"the head of the request did not come within {HEAD_S:g} s"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "too-slow", detail)

    def _refuse_size(self) -> None:
        detail = f"the head of the request has more than {HEAD_BYTES} bytes"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", detail)

    def _refuse(self, status: HTTPStatus, kind: str, detail: str) -> None:
        """Answer without the application, and close.

        Nothing is said while the answer to an earlier request is under way: it would be taken
        for a part of that.
        """
        if self._has_refused or self.transport.is_closing():
            return
        self._has_refused = True
        self._stop_waiting()
        request_id = secrets.token_hex(8)
        client = self.client[0] if self.client else "-"
        self.logger.info("%d %s id=%s %s: %s", status, client, request_id, kind, detail)
        under_way: RequestResponseCycle | None = self.cycle
        if under_way is None or under_way.response_complete:
            self.transport.write(_problem(status, kind, detail, request_id))
        self.transport.close()


def _problem(status: HTTPStatus, kind: str, detail: str, request_id: str) -> bytes:
    """The answer as it goes over the wire."""
    told = {
        "type": f"urn:capturekit:problem:{kind}",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "instance": f"urn:capturekit:request:{request_id}",
        "id": request_id,
    }
    body = json.dumps(told, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body
