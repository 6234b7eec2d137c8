"""``GET /v1/events``: what happens, as server-sent events, for as long as the client stays.

Nothing is kept for a client: each reads the outbox from where it is, so one that is slow or was
away costs nothing and misses nothing that was not pruned.
"""

import json
from collections.abc import Sequence
from typing import Final

import anyio
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from capturekit.errors import StorageError
from capturekit.kit import CaptureKit
from capturekit.store import Event, Role
from capturekit.web.auth import is_still_in, kit_of, require
from capturekit.web.problems import Problem
from capturekit.web.query import Query, parse_query

MAX_STREAMS: Final = 100
"""Clients at once; each holds a connection."""

KEEPALIVE_S: Final = 15.0
"""Seconds after which a silent stream says something, so that proxies leave it open."""

SEND_S: Final = 60.0
"""For a client to take what was sent; then it is given up, and may come again."""

RETRY_MS: Final = 3000
"""After which a client that lost the connection tries again."""

BATCH: Final = 100
"""Events read and sent at once."""

_LARGEST: Final = 2**63 - 1


class StreamOptions(Query):
    """Query of the stream: ``?after=&kinds=``."""

    after: int | None = Field(default=None, ge=0, le=_LARGEST)
    kinds: str = ""


class Streams:
    """The streams that are open, to be ended together."""

    def __init__(self) -> None:
        self.open: set[anyio.CancelScope] = set()
        self.is_closed = False
        """Whether the server is ending."""

    def require_room(self) -> None:
        """Raise Problem 503 when there are as many as may be, or the server is ending."""
        if self.is_closed or len(self.open) >= MAX_STREAMS:
            raise Problem(
                503, "too-many-streams", "no more streams now", headers={"Retry-After": "5"}
            )

    def close(self) -> None:
        """End all of them, for a server that wants to end."""
        self.is_closed = True
        for scope in list(self.open):
            scope.cancel()


async def stream_events(request: Request) -> Response:
    """Events past ``Last-Event-ID`` or ``after``, else those from now on."""
    await require(request, Role.VIEWER)
    options = parse_query(request, StreamOptions)
    if (told := request.headers.get("last-event-id")) is not None:
        options.after = _number(told)
    streams: Streams = request.app.state.streams
    streams.require_room()
    kit = kit_of(request)
    after = await kit.store.outbox.newest() if options.after is None else options.after
    kinds = [kind.strip() for kind in options.kinds.split(",") if kind.strip()]
    return EventStream(kit, streams, after, kinds)


class EventStream(Response):
    """The answer; it ends when the client goes, or is too slow, or the server ends."""

    media_type = "text/event-stream"

    def __init__(self, kit: CaptureKit, streams: Streams, after: int, kinds: Sequence[str]) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._kit = kit
        self._outbox = kit.store.outbox
        self._streams = streams
        self._position = after
        self._kinds = kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until it is over."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        if scope["method"] != "HEAD":
            self._send, self._spoke_at = send, anyio.current_time()
            async with anyio.create_task_group() as tasks:
                self._streams.open.add(tasks.cancel_scope)
                tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
                try:
                    await self._tell(scope)
                except (TimeoutError, StorageError):
                    # The client is too slow, or the database is away: it comes again.
                    pass
                finally:
                    self._streams.open.discard(tasks.cancel_scope)
                tasks.cancel_scope.cancel()
        with anyio.move_on_after(1, shield=True):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, scope: Scope) -> None:
        await self._say(f"retry: {RETRY_MS}\n\n")
        while True:
            await self._reset_if_lost()
            batch = await self._outbox.after(self._position, BATCH, kinds=self._kinds)
            self._position = batch.upto
            if batch.events:
                await self._say("".join(map(_frame, batch.events)))
                continue
            silent_s = anyio.current_time() - self._spoke_at
            if silent_s >= KEEPALIVE_S:
                if not await is_still_in(scope, self._kit):
                    return
                # The number without data moves Last-Event-ID on, and is no event.
                await self._say(f": still here\nid: {self._position}\n\n")
                silent_s = 0.0
            await self._outbox.wait(self._position, KEEPALIVE_S - silent_s)

    async def _reset_if_lost(self) -> None:
        """Tell a client whose next events were pruned, or that knows a future that is none."""
        newest = await self._outbox.newest()
        oldest = await self._outbox.oldest() or newest + 1
        is_lost = 0 < self._position < oldest - 1
        if is_lost or self._position > newest:
            self._position = oldest - 1 if is_lost else newest
            data = json.dumps({"oldest": oldest, "newest": newest})
            await self._say(f"event: reset\nid: {self._position}\ndata: {data}\n\n")

    async def _say(self, text: str) -> None:
        with anyio.fail_after(SEND_S):
            await self._send(
                {"type": "http.response.body", "body": text.encode(), "more_body": True}
            )
        self._spoke_at = anyio.current_time()


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _frame(event: Event) -> str:
    data = json.dumps(event.envelope(), separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n"


def _number(text: str) -> int:
    # int() would take 1_000, and spend seconds on a million digits.
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > _LARGEST:
        raise Problem(422, "invalid-input", "Last-Event-ID: it is the number of an event")
    return int(text)
