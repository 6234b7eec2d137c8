"""Durable ingest beside one commit for each capture, and beside the same path without syncs.

A capture is acknowledged when its blob, its row and its job are on the disk. Three kits take
turns in each round, so that a busy machine slows all; ratios are of the same round, and the
table gives their median. Where syncs cost nothing (a disk that lies, a tmpfs) there is nothing to
gain by either: the line of one sync tells. Beside each rate is the CPU time of a capture: where
that, and not the disk, sets the rate, other work on the machine hides what grouping gains.

Run: ``python tests/benchmarks/bench_ingest.py``, with ``--http`` for whole uploads over HTTP,
``--folder`` for another disk than that of the temporary files, ``--sync-ms 2`` to let each sync
take so much longer, as on a slow disk or card: made up, and the table's head says so.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import httpx2

from capturekit.database import Connection, sqlite
from capturekit.kit import CaptureKit, Upload
from capturekit.settings import Settings
from capturekit.web.server import address_of, listening, serve
from tests.made_pictures import picture

CLIENTS: Final = (1, 8, 32)
CAPTURES: Final = {1: 60, 8: 240, 32: 480}
"""In a round, by the number of clients."""
ROUNDS: Final = 5
GOALS: Final = {"one commit each": 1.8, "without syncs": 0.7}
"""Ours is so many times as fast, at 32 clients."""

numbers = count()
PICTURE: Final = picture("4006381333931")


@contextmanager
def as_it_is() -> Iterator[None]:
    """Ours."""
    yield


@contextmanager
def one_commit_each() -> Iterator[None]:
    """Group commit is off."""
    most = sqlite.MAX_GROUP
    sqlite.MAX_GROUP = 1  # type: ignore[misc]
    try:
        yield
    finally:
        sqlite.MAX_GROUP = most  # type: ignore[misc]


@contextmanager
def slow_syncs(wait_ms: float) -> Iterator[None]:
    """Each sync of a blob, of its folder and of a commit takes so much longer."""
    fsync, commit = os.fsync, sqlite.SqliteDatabase._run_group  # noqa: SLF001

    def slow_fsync(descriptor: int) -> None:
        fsync(descriptor)
        time.sleep(wait_ms / 1000)

    def slow_group(
        self: sqlite.SqliteDatabase, connection: Connection, group: list[sqlite._Write[object]]
    ) -> None:
        commit(self, connection, group)
        if group[0].is_synced:
            time.sleep(wait_ms / 1000)

    if wait_ms:
        os.fsync = slow_fsync  # type: ignore[assignment]
        sqlite.SqliteDatabase._run_group = slow_group  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        os.fsync = fsync
        sqlite.SqliteDatabase._run_group = commit  # type: ignore[method-assign]  # noqa: SLF001


@contextmanager
def without_syncs() -> Iterator[None]:
    """Neither blobs nor commits wait for the disk; commits are grouped as ever."""
    fsync, commit = os.fsync, sqlite.SqliteDatabase._commit  # noqa: SLF001

    def commit_unsynced(self: sqlite.SqliteDatabase, group: list[sqlite._Write[object]]) -> None:
        for write in group:
            write.is_synced = False
        commit(self, group)

    os.fsync = lambda fd: None  # noqa: ARG005
    sqlite.SqliteDatabase._commit = commit_unsynced  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        os.fsync = fsync
        sqlite.SqliteDatabase._commit = commit  # type: ignore[method-assign]  # noqa: SLF001


WAYS: Final[dict[str, Callable[[], object]]] = {
    "ours": as_it_is,
    "one commit each": one_commit_each,
    "without syncs": without_syncs,
}


class Intake:
    """A kit that takes pictures and processes none, directly or over HTTP."""

    def __init__(self, kit: CaptureKit, url: str | None, token: str) -> None:
        self._kit = kit
        self._token = token
        self._client = httpx2.AsyncClient(base_url=url) if url else None

    async def take(self) -> None:
        number = next(numbers)
        content = PICTURE + b"%d" % number
        if self._client is None:
            await self._kit.receive(Upload(content, "camera", captured_at=1e9 + number))
            return
        answer = await self._client.post(
            "/v1/ingest",
            files={"image": ("a.jpg", content, "image/jpeg")},
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=60,
        )
        answer.raise_for_status()


@asynccontextmanager
async def intake(folder: Path, *, over_http: bool) -> AsyncIterator[Intake]:
    settings = Settings.load(
        data_dir=folder,
        concurrency=0,
        max_queued=1_000_000,
        rate_limits="off",
        adaptive_limits=False,
    )
    async with AsyncExitStack() as stack:
        kit = await stack.enter_async_context(CaptureKit(settings, is_working=False))
        _, token = await kit.store.devices.add("camera")
        url = None
        if over_http:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            listener = stack.enter_context(listening("127.0.0.1", 0))
            url = address_of(listener, "127.0.0.1")
            ready = anyio.Event()
            tasks.start_soon(serve, kit, listener, ready.set)
            await ready.wait()
        yield Intake(kit, url, token)


class Pace(NamedTuple):
    """How fast captures were taken."""

    per_s: float
    cpu_ms: float
    """Of this process for one."""


async def pace(of: Intake, clients: int, captures: int) -> Pace:

    async def client() -> None:
        for _ in range(captures // clients):
            await of.take()

    began, used = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - used
    return Pace(captures / took_s, 1000 * cpu_s / captures)


def sync_ms(folder: Path) -> float:
    """What one sync of a page costs here; the median of 50."""
    took = []
    with (folder / "page").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


async def compare(folder: Path, *, over_http: bool, rounds: int, wait_ms: float) -> None:
    print(
        f"one sync {sync_ms(folder):.2f} ms, of which {wait_ms:g} ms are made up; "
        f"{len(PICTURE) // 1024} KB a picture"
    )
    print(f"{'clients':>7}" + "".join(f"{name:>20}" for name in WAYS) + "   ours by each")
    async with AsyncExitStack() as stack:
        kits = {
            name: await stack.enter_async_context(
                intake(folder / name.replace(" ", "-"), over_http=over_http)
            )
            for name in WAYS
        }
        for clients in CLIENTS:
            rates = [await one_round(kits, clients) for _ in range(rounds + 1)][1:]
            show(clients, rates)


async def one_round(kits: dict[str, Intake], clients: int) -> dict[str, Pace]:
    found = {}
    for name, way in WAYS.items():
        with way():  # type: ignore[attr-defined]
            found[name] = await pace(kits[name], clients, CAPTURES[clients])
    return found


def show(clients: int, rates: list[dict[str, Pace]]) -> None:
    line = f"{clients:7}"
    for name in WAYS:
        per_s = statistics.median(one[name].per_s for one in rates)
        cpu_ms = statistics.median(one[name].cpu_ms for one in rates)
        line += f"{per_s:10.0f}/s {cpu_ms:4.1f} ms"
    for name, goal in GOALS.items():
        ratio = statistics.median(one["ours"].per_s / one[name].per_s for one in rates)
        line += f"   {ratio:.2f} x {name}" + (f" (goal {goal})" if clients == CLIENTS[-1] else "")
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--sync-ms", type=float, default=0.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, slow_syncs(options.sync_ms):
        run = partial(
            compare,
            Path(folder),
            over_http=options.http,
            rounds=options.rounds,
            wait_ms=options.sync_ms,
        )
        anyio.run(run, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
