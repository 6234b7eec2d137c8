"""A store on a fresh database of each engine, with a clock that tests set."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import (
    Capture,
    DeviceConfig,
    MovementKind,
    NewCapture,
    NewMovement,
    RunRecord,
    Store,
    migrations,
)
from tests.servers_postgres import PostgresServer


@dataclass
class Clock:
    """The time, in seconds since 1970, as the test says."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


Photograph = Callable[..., Awaitable[Capture]]


def _migrate(url: str) -> None:
    async def make() -> None:
        async with Database(url) as database:
            await migrations.upgrade(database)

    asyncio.run(make())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A SQLite file at the newest revision."""
    path = tmp_path_factory.mktemp("template") / "empty.db"
    _migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a Postgres database at the newest revision, to copy."""
    # Other folders use this fixture as well, each as one of its own.
    if not postgres.sql("SELECT 1 FROM pg_database WHERE datname = 'newest'"):
        postgres.sql("CREATE DATABASE newest")
        _migrate(postgres.url("newest"))
    return "newest"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sqlite_url(tmp_path: Path, template: bytes) -> str:
    """A SQLite database of this test's own, for what concerns no other engine."""
    path = tmp_path / "store.db"
    path.write_bytes(template)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_template: str) -> str:
    """A Postgres database of this test's own."""
    return postgres.new_database(like=postgres_template)


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_extra("postgres"))]
)
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of this test's own, on each engine in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as database:
        yield database


@pytest.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    async with Database(sqlite_url) as database:
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


@pytest.fixture
async def told(store: Store, photograph: Photograph) -> None:
    """A story in which every table has rows."""
    inventory = store.inventory
    await store.devices.add("cam", is_exhaustive=True)
    await store.fleet.configure("cam", DeviceConfig(every_s=300))
    await store.claims.offer("cam")
    await store.nonces.spend(await store.nonces.issue(), b"signature")
    await inventory.add_item("tea", "Tea")
    await inventory.assign_code("400", "tea", 6)
    for number in range(1, 5):
        seen = (
            Observation(analyser="codes", code="400", quantity=number, confidence=0.9),
            Observation(analyser="model", item="tea", confidence=0.2, box=((1.0, 2.0), (3.5, 4.0))),
        )
        await photograph("cam", f"k{number}", float(number), seen)
    await inventory.move(
        NewMovement(MovementKind.RECEIVE, "tea", 2, target="cam", at=9.0, reason="delivery")
    )
    await inventory.move(NewMovement(MovementKind.COUNT, "400", 3, target="cam", at=10.0))
    await inventory.move(NewMovement(MovementKind.USE, "tea", 1, source="cam", at=11.0))
