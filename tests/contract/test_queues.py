"""Every queue keeps the same promises."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from capturekit.database import Database
from capturekit.queue.base import QueueBackend
from capturekit.queue.memory import MemoryQueue
from capturekit.queue.sql import SqlQueue
from capturekit.testing.queue_contract import QueueContract


@asynccontextmanager
async def sql_queue(clock: Callable[[], float]) -> AsyncIterator[SqlQueue]:
    with TemporaryDirectory() as folder:
        async with (
            Database(f"sqlite:///{Path(folder) / 'queue.db'}") as database,
            SqlQueue(database, clock=clock) as queue,
        ):
            await queue.create_tables()
            yield queue


class TestMemoryQueue(QueueContract):
    def make_queue(self, clock: Callable[[], float]) -> AbstractAsyncContextManager[QueueBackend]:
        return MemoryQueue(clock=clock)


class TestSqlQueue(QueueContract):
    def make_queue(self, clock: Callable[[], float]) -> AbstractAsyncContextManager[QueueBackend]:
        return sql_queue(clock)
