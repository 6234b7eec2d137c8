"""What Postgres's planner makes of our statements beside many jobs that wait."""

import pytest

from capturekit.database import Database
from capturekit.queue.base import Job
from capturekit.queue.sql import SqlQueue
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.anyio

MANY = 3000

ROWS_READ = """
SELECT sum(seq_tup_read) + (
    SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'job'
) FROM pg_stat_user_tables WHERE relname = 'job'
"""
"""Connections tell what they read when they are closed."""


async def a_life(queue: SqlQueue, name: str) -> None:
    """A job comes, waits for its turn, runs and ends, and is looked at."""
    await queue.submit(Job(id=name, kind="test", priority=1, concurrency_key="device"))
    await queue.wait(0)
    (lease,) = await queue.claim("w")
    assert lease.job.id == name
    await queue.orders("w", [lease])
    await queue.finish(lease)
    await queue.status(name)
    await queue.stats()


async def test_no_statement_reads_many_of_the_jobs(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    async with Database(url) as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        jobs = (
            Job(id=f"{number}", kind="test", concurrency_key=("device", None)[number % 2])
            for number in range(MANY)
        )
        await queue.submit(*jobs)
    before = int(postgres.sql(ROWS_READ, database=name))
    async with Database(url) as database:
        await a_life(SqlQueue(database), "late")
    assert int(postgres.sql(ROWS_READ, database=name)) - before < MANY / 10
