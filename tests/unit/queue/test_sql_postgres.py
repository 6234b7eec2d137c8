"""What Postgres's planner makes of our statements, also of those it prepared on an empty table."""

import pytest

from capturekit.database import Database
from capturekit.queue.base import Job
from capturekit.queue.sql import SqlQueue
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.anyio

PREPARED_AFTER = 30
"""Runs after which psycopg has prepared a statement and Postgres may keep one plan for it."""

MANY = 3000


ROWS_SCANNED = "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname = 'job'"


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


async def test_no_statement_scans_the_jobs(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    async with Database(url) as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        for number in range(PREPARED_AFTER):
            await a_life(queue, f"early-{number}")
        jobs = (
            Job(id=f"{number}", kind="test", concurrency_key=("device", None)[number % 2])
            for number in range(MANY)
        )
        await queue.submit(*jobs)
        await a_life(queue, "late")
    # Connections tell what they scanned when they are closed.
    assert int(postgres.sql(ROWS_SCANNED, name)) < MANY
