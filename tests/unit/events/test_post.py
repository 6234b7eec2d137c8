"""One post to receivers that behave, and to those that do not."""

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import anyio
import pytest

from capturekit.events import verify
from capturekit.events.post import Answer, Poster
from capturekit.store import Event, Webhook
from tests.receiver import HANG, PATIENCE_S, answer, receiving

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = Event(7, "evt_7", "stock.low", "A", {"item_id": "A", "name": "\u00e9\ud800"}, 1000.0)
TLS = ssl.create_default_context()
SHORT_S = 0.3


def webhook(url: str) -> Webhook:
    return Webhook("wh_1", url, (), 0.0, None, 0, None, 0.0, 6, SECRET)


async def post(url: str, *, timeout_s: float = 10.0, tls: ssl.SSLContext = TLS) -> Answer:
    async with Poster(tls, allow_private=True, timeout_s=timeout_s) as poster:
        return await poster.post(webhook(url), EVENT)


async def test_an_event_arrives_signed() -> None:
    async with receiving() as receiver:
        told = await post(f"{receiver.url}?a=b")

    assert (told.status, told.error) == (204, None)
    (got,) = receiver.posts
    assert verify(SECRET, got.headers, got.body) == {
        "id": "evt_7",
        "kind": "stock.low",
        "at": "1970-01-01T00:16:40.000Z",
        "seq": 7,
        "data": EVENT.data,
    }
    assert got.path == "/hook?a=b"
    assert got.headers["webhook-id"] == "evt_7"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 500, 503])
async def test_all_but_2xx_is_a_failure(status: int) -> None:
    async with receiving() as other:
        redirect = answer(status, f"Location: {other.url}", "Set-Cookie: a=b")
        async with receiving(lambda _number: redirect) as receiver:
            told = await post(receiver.url)

    assert (told.status, told.error) == (status, f"answered {status}")
    assert other.posts == []


async def test_cookies_are_not_kept_and_the_connection_is() -> None:
    reply = answer(200, "Set-Cookie: a=b; Path=/", body=b"fine")
    async with (
        receiving(lambda _number: reply) as receiver,
        Poster(TLS, allow_private=True) as poster,
    ):
        for _ in range(3):
            await poster.post(webhook(receiver.url), EVENT)

    assert "cookie" not in receiver.posts[-1].headers
    assert receiver.connections == 1


@pytest.mark.parametrize(
    ("reply", "endless"),
    [
        (HANG, b""),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200 OK\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silent", "half a line", "half a head", "for ever to be continued"],
)
async def test_no_answer_in_time_is_a_failure(reply: bytes, endless: bytes) -> None:
    async with receiving(lambda _number: reply, endless=endless) as receiver:
        told = await post(receiver.url, timeout_s=SHORT_S)

    assert (told.status, told.error) == (None, "no answer within 0.3 s")


@pytest.mark.parametrize(
    "reply",
    [b"\x00\xff" * 50, b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2OO OK\r\n\r\n", b"HTTP/1.1 99\r\n\r\n"],
)
async def test_garbage_is_a_failure(reply: bytes) -> None:
    async with receiving(lambda _number: reply) as receiver:
        told = await post(receiver.url)

    assert told.status is None
    assert told.error


async def test_an_endless_head_is_cut() -> None:
    async with receiving(lambda _number: b"HTTP/1.1 200 OK\r\n", endless=b"X: y\r\n" * 99) as one:
        told = await post(one.url)

    assert told.status is None
    assert told.error


@pytest.mark.parametrize("length", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"])
async def test_an_endless_body_is_cut_and_the_event_taken(length: str) -> None:
    head = f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode()
    endless = b"400\r\n" + b"x" * 0x400 + b"\r\n"
    with anyio.fail_after(10):
        async with receiving(lambda _number: head, endless=endless) as receiver:
            told = await post(receiver.url)

    assert (told.status, told.error) == (200, None)


async def test_nobody_there_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    told = await post(f"http://127.0.0.1:{port}/secret-path")

    assert told.status is None
    assert told.error
    assert "secret-path" not in told.error


async def test_a_private_address_is_not_even_connected_to() -> None:
    async with receiving() as receiver, Poster(TLS, allow_private=False) as poster:
        told = await poster.post(webhook(receiver.url), EVENT)

    assert told.error is not None
    assert "CAPTUREKIT_WEBHOOK_ALLOW_PRIVATE" in told.error
    assert receiver.connections == 0


async def test_a_name_that_turns_to_loopback_later_is_refused() -> None:
    meanings = ["93.184.215.14", "127.0.0.1"]

    def lookup(*_: object, **__: object) -> list[tuple[object, ...]]:
        address = meanings.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))]

    async with receiving() as receiver:
        lookup()  # When it was added, it was public.
        async with Poster(TLS, allow_private=False, lookup=lookup) as poster:
            told = await poster.post(webhook(f"http://example.com:{receiver.port}/"), EVENT)

    assert told.status is None
    assert (meanings, receiver.connections) == ([], 0)


