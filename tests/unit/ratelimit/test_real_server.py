"""Refusals through a real server, to clients that send first and listen later."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fastapi
import pytest
import uvicorn

from capturekit.ratelimit import (
    RateLimitExceeded,
    RateLimitMiddleware,
    RequestLimit,
    answer_refusal,
)
from capturekit.ratelimit.asgi import App
from tests.unit.ratelimit.calls import hello, limiter

pytestmark = pytest.mark.anyio

BODY = b"x" * 8_000_000
"""More than the buffers of two sockets and a server hold."""

PATIENCE_S = 10.0


@asynccontextmanager
async def served(app: App) -> AsyncIterator[int]:
    """The port of a server in this event loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class Client:
    """Sends all of a request before it reads a byte of the answer, as simple devices do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(
        self, path: str, body: bytes = BODY, connection: str = "keep-alive"
    ) -> tuple[int, dict[str, str]]:
        """The status and the headers of the answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (
                f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n"
                f"Connection: {connection}\r\n\r\n"
            )
            self._writer.write(head.encode() + body)
            await self._writer.drain()
            status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            await self._reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


# A server that closes on data it has not read resets the connection, and with it the answer.
connections = pytest.mark.parametrize("connection", ["keep-alive", "close"])


@connections
async def test_a_client_that_sends_all_first_hears_the_refusal(connection: str) -> None:
    app = RateLimitMiddleware(hello, limits={"POST /": limiter("0/minute")})
    async with served(app) as port, connected(port) as client:
        status, headers = await client.post("/", connection=connection)
    assert (status, headers["retry-after"]) == (429, "60")


async def test_a_refused_client_keeps_its_connection() -> None:
    app = RateLimitMiddleware(hello, limits={"POST /closed": limiter("0/minute")})
    async with served(app) as port, connected(port) as client:
        assert (await client.post("/closed"))[0] == 429
        assert (await client.post("/open", b"little"))[0] == 200


@connections
async def test_a_refusal_inside_fastapi_is_heard_too(connection: str) -> None:
    app = fastapi.FastAPI()
    app.add_middleware(RateLimitMiddleware)
    app.add_exception_handler(RateLimitExceeded, answer_refusal)
    upload = RequestLimit(limiter("0/minute", "upload"))

    @app.post("/", dependencies=[fastapi.Depends(upload.dependency)])
    async def take() -> None:
        pass

    async with served(app) as port, connected(port) as client:
        status, headers = await client.post("/", connection=connection)
    assert (status, headers["ratelimit"]) == (429, '"upload";r=0;t=60')
