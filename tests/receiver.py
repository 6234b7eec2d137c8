"""A real HTTP server that takes webhooks, and misbehaves when told to."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from tests.loopback import serving

HANG: Final = b""
"""In place of an answer: none comes."""

PATIENCE_S = 20.0


@dataclass
class Post:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    reply: bytes = b""

    @property
    def is_taken(self) -> bool:
        """Whether it was answered with 200 to 299."""
        return self.reply.startswith(b"HTTP/1.1 2")

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A whole answer with this status."""
    lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


OK: Final = answer(204)


@dataclass
class Receiver:
    """Answers the n-th post, from 0, with the bytes that ``answers`` gives for it."""

    answers: Callable[[int], bytes] = lambda _number: OK
    endless: bytes = b""
    """Sent again and again after the answer."""
    posts: list[Post] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def seqs(self) -> list[int]:
        return [post.event["seq"] for post in self.posts]

    async def wait_for(self, number: int) -> None:
        """Until so many posts came."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.posts) < number:
                self.came.clear()
                await self.came.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        post = await self._read(reader)
        reply = post.reply = self.answers(len(self.posts))
        self.posts.append(post)
        self.came.set()
        if reply == HANG:
            await reader.read()
        writer.write(reply)
        await writer.drain()
        while self.endless:
            writer.write(self.endless)
            await writer.drain()
            # A drain alone lets nobody else run while the buffer has room.
            await asyncio.sleep(0)

    async def _read(self, reader: asyncio.StreamReader) -> Post:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (s.partition(": ") for s in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Post(first.split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(
    answers: Callable[[int], bytes] = lambda _number: OK,
    *,
    endless: bytes = b"",
    tls: ssl.SSLContext | None = None,
    port: int = 0,
) -> AsyncIterator[Receiver]:
    """A receiver on loopback, closed with all its connections at the end."""
    receiver = Receiver(answers, endless)
    async with serving(receiver.serve, port=port, tls=tls) as receiver.port:
        yield receiver
