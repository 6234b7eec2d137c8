"""Cameras that are asked, by a real server and by ``capturekit poll`` beside it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.made_pictures import picture
from tests.servers import DidNotStartError, Server, running_server

CODE = "4006381333931"
WAIT_S = 30.0


class Handler(BaseHTTPRequestHandler):
    """``/capture`` has a picture, ``/hang`` never answers."""

    def do_GET(self) -> None:
        if self.path.startswith("/hang"):
            time.sleep(WAIT_S)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(picture(CODE))

    def log_message(self, *_: object) -> None:
        """Nothing: the test reads what capturekit logs."""


@pytest.fixture
def camera() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def wait_for_captures(server: Server, number: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while len(server.captures()) < number:
        assert time.monotonic() < deadline, "".join(server.log)
        time.sleep(0.05)


def test_a_server_asks_its_cameras_and_ends_though_one_hangs(tmp_path: Path, camera: str) -> None:
    cameras = f"pantry=http://{camera}/capture door=http://me:secret@{camera}/hang?pwd=secret"
    with running_server(
        tmp_path / "data", CAPTUREKIT_POLL=cameras, CAPTUREKIT_LOG_LEVEL="DEBUG"
    ) as server:
        server.add_device("pantry")
        server.add_device("door")
        # The first try may have come before the device was known.
        server.end()
        server.start()
        wait_for_captures(server, 1)
        server.wait_until_processed()
        assert server.stock() == {(CODE, "pantry"): 1}
        assert 'device_class="poll",outcome="stored"' in server.admin.get("/metrics").text
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began < 20
        assert "secret" not in "".join(server.log)


def test_an_address_that_is_none_ends_the_start_without_telling_it(tmp_path: Path) -> None:
    with (
        pytest.raises(DidNotStartError) as error,
        running_server(tmp_path / "data", CAPTUREKIT_POLL="pantry=ftp://me:secret@host/"),
    ):
        pass
    assert error.value.code == 1
    assert "CAPTUREKIT_POLL: pantry:" in error.value.log
    assert "secret" not in error.value.log


@contextmanager
def polling(data: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "capturekit", "poll", "--data", str(data), *options]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_asks_beside_a_server(tmp_path: Path, camera: str) -> None:
    with running_server(tmp_path / "data") as server:
        server.add_device("pantry")
        arguments = (f"http://{camera}/capture", "--device", "pantry", "--every", "0.2")
        with polling(server.data, *arguments, "--repeats") as process:
            wait_for_captures(server, 3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        cameras = f"pantry=http://{camera}/capture"
        with polling(server.data, "--device", "pantry", CAPTUREKIT_POLL=cameras) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == f"capturekit polls http://{camera}/capture\n"
