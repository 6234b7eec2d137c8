"""A queue in a database keeps the promises, also to other processes."""
# ruff: noqa: ARG002  # which queue is meant is known: a test has one

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from capturekit.database import Database
from capturekit.queue.base import QueueBackend
from capturekit.queue.sql import SqlQueue
from capturekit.testing.queue_contract import SharedQueueContract


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
