"""Serves a kit's app by uvicorn until a signal comes."""

import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import uvicorn

from capturekit.errors import ConfigError
from capturekit.kit import CaptureKit
from capturekit.web.app import create_app
from capturekit.web.events import Streams
from capturekit.web.protocol import PatientProtocol

BACKLOG: Final = 2048
GRACE_S: Final = 10
"""Seconds that requests under way may take after a signal; then they are cut."""


async def serve(
    kit: CaptureKit, listener: socket.socket, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Serve an opened kit on the socket until SIGINT or SIGTERM."""
    app = create_app(kit)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=kit.settings.tls_cert,
        ssl_keyfile=kit.settings.tls_key,
    )
    _load(config)
    server = _Server(config, on_ready)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, server, app.state.streams)
        await server.serve(sockets=[listener])
        for limiter in app.state.limiters.values():
            await limiter.aclose()
        tasks.cancel_scope.cancel()


def _load(config: uvicorn.Config) -> None:
    """Read the TLS files, too. Raises ConfigError when they cannot be."""
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = f"{config.ssl_certfile}, {config.ssl_keyfile}"
        raise ConfigError(f"the TLS files {files} cannot be used: {error}") from error


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on the address; port 0 takes a free one. Raises ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port"
        ) from error
    with listener:
        yield listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end, which would kill the process
        # before the kit is closed.
        yield


async def _stop_on_signal(server: uvicorn.Server, streams: Streams) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            # The second signal does not wait for requests under way.
            server.force_exit = server.should_exit
            server.should_exit = True
            # They would stay until they are cut.
            streams.close()


def address_of(listener: socket.socket, host: str, *, is_tls: bool = False) -> str:
    """The URL of what listens there."""
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{name}:{listener.getsockname()[1]}"
