"""A TCP proxy that stands between clients and a server, and fails when it is told to.

It cuts a connection within a message, delays what is sent, or swallows it: what a network does.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

Address: TypeAlias = tuple[str, int] | Path
"""Of the server: host and port, or a unix socket."""


class Way(StrEnum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Proxy:
    """Listens on ``port`` of 127.0.0.1. Orders hold for all connections, those to come included."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        """How many connections were cut by ``cut_after``."""
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._left: dict[Way, int | None] = dict.fromkeys(Way)
        self._delay_s = 0.0
        self._is_open = threading.Event()
        self._is_open.set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, way: Way, count: int) -> None:
        """Let so many more bytes go this way, then cut the connection that they are on. Once."""
        with self._lock:
            self._left[way] = count

    def delay(self, seconds: float) -> None:
        """Let each piece of data wait; 0 ends that."""
        self._delay_s = seconds

    def blackhole(self) -> None:
        """Let nothing through until ``heal``, and say nothing of it."""
        self._is_open.clear()

    def heal(self) -> None:
        """Let through what waits, and all that comes."""
        self._is_open.set()

    def cut(self) -> None:
        """Cut all connections."""
        for pair in self._all():
            self._close(pair)

    def close(self) -> None:
        """Cut all, and take no more."""
        # Shut down first: closing alone does not wake who waits for a connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._is_open.set()
        self.cut()

    def _all(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            pair = client, server
            with self._lock:
                self._pairs.add(pair)
            for way, source, sink in (
                (Way.TO_SERVER, client, server),
                (Way.TO_CLIENT, server, client),
            ):
                pump = threading.Thread(target=self._pump, args=(way, source, sink, pair))
                pump.daemon = True
                pump.start()

    def _connect(self) -> socket.socket:
        if isinstance(self._server, Path):
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            return server
        return socket.create_connection(self._server)

    def _pump(
        self,
        way: Way,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._is_open.wait()
                time.sleep(self._delay_s)
                allowed, is_cut = self._allowed(way, len(data))
                sink.sendall(data[:allowed])
                if is_cut:
                    break
        self._close(pair)

    def _allowed(self, way: Way, count: int) -> tuple[int, bool]:
        """How many of so many bytes may go on, and whether that is the end."""
        with self._lock:
            left = self._left[way]
            if left is None:
                return count, False
            if count < left:
                self._left[way] = left - count
                return count, False
            self._left[way] = None
            self.cuts += 1
            return left, True

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for one in pair:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def running_proxy(server: Address) -> Iterator[Proxy]:
    """A proxy that is closed when the block is left."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
