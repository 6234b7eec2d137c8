"""Clients that are slow, endless, or speak no HTTP: each is let go in bounded time."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import pytest

from capturekit.web import edge, protocol
from tests.made_pictures import picture
from tests.servers import Server, running_server

SHORT = """
from capturekit.web import edge, protocol
protocol.HEAD_S = 1.0
edge.PART_S, edge.BODY_S, edge.LOOK_S, edge.DRAIN_S = 1.0, 2.0, 0.2, 2.0
"""
"""Patience for these tests; what is waited for is the same."""

CODE = "4006381333931"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("patience")
    (folder / "sitecustomize.py").write_text(SHORT)
    with running_server(folder / "data", PYTHONPATH=str(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.add_device("cam")


class Line:
    """A connection without any help."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=15)

    def say(self, text: bytes) -> None:
        self._socket.sendall(text)

    def trickle(self, part: bytes, pause_s: float) -> None:
        """Say it again and again, until the server hangs up."""
        try:
            while True:
                self._socket.sendall(part)
                time.sleep(pause_s)
        except OSError:
            return

    def answer(self) -> bytes:
        """All until the server hangs up."""
        found = b""
        try:
            while part := self._socket.recv(65536):
                found += part
        except ConnectionResetError:
            pass
        return found

    def close(self) -> None:
        self._socket.close()


Dial = Callable[[], Line]


@pytest.fixture
def dial(server: Server) -> Iterator[Dial]:
    """Makes connections, and closes them."""
    with ExitStack() as stack:

        def call() -> Line:
            line = Line(server)
            stack.callback(line.close)
            return line

        yield call


def told(answer: bytes) -> tuple[int, str]:
    """Status and type of a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    kind = json.loads(body)["type"].rpartition(":")[2]
    return int(head.split()[1]), kind


def upload_head(token: str, length: int) -> bytes:
    return (
        b"POST /v1/ingest HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        + f"Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    "said", [b"", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nX: "], ids=len
)
def test_a_head_that_does_not_come_is_refused(dial: Dial, said: bytes) -> None:
    line = dial()
    line.say(said)
    assert told(line.answer()) == (408, "too-slow")


def test_a_head_that_drips_is_refused_however_long_it_lasts(dial: Dial) -> None:
    line = dial()
    line.say(b"GET /livez HTTP/1.1\r\n")
    began = time.monotonic()
    line.trickle(b"X: y\r\n", 0.05)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("part", [b"x" * 4096, b"X-Flood: 1\r\n" * 400])
def test_a_flood_of_head_is_cut(server: Server, dial: Dial, part: bytes) -> None:
    line = dial()
    line.say(b"GET /livez HTTP/1.1\r\nX: ")
    line.trickle(part, 0)
    answer = line.answer()
    # A client that is still writing may see its connection reset before it reads.
    assert not answer or told(answer) == (431, "head-too-large")
    assert httpx2.get(f"{server.url}/livez", timeout=20).is_success


def test_a_head_that_is_whole_and_too_large_is_refused(server: Server, dial: Dial) -> None:
    line = dial()
    line.say(b"GET /livez HTTP/1.1\r\nX: " + b"x" * protocol.HEAD_BYTES + b"\r\n\r\n")
    assert told(line.answer()) == (431, "head-too-large")
    fits = {"X": "x" * (protocol.HEAD_BYTES - 1000)}
    assert httpx2.get(f"{server.url}/livez", headers=fits, timeout=20).is_success


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01", b"HELLO\r\n\r\n", b"GET / HTTP/9\r\n\r\n"]
)
def test_what_is_no_http_gets_a_problem(dial: Dial, said: bytes) -> None:
    line = dial()
    line.say(said)
    assert told(line.answer()) == (400, "not-http")


def test_a_body_that_stalls_is_refused_and_the_line_closed(token: str, dial: Dial) -> None:
    line = dial()
    line.say(upload_head(token, 100_000) + b"--x\r\n")
    assert told(line.answer()) == (408, "upload-too-slow")


def test_a_body_that_drips_is_refused(token: str, dial: Dial) -> None:
    line = dial()
    line.say(upload_head(token, 100_000))
    began = time.monotonic()
    line.trickle(b"x", 0.1)
    assert time.monotonic() - began < 10


def test_an_endless_body_is_refused_at_the_cap(token: str, server: Server, dial: Dial) -> None:
    line = dial()
    head = upload_head(token, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    line.say(head + b"%x\r\n%s\r\n" % (len(form), form))
    line.trickle(b"10000\r\n" + b"x" * 65536 + b"\r\n", 0)
    answer = line.answer()
    assert not answer or told(answer)[0] in (408, 413)
    assert httpx2.get(f"{server.url}/livez", timeout=20).is_success


def test_a_body_that_is_shorter_or_longer_than_it_says_harms_nobody(
    token: str, server: Server, dial: Dial
) -> None:
    short = dial()
    short.say(upload_head(token, 1000) + b"--x--")
    short.close()
    longer = dial()
    longer.say(upload_head(token, 5) + b"--x--GET /nothing")
    assert b"HTTP/1.1 4" in longer.answer()
    assert server.upload(token, picture(CODE)).is_success


def test_pipelined_requests_are_answered_in_their_order(dial: Dial) -> None:
    line = dial()
    line.say(
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 20
        + b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    answer = line.answer()
    assert answer.count(b"HTTP/1.1 200") == 20
    assert answer.rindex(b"HTTP/1.1 404") > answer.rindex(b"HTTP/1.1 200")


def test_hundreds_of_slow_clients_hold_up_nobody(token: str, server: Server, dial: Dial) -> None:
    for number in range(500):
        dial().say(b"GET /" if number % 2 else upload_head(token, 100_000))
    began = time.monotonic()
    assert server.upload(token, picture(CODE)).is_success
    assert time.monotonic() - began < 5


def test_a_server_ends_in_time_while_clients_stall(token: str, server: Server, dial: Dial) -> None:
    kept = server.upload(token, picture(CODE)).json()["capture_id"]
    lines = [dial() for _ in range(8)]
    for number, line in enumerate(lines):
        line.say(b"GET /" if number % 2 else upload_head(token, 100_000))
    # Each part in time, and no end.
    with ThreadPoolExecutor(4) as threads:
        drips = [threads.submit(line.trickle, b"x", 0.3) for line in lines[::2]]
        began = time.monotonic()
        assert server.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 15
        for drip in drips:
            drip.result(10)
    assert "Traceback" not in "".join(server.log)
    server.start()
    assert kept in [row["capture_id"] for row in server.wait_until_processed()]


def test_patience_is_as_long_as_the_documentation_says() -> None:
    assert (protocol.HEAD_S, protocol.HEAD_BYTES) == (10, 32 * 1024)
    assert (edge.PART_S, edge.BODY_S, edge.SLOWEST_BYTES_S) == (20, 30, 8192)
