"""A camera asked over HTTP: real servers on loopback that are slow, endless or mean."""

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from capturekit.errors import ConfigError
from capturekit.intake.camera import LONGEST_PAUSE_S, CameraFailed, PolledCamera
from capturekit.intake.snapshot import SnapshotCamera
from capturekit.kit import CaptureKit
from capturekit.ratelimit import RateLimiter
from capturekit.settings import Settings
from tests.camera_server import Asked, CameraServer, Serve, answer, camera_server, saying
from tests.made_pictures import picture

pytestmark = pytest.mark.anyio

CODE = "4006381333931"
JPEG = picture(CODE)
MAX_BYTES = 2**20
PICTURE = answer(200, "Content-Type: image/jpeg", body=JPEG)
QUERY = "?user=me&pwd=secret"


def camera(server: CameraServer, url: str = "", deadline_s: float = 10.0) -> SnapshotCamera:
    return SnapshotCamera(url or server.url(), max_bytes=MAX_BYTES, deadline_s=deadline_s)


async def shot(serve: Serve, *, deadline_s: float = 10.0) -> bytes:
    async with camera_server(serve) as server:
        asked = camera(server, deadline_s=deadline_s)
        try:
            return (await asked.shoot()).content
        finally:
            await asked.aclose()


async def test_a_picture_comes_as_it_is() -> None:
    assert await shot(saying(PICTURE)) == JPEG


async def test_a_server_of_a_sketch_that_tells_no_length_is_understood() -> None:
    assert await shot(saying(b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG)) == JPEG


async def silent(_: Asked, _writer: asyncio.StreamWriter) -> None:
    await anyio.sleep_forever()


async def dripping(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"\xff")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
    while True:
        writer.write(b"\xff" * 65536)
        await writer.drain()
        await asyncio.sleep(0)


async def endless_head(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Pad: " + b"a" * 65536 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (silent, "no whole picture within 0.5 s"),
        (dripping, "no whole picture within 0.5 s"),
    ],
)
async def test_a_camera_that_takes_too_long_is_left(serve: Serve, why: str) -> None:
    with anyio.fail_after(20), pytest.raises(CameraFailed, match=why):
        await shot(serve, deadline_s=0.5)


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (endless, "more than 1,048,576 bytes"),
        (endless_head, None),
        (saying(b""), None),
        (saying(b"\x16\x03\x01 garbage\r\n\r\n"), None),
        (saying(PICTURE[:-9]), None),
        (saying(answer(404)), "answered 404"),
        (saying(answer(401)), "needs USER:PASSWORD@"),
        (saying(answer(204)), "answered 204"),
        (saying(answer(200, "Content-Encoding: gzip", body=b"\x1f\x8b")), "packed"),
        (
            saying(answer(200, "Content-Type: multipart/x-mixed-replace; boundary=x")),
            "sends a stream",
        ),
    ],
)
async def test_what_is_no_picture_is_one_error(serve: Serve, why: str | None) -> None:
    with pytest.raises(CameraFailed, match=why):
        await shot(serve)


async def test_nobody_there_is_the_same_error() -> None:
    async with camera_server(silent) as server:
        url = server.url()
    with pytest.raises(CameraFailed):
        await SnapshotCamera(url, max_bytes=MAX_BYTES).shoot()


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://localhost:1/capture", "points to another host"),
        ("//169.254.169.254/latest", "points to another host"),
        ("file:///etc/passwd", "points to another host"),
        ("/again", "more than 3 redirects"),
    ],
)
async def test_a_redirect_leads_to_no_other_host(location: str, why: str) -> None:
    with pytest.raises(CameraFailed, match=why):
        await shot(saying(answer(302, f"Location: {location}")))


async def test_a_redirect_within_the_camera_is_followed() -> None:
    async def serve(asked: Asked, writer: asyncio.StreamWriter) -> None:
        moved = answer(301, "Location: /new.jpg")
        writer.write(PICTURE if asked.path == "/new.jpg" else moved)

    assert await shot(serve) == JPEG


def digest_of(asked: Asked) -> str:
    told = dict(re.findall(r'(\w+)="?([^",]+)', asked.headers["authorization"]))
    ha1 = hashlib.md5(b"me:cam:p@ss", usedforsecurity=False).hexdigest()
    ha2 = hashlib.md5(f"GET:{asked.path}".encode(), usedforsecurity=False).hexdigest()
    parts = (ha1, told["nonce"], told["nc"], told["cnonce"], told["qop"], ha2)
    wanted = hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()
    return "right" if told["response"] == wanted else "wrong"


