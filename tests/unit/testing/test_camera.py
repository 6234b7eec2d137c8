"""The fake camera against a real server that answers as it is told to."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import anyio
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capturekit.testing.camera import (
    FIRST_BACKOFF_S,
    FakeCamera,
    NoAnswer,
    UploadAnswer,
    retry_after_s,
)

pytestmark = pytest.mark.anyio

TAKEN_AT = datetime(2026, 11, 24, 17, 3, tzinfo=UTC)


@dataclass
class Upload:
    """What arrived."""

    authorization: str
    fields: dict[str, str]
    image: bytes


@dataclass
class StubServer:
    """Gives the prepared answers first, then stores what comes."""

    url: str
    answers: list[Response] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)

    async def ingest(self, request: Request) -> Response:
        async with request.form() as form:
            image = form["image"]
            assert isinstance(image, UploadFile)
            upload = Upload(
                request.headers["authorization"],
                {name: text for name, text in form.items() if isinstance(text, str)},
                await image.read(),
            )
        seen = [(each.fields["captured_at"], each.image) for each in self.uploads]
        self.uploads.append(upload)
        if self.answers:
            return self.answers.pop(0)
        is_duplicate = (upload.fields["captured_at"], upload.image) in seen
        return JSONResponse({"status": "stored", "capture_id": "c1", "duplicate": is_duplicate})


class Naps:
    """A sleep that only notes how long it should have been."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


@pytest.fixture
async def server(free_socket: socket.socket) -> AsyncIterator[StubServer]:
    stub = StubServer(f"http://127.0.0.1:{free_socket.getsockname()[1]}")
    app = Starlette(routes=[Route("/v1/ingest", stub.ingest, methods=["POST"])])
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none")
    runner = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.serve, [free_socket])
        yield stub
        runner.should_exit = True


@pytest.fixture
def free_socket() -> Iterator[socket.socket]:
    """It listens already, so that no client is ever too early."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@asynccontextmanager
async def camera_at(
    url: str, naps: Naps | None = None, max_tries: int = 4
) -> AsyncIterator[FakeCamera]:
    camera = FakeCamera(
        url,
        "secret",
        max_tries=max_tries,
        random=Random(0),
        sleep=naps or Naps(),
        clock=lambda: TAKEN_AT,
    )
    async with camera:
        yield camera


async def test_it_sends_the_form_of_ingest(server: StubServer) -> None:
    async with camera_at(server.url) as camera:
        answer = await camera.upload(b"jpeg", captured_at=TAKEN_AT, trigger_type="door")

    assert answer == UploadAnswer(200, "c1", is_duplicate=False, tries=1, body=answer.body)
    upload = server.uploads[0]
    assert upload.authorization == "Bearer secret"
    assert upload.image == b"jpeg"
    assert upload.fields["captured_at"] == "2026-11-24T17:03:00+00:00"
    assert upload.fields["trigger_type"] == "door"
    assert -80 < int(upload.fields["rssi"]) < -40
    assert 3.3 <= float(upload.fields["battery_v"]) <= 4.2


async def test_its_battery_runs_down(server: StubServer) -> None:
    async with camera_at(server.url) as camera:
        for _ in range(3):
            await camera.upload(b"jpeg", captured_at=TAKEN_AT)

    voltages = [float(upload.fields["battery_v"]) for upload in server.uploads]
    assert voltages == sorted(voltages, reverse=True)
    assert voltages[0] > voltages[-1]


async def test_the_same_upload_again_is_a_duplicate(server: StubServer) -> None:
    async with camera_at(server.url) as camera:
        await camera.upload(b"jpeg", captured_at=TAKEN_AT)
        again = await camera.upload(b"jpeg", captured_at=TAKEN_AT)
        other = await camera.upload(b"jpeg", captured_at=TAKEN_AT + timedelta(seconds=1))

    assert again.is_duplicate
    assert not other.is_duplicate


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_it_tries_again_when_the_server_is_busy(server: StubServer, status: int) -> None:
    naps = Naps()
    server.answers = [Response(status_code=status, headers={"Retry-After": "7"})]

    async with camera_at(server.url, naps) as camera:
        answer = await camera.upload(b"jpeg", captured_at=TAKEN_AT)

    assert (answer.status, answer.tries) == (200, 2)
    assert server.uploads[0] == server.uploads[1]
    assert 7 <= naps.asked[0] <= 7 + FIRST_BACKOFF_S


async def test_it_waits_longer_each_time_when_nobody_says_how_long(server: StubServer) -> None:
    naps = Naps()
    server.answers = [Response(status_code=503) for _ in range(3)]

    async with camera_at(server.url, naps) as camera:
        await camera.upload(b"jpeg", captured_at=TAKEN_AT)

    most = [FIRST_BACKOFF_S * 2**tries for tries in range(3)]
    assert all(0 <= nap <= limit for nap, limit in zip(naps.asked, most, strict=True))


async def test_it_tries_again_when_nobody_listens(free_socket: socket.socket) -> None:
    naps = Naps()
    port = free_socket.getsockname()[1]
    free_socket.close()

    async with camera_at(f"http://127.0.0.1:{port}", naps, max_tries=3) as camera:
        with pytest.raises(NoAnswer, match="3 tries"):
            await camera.upload(b"jpeg", captured_at=TAKEN_AT)

    assert len(naps.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 413, 415, 422, 500])
async def test_a_refusal_settles_the_upload(server: StubServer, status: int) -> None:
    server.answers = [JSONResponse({"title": "no"}, status_code=status)]

    async with camera_at(server.url) as camera:
        answer = await camera.upload(b"jpeg", captured_at=TAKEN_AT)

    assert (answer.status, answer.capture_id, answer.tries) == (status, None, 1)
    assert answer.body == '{"title":"no"}'


async def test_a_success_without_a_capture_is_no_stored_picture(server: StubServer) -> None:
    server.answers = [Response("welcome to the hotel wifi")]

    async with camera_at(server.url) as camera:
        answer = await camera.upload(b"jpeg", captured_at=TAKEN_AT)

    assert answer.capture_id is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("Tue, 24 Nov 2026 17:03:30 GMT", 30),
        ("Tue, 24 Nov 2026 17:02:00 GMT", 0),
        ("Tue, 24 Nov 2026 17:03:30 -0000", 30),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
    ],
)
async def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after_s(value, TAKEN_AT) == seconds
