"""The stream of events to clients that are slow, late, too many, or no longer allowed."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message

from capturekit.kit import CaptureKit
from capturekit.settings import Settings
from capturekit.web import events
from tests.servers import ADMIN_TOKEN
from tests.unit.events.conftest import say

pytestmark = pytest.mark.anyio

PATIENCE_S = 20.0


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[CaptureKit]:
    settings = Settings.load(
        data_dir=tmp_path / "data", admin_token=ADMIN_TOKEN, concurrency=0, rate_limits="off"
    )
    async with CaptureKit(settings) as kit:
        yield kit


class Client:
    """Takes what the application sends, one message whenever it is asked to."""

    def __init__(self, app: ASGIApp, path: str, headers: dict[str, str]) -> None:
        self.app, self.path, self.headers = app, path, headers
        self.sent, self.taken = anyio.create_memory_object_stream[Message](0)
        self.is_asked = False
        self.gone = anyio.Event()
        self.is_over = anyio.Event()

    async def run(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"} | self.headers
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "http_version": "1.1",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
        }
        async with self.sent:
            await self.app(scope, self._receive, self.sent.send)
            self.is_over.set()

    async def _receive(self) -> Message:
        if not self.is_asked:
            self.is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def status(self) -> int:
        with anyio.fail_after(PATIENCE_S):
            status: int = (await self.taken.receive())["status"]
        return status

    async def text(self, part: str) -> str:
        """What comes, until it has this part."""
        text = ""
        with anyio.fail_after(PATIENCE_S):
            while part not in text:
                text += (await self.taken.receive())["body"].decode()
        return text

    async def end(self) -> str:
        """What comes until the stream ends."""
        text = ""
        with anyio.fail_after(PATIENCE_S):
            async for message in self.taken:
                text += message["body"].decode()
                if not message["more_body"]:
                    break
        return text


@asynccontextmanager
async def client(app: ASGIApp, path: str = "/v1/events", **headers: str) -> AsyncIterator[Client]:
    client = Client(app, path, headers)
    async with anyio.create_task_group() as tasks, client.taken:
        tasks.start_soon(client.run)
        yield client
        client.gone.set()
        tasks.cancel_scope.deadline = anyio.current_time() + PATIENCE_S
        while not client.is_over.is_set():
            with anyio.move_on_after(0.1), suppress(anyio.EndOfStream):
                await client.taken.receive()


def seqs(text: str) -> list[int]:
    lines = text.split("\n")
    return [json.loads(line.removeprefix("data: "))["seq"] for line in lines if '"seq"' in line]


async def test_a_slow_client_is_served_from_the_table(kit: CaptureKit) -> None:
    await say(kit.store, 1)
    async with client(kit.app, "/v1/events?after=0") as one:
        assert await one.status() == 200
        assert "retry: 3000" in await one.text("seq")
        await say(kit.store, 1_000)
        newest = await kit.store.outbox.newest()
        text = await one.text(f"id: {newest}\n")

    assert seqs(text) == list(range(2, newest + 1))


async def test_it_works_mounted_in_another_app(kit: CaptureKit) -> None:
    app = Starlette(routes=[Mount("/kit", kit.app)])
    async with client(app, "/kit/v1/events") as one:
        assert await one.status() == 200
        await one.text("retry")
        await say(kit.store, 1)
        assert "event: stock.changed\n" in await one.text("seq")


async def test_a_silent_stream_says_that_it_is_there(
    kit: CaptureKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.1)
    await say(kit.store, 3, ["stock.low"])
    async with client(kit.app, "/v1/events?after=0&kinds=stock.changed") as one:
        await one.status()
        # The place moves on, or a client of rare kinds would be reset for nothing.
        assert ": still here\nid: 3\n\n" in await one.text("still")


async def test_a_stream_of_a_revoked_token_ends(
    kit: CaptureKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.1)
    async with client(kit.app) as one:
        await one.status()
        await one.text("still")
        await kit.store.devices.set_admin_token("another-token-of-an-admin")
        await one.end()


async def test_a_client_whose_events_were_pruned_is_reset(kit: CaptureKit) -> None:
    await say(kit.store, 5)
    kit.store.outbox._clock = lambda: time.time() + 1e6  # noqa: SLF001  # eleven days later
    assert await kit.store.outbox.prune(86400) == 4
    async with client(kit.app, **{"last-event-id": "2"}) as one:
        await one.status()
        text = await one.text("seq")
    async with client(kit.app, "/v1/events?after=0") as whole:
        await whole.status()
        first = await whole.text("seq")

    assert 'event: reset\nid: 4\ndata: {"oldest": 5, "newest": 5}\n\n' in text
    assert seqs(text) == seqs(first) == [5]
    assert "reset" not in first


async def test_there_is_room_for_so_many(kit: CaptureKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    app = kit.app
    async with client(app) as one:
        await one.status()
        await one.text("retry")
        async with client(app) as other:
            assert await other.status() == 503
    async with client(app) as next_one:
        assert await next_one.status() == 200


async def test_a_client_that_takes_nothing_is_given_up(
    kit: CaptureKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SEND_S", 0.1)
    await say(kit.store, 1)
    async with client(kit.app, "/v1/events?after=0") as one:
        await one.status()
        with anyio.fail_after(PATIENCE_S):
            # It waits a second to say that it ends, and does without.
            await one.is_over.wait()


async def test_streams_end_together(kit: CaptureKit) -> None:
    app = kit.app
    async with client(app) as one, client(app) as other:
        for each in (one, other):
            await each.status()
            await each.text("retry")
        streams: Any = app.state.streams
        streams.close()
        await one.end()
        await other.end()
        async with client(app) as late:
            assert await late.status() == 503


async def test_nobody_is_left_when_a_client_goes(kit: CaptureKit) -> None:
    app = kit.app
    async with client(app) as one:
        await one.status()
        await one.text("retry")
        assert len(app.state.streams.open) == 1

    assert not app.state.streams.open
