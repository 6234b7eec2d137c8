import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, inspect, select, text

import capturekit.queue.sql
import capturekit.store.schema
from capturekit.database import Database
from capturekit.errors import DatabaseTooNew, DatabaseTooOld
from capturekit.queue.sql import SqlQueue
from capturekit.store import Role, Store, migrations
from capturekit.store.schema import location

pytestmark = pytest.mark.anyio

KILLED_HALF_WAY = """
import asyncio, os, sys
from capturekit.database import Database
from capturekit.store import Store, migrations
from capturekit.store.schema import location

def die(connection):
    migrations.upgrade_within(connection)
    os._exit(9)

async def main():
    async with Database(sys.argv[1]) as database:
        await database.write(die)

asyncio.run(main())
"""


def _doing(statement: str) -> Callable[[Connection], None]:
    return lambda connection: connection.execute(text(statement)).close()


async def test_upgraded_tables_are_the_ones_the_code_expects(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/new.db") as database:
        await migrations.upgrade(database)

        differences = await migrations.check(
            database, capturekit.store.schema.metadata, capturekit.queue.sql.metadata
        )

    assert differences == []


async def test_a_table_that_is_missing_is_told(database: Database) -> None:
    await database.write(_doing("DROP TABLE view"))

    (difference,) = await migrations.check(
        database, capturekit.store.schema.metadata, capturekit.queue.sql.metadata
    )

    assert "view" in difference


async def test_an_upgrade_is_done_once(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/new.db") as database:
        with pytest.raises(DatabaseTooOld, match="db upgrade"):
            await migrations.require_head(database)

        assert await migrations.upgrade(database) is None
        assert await migrations.upgrade(database) == migrations.head()
        await migrations.require_head(database)


JOB = {
    "kind": "test",
    "queue": "q",
    "payload": '{"n":1}',
    "priority": 2,
    "delay_s": 0.0,
    "timeout_s": 9.0,
    "max_attempts": 3,
    "backoff_base_s": 1.0,
    "backoff_cap_s": 8.0,
    "due_at": 50.0,
    "queued_at": 50.0,
    "progress": 0.0,
    "is_cancel_requested": False,
}
"""A job as revisions 0001 and 0002 kept it, but for what differs between those of the test."""


def fill_as_0002(connection: Connection) -> None:
    jobs = (
        {"id": "new", "state": "queued", "attempt": 0, "tries": 0},
        {"id": "later", "state": "scheduled", "attempt": 1, "tries": 1, "error": ERROR},
        {
            "id": "held",
            "state": "running",
            "attempt": 2,
            "tries": 2,
            "worker": "w",
            "lease_until": 90,
        },
        {"id": "done", "state": "succeeded", "attempt": 1, "tries": 1, "finished_at": 70.0},
    )
    attempts = (
        ("later", 1, 60.0, 61.0, ERROR),
        ("held", 1, 60.0, 61.0, ERROR),
        ("held", 2, 80.0, None, None),
        ("done", 1, 60.0, 70.0, None),
    )
    for job in jobs:
        row: dict[str, object] = JOB | job
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO job ({names}) VALUES ({values})"), row)  # noqa: S608
    for each in attempts:
        keys = ("job_id", "number", "started_at", "finished_at", "error")
        insert = (
            "INSERT INTO job_attempt (job_id, number, worker, started_at, finished_at, error)"
            " VALUES (:job_id, :number, 'w', :started_at, :finished_at, :error)"
        )
        connection.execute(text(insert), dict(zip(keys, each, strict=True)))
    pauses = "INSERT INTO queue_control (queue, is_paused) VALUES ('*', TRUE), ('q', FALSE)"
    connection.execute(text(pauses))


ERROR = '{"type":"Boom","message":"it broke","step":null,"attempt":1}'


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_jobs_of_earlier_revisions_keep_their_history(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    if kind == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    async with Database(url) as database:
        await database.write(lambda c: migrations.upgrade_within(c, "0002"))
        await database.write(fill_as_0002)

        assert await migrations.upgrade(database) == "0002"

        differences = await migrations.check(
            database, capturekit.store.schema.metadata, capturekit.queue.sql.metadata
        )
        assert differences == []
        await _jobs_are_as_they_were(SqlQueue(database, clock=lambda: 85.0))


async def _jobs_are_as_they_were(queue: SqlQueue) -> None:
    stats = await queue.stats()
    assert (stats.is_paused, stats.paused) == (True, ())
    assert {state.value: count for state, count in stats.depth.items() if count} == {
        "queued": 2,
        "running": 1,
        "succeeded": 1,
    }
    held = await queue.status("held")
    first, second = held.attempts
    assert first.error is not None
    assert (first.number, first.finished_at, first.error.type) == (1, 61.0, "Boom")
    assert (second.number, second.started_at, second.finished_at) == (2, 80.0, None)
    assert held.started_at == 80.0
    await queue.resume()
    leases = await queue.claim("w", limit=9)
    assert [(lease.job.id, lease.attempt, lease.tries) for lease in leases] == [
        ("new", 1, 1),
        ("later", 2, 2),
    ]
    assert leases[0].job.payload == {"n": 1}
    lease = replace(leases[0], job=leases[0].job.model_copy(update={"id": "held"}), attempt=2)
    await queue.finish(lease)
    assert len((await queue.status("held")).attempts) == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_tokens_of_earlier_revisions_are_of_admins(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    if kind == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    token_hash = hashlib.sha256(b"of an admin").hexdigest()
    row = f"INSERT INTO credential VALUES ('{token_hash}', 'admin', NULL, 1.0, NULL)"  # noqa: S608
    async with Database(url) as old:
        await old.write(lambda c: migrations.upgrade_within(c, "0004"))
        await old.write(_doing(row))

        await migrations.upgrade(old)

        store = Store(old)
        principal = await store.devices.authenticate("of an admin")
        assert principal is not None
        assert (principal.kind, principal.name, principal.role) == ("token", "admin", Role.ADMIN)
        await store.tokens.revoke((await store.tokens.named("admin")).id)
        assert await store.devices.authenticate("of an admin") is None


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_stock_of_earlier_revisions_is_sealed(
    kind: str,
    store: Store,
    database: Database,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The rows of today, without what later revisions added, as 0003 would have kept them."""
    figures = await store.inventory.stock()
    rows = await database.read(_rows)
    url = f"sqlite:///{tmp_path}/old.db"
    if kind == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    async with Database(url) as old:
        await old.write(lambda c: migrations.upgrade_within(c, "0003"))
        await old.write(partial(_fill, rows=rows))

        assert await migrations.upgrade(old) == "0003"

        upgraded = Store(old)
        assert await upgraded.inventory.stock() == figures
        proof = await upgraded.inventory.verify()
        assert proof.findings == ()
        assert (proof.checked["lines"], proof.checked["runs"]) == (7, 4)


def _rows(connection: Connection) -> dict[str, list[dict[str, object]]]:
    tables = capturekit.store.schema.metadata.sorted_tables
    return {
        table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
        for table in tables
    }


def _fill(connection: Connection, rows: dict[str, list[dict[str, object]]]) -> None:
    for table in capturekit.store.schema.metadata.sorted_tables:
        if not inspect(connection).has_table(table.name):
            continue
        names = [one["name"] for one in inspect(connection).get_columns(table.name)]
        old = Table(table.name, MetaData(), *(Column(n, table.c[n].type) for n in names))
        for row in rows[table.name]:
            values = {name: row[name] for name in names}
            is_there = table is location and str(row["id"]).startswith("~")
            if not is_there:
                connection.execute(old.insert().values(values))


async def test_several_processes_may_upgrade_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    async with Database(url) as one, Database(url) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(migrations.upgrade, one)
            tasks.start_soon(migrations.upgrade, other)

        assert await migrations.revision(other) == migrations.head()


async def test_an_upgrade_killed_half_way_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    killed = await anyio.run_process([sys.executable, "-c", KILLED_HALF_WAY, url], check=False)
    assert killed.returncode == 9

    async with Database(url) as database:
        assert await migrations.revision(database) is None
        assert await migrations.upgrade(database) is None
        assert await migrations.revision(database) == migrations.head()


async def test_a_database_from_the_future_is_refused(database: Database) -> None:
    await database.write(_doing("UPDATE alembic_version SET version_num = '9999'"))

    for attempt in (migrations.upgrade, migrations.require_head):
        with pytest.raises(DatabaseTooNew, match="9999"):
            await attempt(database)


def test_the_head_is_the_one_that_alembic_finds() -> None:
    folder = Path(migrations.__file__).parent
    config = Config()
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.head()


async def test_a_start_without_an_upgrade_does_not_load_alembic(sqlite_url: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from capturekit.database import Database\n"
        "from capturekit.store import migrations\n"
        "async def main():\n"
        f"    async with Database('{sqlite_url}') as database:\n"
        "        await migrations.upgrade(database)\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    started = await anyio.run_process([sys.executable, "-c", code], check=False)
    assert started.returncode == 0