@pytest.mark.parametrize("scheme", ["basic", "digest"])
async def test_a_password_is_told_as_asked_and_never_logged(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    challenge = {
        "basic": 'Basic realm="cam"',
        "digest": 'Digest realm="cam", nonce="n", qop="auth"',
    }

    async def serve(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "authorization" not in asked.headers:
            writer.write(answer(401, f"WWW-Authenticate: {challenge[scheme]}"))
        elif scheme == "digest":
            writer.write(PICTURE if digest_of(asked) == "right" else answer(403))
        else:
            wanted = "Basic " + base64.b64encode(b"me:p@ss").decode()
            writer.write(PICTURE if asked.headers["authorization"] == wanted else answer(403))

    async with camera_server(serve) as server:
        asked = camera(server, server.url("/capture" + QUERY, "me:p%40ss@"))
        assert (await asked.shoot()).content == JPEG
        await asked.aclose()
        assert "authorization" not in server.asked[0].headers
        shown = asked.name + asked.host + caplog.text
    assert not [word for word in ("p@ss", "p%40ss", "secret") if word in shown]


async def test_a_password_is_not_told_to_where_a_redirect_points() -> None:
    async with camera_server(saying(PICTURE)) as other:
        target = f"http://localhost:{other.port}/capture"
        async with camera_server(saying(answer(302, f"Location: {target}"))) as server:
            asked = camera(server, server.url(credentials="me:pass@"))
            with pytest.raises(CameraFailed):
                await asked.shoot()
            await asked.aclose()
        assert other.asked == []


@pytest.mark.parametrize("url", ["ftp://host/a.jpg", "http:///a.jpg", "/a.jpg", "http://h:x/"])
def test_an_address_that_is_none_is_told_without_it(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        SnapshotCamera(url, max_bytes=MAX_BYTES)


# What becomes of the pictures


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[CaptureKit]:
    settings = Settings.model_validate({"data_dir": tmp_path / "data", "concurrency": 0})
    async with CaptureKit(settings) as kit:
        await kit.store.devices.add("shelf")
        yield kit


def polled(kit: CaptureKit, server: CameraServer, *, keeps_repeats: bool = False) -> PolledCamera:
    return PolledCamera(
        camera(server),
        kit.receive,
        kit.store.captures,
        device="shelf",
        every_s=60.0,
        limiter=RateLimiter("1000/second"),
        keeps_repeats=keeps_repeats,
    )


async def number_of_captures(kit: CaptureKit) -> int:
    return sum((await kit.store.captures.counts()).values())


async def test_what_did_not_change_is_stored_once_also_after_a_restart(kit: CaptureKit) -> None:
    async with camera_server(saying(PICTURE)) as server:
        for _ in range(2):
            poll = polled(kit, server)
            assert [await poll.ask(), await poll.ask()] == [0.0, 0.0]
        assert await number_of_captures(kit) == 1
        assert len(server.asked) == 4
        await polled(kit, server, keeps_repeats=True).ask()
        assert await number_of_captures(kit) == 2


async def test_what_comes_back_is_stored_again(kit: CaptureKit) -> None:
    replies = [PICTURE, answer(200, body=picture(CODE, CODE)), PICTURE]

    async def serve(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(replies.pop(0))

    async with camera_server(serve) as server:
        poll = polled(kit, server)
        for _ in range(3):
            await poll.ask()
    assert await number_of_captures(kit) == 3


async def test_a_silent_camera_is_asked_less_and_less_and_told_of_once(
    kit: CaptureKit, caplog: pytest.LogCaptureFixture
) -> None:
    replies = [*[answer(503)] * 40, PICTURE]

    async def serve(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(replies.pop(0))

    caplog.set_level(logging.INFO, "capturekit.intake")
    async with camera_server(serve) as server:
        poll = polled(kit, server)
        pauses = [await poll.ask() for _ in range(41)]
    assert max(pauses[:2]) <= 120
    assert max(pauses) > 120
    assert max(pauses) <= LONGEST_PAUSE_S
    assert pauses[-1] == 0
    assert len(caplog.messages) == 2, caplog.messages


async def test_a_camera_that_asks_for_patience_gets_it(kit: CaptureKit) -> None:
    async with camera_server(saying(answer(503, "Retry-After: 250"))) as server:
        assert await polled(kit, server).ask() >= 190
    async with camera_server(saying(answer(503, "Retry-After: 999999999999"))) as server:
        assert await polled(kit, server).ask() <= LONGEST_PAUSE_S


async def test_garbage_is_refused_and_the_next_picture_taken(kit: CaptureKit) -> None:
    replies = [answer(200, body=b"<html>login</html>"), PICTURE]

    async def serve(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(replies.pop(0))

    async with camera_server(serve) as server:
        poll = polled(kit, server)
        await poll.ask()
        assert await number_of_captures(kit) == 0
        await poll.ask()
    assert await number_of_captures(kit) == 1


async def test_cameras_behind_one_host_share_its_limit(kit: CaptureKit) -> None:
    limiter = RateLimiter("3/hour")
    async with camera_server(saying(PICTURE)) as server:
        polls = [
            PolledCamera(
                camera(server, server.url(f"/{number}")),
                kit.receive,
                kit.store.captures,
                device="shelf",
                every_s=60.0,
                limiter=limiter,
            )
            for number in range(5)
        ]
        with anyio.move_on_after(2):
            async with anyio.create_task_group() as tasks:
                for poll in polls:
                    tasks.start_soon(poll.ask)
        assert len(server.asked) == 3
