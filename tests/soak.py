"""A server and a worker under steady mixed load for long: what grows, and whether it may.

``python -m tests.soak --minutes 60`` prints memory and open files of both, and the database's
size, at intervals. It exits with 1 if one grew beyond its bound: caches and pools fill in the
first quarter, so growth is from the median of the second quarter to that of the last.
"""

import argparse
import json
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Self

import httpx2

from tests.made_pictures import picture
from tests.malformed import TOKEN, malformed
from tests.servers import Server, running_server, running_worker

MAX_GROWTH_MB = 32.0
"""Of the memory of one process with its children. What leaks at each request, and is larger than
a few hundred bytes, passes it within the hour."""

MAX_MORE_FILES = 8
"""Open files and sockets: connections come and go."""

MAX_DATABASE_BYTES = 64 * 1024
"""For each capture: its rows, those of its job and its run, and their indexes."""

CAMERAS = 4
SHELVES = [("4006381333931",), ("4006381333931", "5901234123457"), ("5901234123457",)]
READS = [
    "/v1/inventory",
    "/v1/inventory/history",
    "/v1/captures?limit=50",
    "/v1/admin/stats",
    "/v1/admin/queue-info",
    "/v1/reviews",
    "/metrics",
    "/readyz",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one time."""

    at_s: float
    server_mb: float
    worker_mb: float
    server_files: int
    worker_files: int
    database_bytes: int
    captures: int


class Load:
    """What clients do, each in a thread, at so many times a second."""

    def __init__(self, server: Server) -> None:
        self.counts: Counter[str] = Counter()
        self._server = server
        self._is_over = threading.Event()
        self._cameras = [server.add_device(f"cam-{n}") for n in range(CAMERAS)]
        self._malformed = server.add_device("cam")
        self._client = httpx2.Client(base_url=server.url, timeout=30)
        works = (
            *((partial(self._form, n), 1.0) for n in range(CAMERAS // 2)),
            *((partial(self._raw, n), 1.0) for n in range(CAMERAS // 2, CAMERAS)),
            (self._read, 5.0),
            (self._misbehave, 2.0),
        )
        self._threads = [threading.Thread(target=self._repeat, args=work) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _repeat(self, work: Callable[[random.Random, int], str], a_second: float) -> None:
        rng = random.Random(0)
        for number in count():
            if self._is_over.wait(rng.expovariate(a_second)):
                return
            try:
                self.counts[work(rng, number)] += 1
            except (httpx2.TransportError, OSError) as error:
                self.counts[type(error).__name__] += 1

    def _form(self, camera: int, rng: random.Random, number: int) -> str:
        fields = {"trigger_type": "timer", "battery_v": "3.9", "metadata": f'{{"n": {number}}}'}
        content = picture(*rng.choice(SHELVES))
        # Each is another picture, unless a camera sends one again.
        content += number.to_bytes(4, "big") if rng.random() < 0.9 else b""
        answer = self._server.upload(self._cameras[camera], content, **fields)
        return f"form {answer.status_code}"

    def _raw(self, camera: int, rng: random.Random, number: int) -> str:
        answer = self._client.put(
            f"/v1/devices/cam-{camera}/frames/boot-{number}",
            content=picture(*rng.choice(SHELVES)) + number.to_bytes(4, "big"),
            headers={
                "Authorization": f"Bearer {self._cameras[camera]}",
                "Content-Type": "image/jpeg",
                "Capturekit-Meta": f"age=1, rssi=-70, heap={number}",
            },
        )
        return f"raw {answer.status_code}"

    def _read(self, rng: random.Random, _number: int) -> str:
        return f"read {self._server.admin.get(rng.choice(READS)).status_code}"

    def _misbehave(self, rng: random.Random, number: int) -> str:
        data = malformed(number, 0, picture(*SHELVES[0])).data
        host, _, port = self._server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as line:
            line.sendall(data.replace(TOKEN.encode(), self._malformed.encode()))
            line.settimeout(rng.choice([0.0, 0.1, 0.5]) or 0.01)
            try:
                return "malformed, answered" if line.recv(4096) else "malformed, closed"
            except TimeoutError:
                return "malformed, left"


def sample(began: float, server: Server, worker: int) -> Sample:
    """Look at both now."""
    stats = server.admin.get("/v1/admin/stats").json()
    return Sample(
        at_s=time.monotonic() - began,
        server_mb=memory_mb(server.process.pid),
        worker_mb=memory_mb(worker),
        server_files=open_files(server.process.pid),
        worker_files=open_files(worker),
        database_bytes=sum(path.stat().st_size for path in server.data.glob("*.db*")),
        captures=stats["captures"]["total"],
    )


def memory_mb(pid: int) -> float:
    """Of the process and its children: what is its own, and its share of what is not."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = int(pages.split("\nPss:")[1].split()[0]) / 1024
    return own + sum(memory_mb(int(child)) for child in children)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def grown(samples: list[Sample], what: Callable[[Sample], float]) -> float:
    """From the median of the second quarter to that of the last."""
    quarter = len(samples) // 4
    before = statistics.median(map(what, samples[quarter : 2 * quarter]))
    return statistics.median(map(what, samples[-quarter:])) - before


def verdicts(samples: list[Sample]) -> list[tuple[str, float, float]]:
    """What grew, by how much, and how much it may."""
    captures = max(grown(samples, lambda one: one.captures), 1)
    a_capture = grown(samples, lambda one: one.database_bytes) / captures
    return [
        ("server's memory, MB", grown(samples, lambda one: one.server_mb), MAX_GROWTH_MB),
        ("worker's memory, MB", grown(samples, lambda one: one.worker_mb), MAX_GROWTH_MB),
        ("server's open files", grown(samples, lambda one: one.server_files), MAX_MORE_FILES),
        ("worker's open files", grown(samples, lambda one: one.worker_files), MAX_MORE_FILES),
        ("database, bytes a capture", a_capture, MAX_DATABASE_BYTES),
    ]


def soak(minutes: float, times: int) -> bool:
    """Whether all stayed in bounds."""
    samples: list[Sample] = []
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print("    s  server MB  worker MB  files  files  database kB  captures", flush=True)
    with (
        running_server(folder, CAPTUREKIT_MAX_UPLOAD_BYTES="100000") as server,
        running_worker(folder) as worker,
        Load(server) as load,
    ):
        began = time.monotonic()
        for number in range(1, times + 1):
            time.sleep(max(0.0, began + number * minutes * 60 / times - time.monotonic()))
            one = sample(began, server, worker.pid)
            samples.append(one)
            print(
                f"{one.at_s:5.0f}  {one.server_mb:9.1f}  {one.worker_mb:9.1f}"
                f"  {one.server_files:5}  {one.worker_files:5}"
                f"  {one.database_bytes / 1024:11.0f}  {one.captures:8}",
                flush=True,
            )
    print(json.dumps(dict(sorted(load.counts.items()))))
    is_log_clean = not any("Traceback" in line for line in server.log)
    print(f"the server's log has {'no' if is_log_clean else 'a'} traceback")
    found = verdicts(samples)
    for what, by, most in found:
        print(f"{what}: grew by {by:.1f}; bound {most:g}{'' if by <= most else '   MISSED'}")
    return is_log_clean and all(by <= most for _, by, most in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--samples", type=int, default=40, help="at least 8")
    asked = parser.parse_args()
    sys.exit(0 if soak(asked.minutes, max(8, asked.samples)) else 1)


if __name__ == "__main__":
    main()
