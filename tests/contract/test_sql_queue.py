"""A queue in a database keeps the promises, also to other processes."""
# ruff: noqa: ARG002  # which queue is meant is known: a test has one

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import update

from capturekit.database import Database
from capturekit.queue.base import QueueBackend
from capturekit.queue.sql import SqlQueue, metadata
from capturekit.testing.queue_contract import SharedQueueContract
from tests.contract.queue_model import try_random_histories
from tests.servers_postgres import PostgresServer


class TestSqliteQueue(SharedQueueContract):
    def make_queue(
        self, clock: Callable[[], float], *, max_waiting: int | None = None
    ) -> AbstractAsyncContextManager[QueueBackend]:
        self.clock_, self.max_waiting = clock, max_waiting
        return self._in_a_new_file()

    def open_again(self, queue: QueueBackend) -> AbstractAsyncContextManager[QueueBackend]:
        return self._opened(is_checkpointing=False)

    async def spoil(self, queue: QueueBackend, job_id: str, text: str) -> None:
        self._update("payload", text, job_id)

    async def set_version(self, queue: QueueBackend, job_id: str, version: int) -> None:
        self._update("version", version, job_id)

    @asynccontextmanager
    async def _in_a_new_file(self) -> AsyncIterator[SqlQueue]:
        with TemporaryDirectory() as folder:
            self.path = Path(folder) / "queue.db"
            async with self._opened(is_checkpointing=True) as queue:
                await queue.create_tables()
                yield queue

    @asynccontextmanager
    async def _opened(self, *, is_checkpointing: bool) -> AsyncIterator[SqlQueue]:
        url = f"sqlite:///{self.path}"
        async with (
            Database(url, is_checkpointing=is_checkpointing) as database,
            SqlQueue(database, clock=self.clock_, max_waiting=self.max_waiting) as queue,
        ):
            yield queue

    def _update(self, column: str, value: str | int, job_id: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            statement = f"UPDATE job SET {column} = ? WHERE id = ?"  # noqa: S608  # names of ours
            assert connection.execute(statement, (value, job_id)).rowcount == 1


class TestPostgresQueue(SharedQueueContract):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: PostgresServer) -> None:
        self.server = postgres

    def make_queue(
        self, clock: Callable[[], float], *, max_waiting: int | None = None
    ) -> AbstractAsyncContextManager[QueueBackend]:
        self.clock_, self.max_waiting = clock, max_waiting
        self.url = self.server.new_database()
        return self._opened(is_new=True)

    def open_again(self, queue: QueueBackend) -> AbstractAsyncContextManager[QueueBackend]:
        return self._opened()

    async def spoil(self, queue: QueueBackend, job_id: str, text: str) -> None:
        await self._update("payload", text, job_id)

    async def set_version(self, queue: QueueBackend, job_id: str, version: int) -> None:
        await self._update("version", version, job_id)

    @asynccontextmanager
    async def _opened(self, *, is_new: bool = False) -> AsyncIterator[SqlQueue]:
        async with (
            Database(self.url) as database,
            SqlQueue(database, clock=self.clock_, max_waiting=self.max_waiting) as queue,
        ):
            if is_new:
                await queue.create_tables()
            yield queue

    async def _update(self, column: str, value: str | int, job_id: str) -> None:
        job = metadata.tables["job"]
        change = update(job).where(job.c.id == job_id).values({column: value})
        async with Database(self.url) as database:
            assert await database.write(lambda c: c.execute(change).rowcount) == 1


def test_random_histories_keep_the_promises() -> None:
    try_random_histories(TestSqliteQueue().make_queue, examples=15)


def test_random_histories_keep_the_promises_on_postgres(postgres: PostgresServer) -> None:
    suite = TestPostgresQueue()
    suite.server = postgres
    try_random_histories(suite.make_queue, examples=8)