async def test_the_connection_goes_to_the_address_that_was_looked_up() -> None:
    asked: list[object] = []

    def lookup(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", (one, 80)) for one in ("127.0.0.9", "127.0.0.1")]

    async with (
        receiving() as receiver,
        Poster(TLS, allow_private=True, lookup=lookup) as poster,
    ):
        told = await poster.post(webhook(f"http://no.such.name:{receiver.port}/"), EVENT)

    assert told.status == 204
    assert asked == ["no.such.name"]
    assert receiver.posts[0].headers["host"] == f"no.such.name:{receiver.port}"


async def test_a_resolver_that_hangs_is_given_up() -> None:
    is_over = threading.Event()

    def lookup(*_: object, **__: object) -> list[tuple[object, ...]]:
        is_over.wait(PATIENCE_S)
        return []

    async with Poster(TLS, allow_private=True, lookup=lookup, timeout_s=SHORT_S) as poster:
        told = await poster.post(webhook("http://no.such.name/"), EVENT)
        is_over.set()

    assert told.error == "no answer within 0.3 s"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Retry-After: 17", 17.0),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Retry-After: soon", 0.0),
        ("Retry-After: -5", 0.0),
        ("X-None: 1", 0.0),
    ],
)
async def test_it_says_when_to_come_again(header: str, expected: float) -> None:
    async with receiving(lambda _number: answer(429, header)) as receiver:
        told = await post(receiver.url)

    assert told.retry_after_s == expected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for receiver.test with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "receiver.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=receiver.test -addext subjectAltName=DNS:receiver.test"
    )
    subprocess.run(
        [*command.split(), "-keyout", str(path), "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.mark.parametrize(("name", "is_right"), [("receiver.test", True), ("other.test", False)])
async def test_the_certificate_is_that_of_the_name(
    certificate: Path, name: str, *, is_right: bool
) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    names: list[object] = []
    served.sni_callback = lambda _socket, asked, _context: names.append(asked)

    def lookup(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("127.0.0.1", 443))]

    trusted = ssl.create_default_context(cafile=str(certificate))
    async with (
        receiving(tls=served) as receiver,
        Poster(trusted, allow_private=True, lookup=lookup) as poster,
    ):
        told = await poster.post(webhook(f"https://{name}:{receiver.port}/"), EVENT)

    assert (told.error is None) is is_right
    assert names[0] == name


async def test_a_post_cut_off_at_any_step_leaves_no_connection() -> None:
    async with receiving() as receiver:
        for steps in range(40):
            await _cut_off(receiver.url, steps)
        # One that is left would be a warning now, and so an error.
        gc.collect()


async def _cut_off(url: str, steps: int) -> None:
    """Post, and cancel it so many turns of the event loop after the address is known."""
    is_known = threading.Event()

    def lookup(*_: object, **__: object) -> list[tuple[object, ...]]:
        is_known.set()
        return [(2, 1, 6, "", ("127.0.0.1", 443))]

    async with Poster(TLS, allow_private=True, lookup=lookup) as poster:
        task = asyncio.create_task(poster.post(webhook(url), EVENT))
        while not is_known.is_set():  # noqa: ASYNC110  # every turn of the loop counts
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_addresses_with_odd_hosts_fail_alone() -> None:
    for url in ("http://a..b/", "http://" + "a" * 64 + ".test/", "http://[::1/", "http://x:99999/"):
        told = await post(url)
        assert told.error, url
