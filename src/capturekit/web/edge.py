"""The outermost layer: a request's id, its line in the log, and a last resort for errors.

A refused upload's body is read to its end (within bounds) before the answer is sent: a
camera that is still sending never sees a status that comes too early.
"""

import contextlib
import logging
import secrets
import time
from typing import Final

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capturekit.logs import about
from capturekit.tracing import continued, span
from capturekit.web.problems import Problem, as_problem, problem_response

logger = logging.getLogger("capturekit.web")

DRAIN_BYTES: Final = 64 * 2**20
DRAIN_S: Final = 20.0

PART_S: Final = 20.0
"""Seconds for the next part of a body."""

BODY_S: Final = 30.0
SLOWEST_BYTES_S: Final = 8192
"""A body may take so long, and a second more for so many bytes."""

LOOK_S: Final = 1.0
"""Seconds between looks whether the server is ending, while a client is waited for."""

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Edge:
    """ASGI middleware; put it around everything else of the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and log it in one line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A copy: an outer app that mounts this one keeps its own state.
        scope["state"] = {**scope.get("state", {}), "request_id": secrets.token_hex(8)}
        exchange = _Exchange(scope, receive, send)
        app = problem_response(Request(scope), _NUL) if _has_nul(scope) else self._app
        try:
            with (
                about(request=scope["state"]["request_id"]),
                continued(_traced(scope)),
                span(f"{_method(scope)} request", request=scope["state"]["request_id"]),
            ):
                await app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            scope["state"]["refusal"] = "the client went away"
        except Exception as error:  # noqa: BLE001  # the last resort: told, and logged below
            scope["state"]["cause"] = error
            if exchange.status is None:
                response = problem_response(Request(scope), as_problem(error))
                await response(scope, exchange.receive, exchange.send)
        exchange.log()
        exchange.time()


_NUL: Final = Problem(422, "invalid-input", "nothing has a NUL character in its name")


def _has_nul(scope: Scope) -> bool:
    """Whether something is asked for by a name that Postgres cannot even look up."""
    return "\0" in scope["path"] or b"%00" in scope["query_string"]


def _traced(scope: Scope) -> dict[str, str]:
    """W3C's trace headers of whoever asks."""
    names = (b"traceparent", b"tracestate")
    return {
        name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in names
    }


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(scope: Scope) -> str:
    """One of a few: a client may make up any number of methods."""
    return scope["method"] if scope["method"] in _METHODS else "other"


class _Exchange:
    """One request and its answer, as they pass through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started_at = time.perf_counter()
        self._is_body_read = False
        self._has_body_begun = False
        self._is_given_up = False
        self._body_bytes = 0
        self._body_began = 0.0
        self.status: int | None = None

    async def receive(self) -> Message:
        """The next part of the body. Raises Problem when the client takes too long over it."""
        message = await self._next()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_body_read = True
        self._body_bytes += len(message.get("body", b""))
        return message

    async def _next(self) -> Message:
        if self._is_body_read:
            # Nothing is left but to hear that the client goes, which may take as long as it likes.
            return await self._receive()
        began = anyio.current_time()
        if not self._has_body_begun:
            self._has_body_begun, self._body_began = True, began
        slowest_s = BODY_S + self._body_bytes / SLOWEST_BYTES_S
        ends_at = min(began + PART_S, self._body_began + slowest_s)
        while True:
            left_s = ends_at - anyio.current_time()
            with anyio.move_on_after(min(max(left_s, 0.0), LOOK_S)):
                return await self._receive()
            if self._is_server_ending():
                self._is_given_up = True
                raise Problem(503, "ending", "the server is ending", headers={"Retry-After": "5"})
            if left_s <= LOOK_S:
                self._is_given_up = True
                raise Problem(
                    408, "upload-too-slow", "the body did not come in time; send it again"
                )

    def _is_server_ending(self) -> bool:
        app = self._scope.get("app")
        streams = getattr(app.state, "streams", None) if app is not None else None
        return bool(streams and streams.is_closed)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._scope["state"]["request_id"]
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if message["status"] >= 400:
                await self._drain()
                if not self._is_body_read and not self._is_asking_first():
                    # What is left of it would be taken for another request.
                    headers["Connection"] = "close"
        await self._send(message)

    async def _drain(self) -> None:
        if self._is_given_up or (not self._has_body_begun and self._is_asking_first()):
            return
        left = DRAIN_BYTES
        with anyio.move_on_after(DRAIN_S), contextlib.suppress(Problem):
            while not self._is_body_read and left > 0:
                message = await self.receive()
                left -= len(message.get("body", b""))

    def _is_asking_first(self) -> bool:
        """The client waits for ``100 Continue`` and has sent no body yet."""
        return (b"expect", b"100-continue") in self._scope["headers"]

    def time(self) -> None:
        """Note how long it took, by the route's template: a path may name a device."""
        app = self._scope.get("app")
        if app is None or not hasattr(app.state, "templates"):
            return
        route = app.state.templates.get(self._scope.get("endpoint"), "other")
        took_s = time.perf_counter() - self._started_at
        labels = (route, _method(self._scope), str(self.status or 499))
        app.state.kit.telemetry.time("http_request_duration_seconds", took_s, *labels)

    def log(self) -> None:
        state = self._scope["state"]
        client = (self._scope.get("client") or ("-",))[0]
        milliseconds = 1000 * (time.perf_counter() - self._started_at)
        cause = state.get("cause")
        level = logging.ERROR if cause else logging.INFO
        # A known storage error is told in its line; anything else needs its traceback.
        is_unexpected = self.status in (None, 500) and cause is not None
        told = {
            "method": self._scope["method"],
            "path": self._scope["raw_path"].decode("latin-1"),
            "status": self.status or "-",
            "ms": round(milliseconds, 1),
            "client": client,
            "request": state["request_id"],
        }
        if "capture_id" in state:
            told["capture"] = state["capture_id"]
        logger.log(
            level,
            "%s %s %s %s ms %s id=%s%s%s%s",
            *(told[name] for name in ("method", "path", "status", "ms", "client", "request")),
            f" capture={told['capture']}" if "capture" in told else "",
            f" {state['refusal']}" if "refusal" in state else "",
            f" cause: {cause}" if cause else "",
            exc_info=cause if is_unexpected else None,
            extra={"fields": told},
        )
