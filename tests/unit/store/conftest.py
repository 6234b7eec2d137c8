"""A store on a fresh database file, with a clock that tests set."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import Capture, NewCapture, RunRecord, Store, migrations


@dataclass
class Clock:
    """The time, in seconds since 1970, as the test says."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


Photograph = Callable[..., Awaitable[Capture]]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty database at the newest revision."""
    path = tmp_path_factory.mktemp("template") / "empty.db"

    async def make() -> None:
        async with Database(f"sqlite:///{path}") as database:
            await migrations.upgrade(database)

    asyncio.run(make())
    return path.read_bytes()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path, template: bytes) -> AsyncIterator[Database]:
    path = tmp_path / "store.db"
    path.write_bytes(template)
    async with Database(f"sqlite:///{path}") as database:
        yield database


@pytest.fixture
async def store(database: Database, clock: Clock) -> Store:
    return Store(database, clock=clock)


@pytest.fixture
async def upload(store: Store) -> Photograph:
    """Records a capture; its name is its key."""

    async def record(device_id: str, key: str, at: float | None = None) -> Capture:
        new = NewCapture(device_id, key, "ab" * 32, 9, "image/jpeg", 4, 3, captured_at=at)
        capture, _ = await store.captures.record(new, lambda _connection, _capture: None)
        return capture

    return record


@pytest.fixture
async def photograph(store: Store, upload: Photograph) -> Photograph:
    """Records a capture and processes it to these observations."""

    async def process(
        device_id: str, key: str, at: float, seen: Sequence[Observation] = (), version: str = "v1"
    ) -> Capture:
        capture = await upload(device_id, key, at)
        series = (await store.captures.next_series(capture.id)).series
        await store.captures.start(capture.id, series, 1)
        record = RunRecord(version, at, at, {"ok": True}, tuple(seen))
        await store.captures.finish(capture.id, series, 1, record)
        return await store.captures.get(capture.id)

    return process


@pytest.fixture
def quantities(store: Store) -> Callable[[], Awaitable[dict[tuple[str, str], int]]]:
    """Stock by item and location."""

    async def read() -> dict[tuple[str, str], int]:
        return {
            (row.item_id, row.location): row.quantity async for row in store.inventory.all_stock()
        }

    return read
