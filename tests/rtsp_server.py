"""A real RTSP server on loopback: one stream of JPEG frames, by RFC 2326 over TCP and RFC 2435."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from tests.loopback import serving

PART_BYTES: Final = 1200
FRAMES_A_SECOND: Final = 10
CLOCK_HZ: Final = 90_000

SDP: Final = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 26\r\na=control:track\r\n"
)


def packets(jpeg: bytes, number: int, first_seq: int) -> list[bytes]:
    """The RTP packets of a baseline 4:2:0 JPEG with the usual Huffman tables."""
    width = height = position = 0
    tables = b""
    position = 2
    while True:
        marker, length = jpeg[position + 1], int.from_bytes(jpeg[position + 2 : position + 4])
        segment = jpeg[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDB:
            # Each of 64 bytes after its number.
            tables += b"".join(segment[at + 1 : at + 65] for at in range(0, len(segment), 65))
        elif marker == 0xC0:
            height, width = struct.unpack(">HH", segment[1:5])
        elif marker == 0xDA:
            break
    scan = jpeg[position:-2]
    found: list[bytes] = []
    for offset in range(0, len(scan), PART_BYTES):
        part = scan[offset : offset + PART_BYTES]
        is_last = offset + PART_BYTES >= len(scan)
        seq, stamp = first_seq + len(found), number * CLOCK_HZ // FRAMES_A_SECOND
        rtp = struct.pack(">BBHII", 0x80, 26 | 0x80 * is_last, seq & 0xFFFF, stamp, 7)
        head = struct.pack(">I", offset) + bytes((1, 255, width // 8, height // 8))
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        found.append(rtp + head + part)
    return found


async def _play(writer: asyncio.StreamWriter, frame: Callable[[], bytes]) -> None:
    number = seq = 0
    while True:
        sent = packets(frame(), number, seq)
        for packet in sent:
            writer.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
        number, seq = number + 1, seq + len(sent)
        await writer.drain()
        await asyncio.sleep(1 / FRAMES_A_SECOND)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frame: Callable[[], bytes]
) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, url, _ = first.split(" ")
                asked = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
                more = {
                    "OPTIONS": ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"],
                    "DESCRIBE": [f"Content-Base: {url}/", "Content-Type: application/sdp"],
                    "SETUP": ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"],
                }.get(method, ["Session: 1"])
                body = SDP if method == "DESCRIBE" else ""
                is_udp = method == "SETUP" and "TCP" not in asked.get("transport", "")
                status = "461 Unsupported Transport" if is_udp else "200 OK"
                head = [f"RTSP/1.0 {status}", f"CSeq: {asked['cseq']}", *more]
                if body:
                    head.append(f"Content-Length: {len(body)}")
                writer.write("\r\n".join([*head, "", body]).encode())
                if method == "PLAY":
                    await _play(writer, frame)
        finally:
            writer.close()


@asynccontextmanager
async def rtsp_server(frame: Callable[[], bytes]) -> AsyncIterator[str]:
    """The URL of a stream that shows ``frame()``, a baseline JPEG, ten times a second."""
    async with serving(partial(_serve, frame=frame)) as port:
        yield f"rtsp://127.0.0.1:{port}/stream"
