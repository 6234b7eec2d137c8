"""A store on a fresh database of each engine, by the real clock."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, Self

import anyio
import pytest

from capturekit.database import Connection, Database
from capturekit.store import Store
from capturekit.store.outbox import tell
from capturekit.store.schema import lock_ledger
from tests.unit.store.conftest import (
    database,
    database_url,
    postgres_template,
    postgres_url,
    sqlite_url,
    template,
)

__all__ = [
    "database",
    "database_url",
    "postgres_template",
    "postgres_url",
    "sqlite_url",
    "template",
]


@pytest.fixture
async def store(database: Database) -> Store:  # the fixture of that name
    return Store(database, clock=time.time)


@pytest.fixture
async def sqlite_store(sqlite_url: str) -> AsyncIterator[Store]:  # the same
    """For what concerns no other engine."""
    async with Database(sqlite_url) as opened:
        yield Store(opened, clock=time.time)


async def say(store: Store, count: int, kinds: Sequence[str] = ("stock.changed",)) -> None:
    """Write events, of these kinds in turn, as one transaction does."""

    def work(connection: Connection) -> None:
        lock_ledger(connection)
        for number in range(count):
            tell(connection, kinds[number % len(kinds)], {"number": number}, time.time())

    await store.webhooks._database.write(work)  # noqa: SLF001  # as the store's own parts do


class _Runs(Protocol):
    async def run(self) -> None: ...


class Telling:
    """Tellers at work while the block runs."""

    def __init__(self, tellers: _Runs) -> None:
        self.tellers = tellers

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self.tellers.run)
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
