"""Real ``capturekit`` processes for tests, on loopback, ended by pid."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from click.testing import CliRunner

from capturekit.cli.main import cli

ADMIN_TOKEN = "admin-token-of-the-tests"
START_S = 30.0
PROCESSED_S = 30.0


def run_cli(data: Path, *arguments: str) -> str:
    """The standard output of a ``capturekit`` command on the data folder, run in this process."""
    return run_cli_anywhere(*arguments, "--data", str(data))


def run_cli_anywhere(*arguments: str) -> str:
    """The standard output of a ``capturekit`` command, run in this process."""
    ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


class DidNotStartError(Exception):
    """The server ended by itself."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(log)
        self.code = code
        self.log = log


class Server:
    """A ``capturekit serve`` process; may be killed and started again on the same data."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self.data = data
        self._environment = {**os.environ, "CAPTUREKIT_ADMIN_TOKEN": ADMIN_TOKEN, **environment}
        self.log: list[str] = []
        self.url = ""
        self._logged = threading.Condition()

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "capturekit", "serve", "--port", "0", "--data", str(self.data)],
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        is_listening = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self.process, is_listening))
        self._reader.start()
        assert is_listening.wait(START_S), "".join(self.log)
        if not self.url:
            raise DidNotStartError(self._gone(), "".join(self.log))
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        self.admin = httpx2.Client(base_url=self.url, headers=headers, timeout=20)

    def _read(self, process: subprocess.Popen[str], is_listening: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._logged:
                self.log.append(line)
                self._logged.notify_all()
            if found := re.fullmatch(r"capturekit listening on (https?://\S+)\n", line):
                self.url = found[1]
                is_listening.set()
        is_listening.set()

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.admin.close()
        self.process.send_signal(signal_number)
        self.url = ""
        return self._gone()

    def _gone(self) -> int:
        code = self.process.wait(START_S)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def log_lines(self, fragment: str) -> list[str]:
        """The lines of its log with this fragment, once there is one."""

        def found() -> list[str]:
            return [line for line in self.log if fragment in line]

        with self._logged:
            self._logged.wait_for(found, timeout=5)
            return found()

    def add_device(self, name: str, *options: str) -> str:
        """Register a camera and return its token."""
        answer = json.loads(run_cli(self.data, "devices", "add", name, "--json", *options))
        token: str = answer["token"]
        return token

    def upload(self, token: str, picture: bytes, **fields: str) -> httpx2.Response:
        """Post the form of a camera client."""
        return httpx2.post(
            f"{self.url}/v1/ingest",
            files={"image": ("picture.jpg", picture, "image/jpeg")},
            data=fields,
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
        )

    def captures(self) -> list[dict[str, object]]:
        """All captures."""
        found: list[dict[str, object]] = []
        cursor = None
        while True:
            parameters = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
            page = self.admin.get("/v1/captures", params=parameters).json()
            found += page["captures"]
            if not (cursor := page["next"]):
                return found

    def wait_until_processed(self) -> list[dict[str, object]]:
        """All captures, once none of them waits or is being processed."""
        deadline = time.monotonic() + PROCESSED_S
        waiting: list[dict[str, object]] = []
        while time.monotonic() < deadline:
            found = self.captures()
            waiting = [row for row in found if row["state"] in ("pending", "processing")]
            if not waiting:
                return found
            self.admin.get(f"/v1/captures/{waiting[-1]['capture_id']}", params={"wait": "2"})
        raise AssertionError(f"still waiting: {waiting}\n{''.join(self.log)}")

    def stock(self) -> dict[tuple[str, str], int]:
        """Quantity by (item name, location)."""
        items = self.admin.get("/v1/inventory", params={"limit": "500"}).json()["items"]
        return {(row["name"], row["location"]): row["quantity"] for row in items}


@contextmanager
def running_server(data: Path, **environment: str) -> Iterator[Server]:
    """A server on the data folder, ended with SIGTERM unless the test ended it."""
    server = Server(data, {"CAPTUREKIT_RATE_LIMITS": "off", **environment})
    server.start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


@contextmanager
def running_worker(
    data: Path, *options: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A ``capturekit worker`` on the data folder, ended with SIGTERM unless the test ended it."""
    command = [sys.executable, "-m", "capturekit", "worker", "--data", str(data), "-c", "1"]
    process = subprocess.Popen(
        [*command, *options],
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            assert process.wait(START_S) == 0
