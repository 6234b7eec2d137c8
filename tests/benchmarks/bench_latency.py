"""Prints upload-to-stock times of an idle server, one picture at a time.

Usage: python tests/benchmarks/bench_latency.py [PICTURES]
"""

import statistics
import sys
import time
from datetime import UTC, datetime
from random import Random

import anyio

from capturekit.demo.admin import admin_client
from capturekit.demo.server import running_server
from capturekit.demo.shelves import Shelf
from capturekit.testing.camera import FakeCamera

PAUSE_S = 0.2
"""Between pictures, so that each finds the server idle."""


async def measure(count: int) -> None:
    """Upload, wait until the ledger has it, take the time at the client."""
    random = Random(1)
    shelf = Shelf.filled("shelf-1", random)
    times_ms = []
    async with (
        running_server(["shelf-1"], {}) as server,
        admin_client(server) as admin,
        FakeCamera(server.base_url, server.device_tokens["shelf-1"]) as camera,
    ):
        for _ in range(count):
            shelf.change(random)
            picture = shelf.picture(random)
            await anyio.sleep(PAUSE_S)
            started = time.perf_counter()
            answer = await camera.upload(picture, captured_at=datetime.now(UTC))
            assert answer.capture_id is not None, answer
            assert await admin.end_of(answer.capture_id) == "completed"
            times_ms.append(1000 * (time.perf_counter() - started))
    p50, p95 = statistics.median(times_ms), statistics.quantiles(times_ms, n=20)[-1]
    print(f"{count} pictures of 1600x1200: p50 {p50:.0f} ms, p95 {p95:.0f} ms upload to stock")


if __name__ == "__main__":
    anyio.run(measure, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
