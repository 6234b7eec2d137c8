"""A real HTTP server on loopback that answers as cameras do, good and bad ones."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.loopback import serving

Serve = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]


@dataclass
class CameraServer:
    """Answers each request, on a connection of its own, by ``serve``."""

    serve: Serve
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    def url(self, path: str = "/capture", credentials: str = "") -> str:
        return f"http://{credentials}127.0.0.1:{self.port}{path}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip()
                first, *lines = head.split("\r\n")
                pairs = (line.partition(": ") for line in lines)
                asked = Asked(first.split(" ")[1], {k.lower(): v for k, _, v in pairs})
                self.asked.append(asked)
                await self.serve(asked, writer)
                await writer.drain()
            finally:
                writer.close()


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def saying(reply: bytes) -> Serve:
    """Always this."""

    async def serve(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    return serve


@asynccontextmanager
async def camera_server(serve: Serve) -> AsyncIterator[CameraServer]:
    """The server, closed with all its connections at the end."""
    camera = CameraServer(serve)
    async with serving(camera.accept) as camera.port:
        yield camera
