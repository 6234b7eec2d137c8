import sqlite3
import sys
from pathlib import Path

import anyio
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import capturekit.queue.sql
import capturekit.store.schema
from capturekit.database import Database
from capturekit.errors import DatabaseTooNew, DatabaseTooOld
from capturekit.store import migrations

pytestmark = pytest.mark.anyio

KILLED_HALF_WAY = """
import asyncio, os, sys
from capturekit.database import Database
from capturekit.store import migrations

def die(connection):
    migrations.upgrade_within(connection)
    os._exit(9)

async def main():
    async with Database(sys.argv[1]) as database:
        await database.write(die)

asyncio.run(main())
"""


async def test_upgraded_tables_are_the_ones_the_code_expects(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/new.db") as database:
        await migrations.upgrade(database)

        differences = await migrations.check(
            database, capturekit.store.schema.metadata, capturekit.queue.sql.metadata
        )

    assert differences == []


async def test_a_table_that_is_missing_is_told(database: Database) -> None:
    with sqlite3.connect(database.path) as connection:
        connection.execute("DROP TABLE verdict")
    connection.close()

    (difference,) = await migrations.check(
        database, capturekit.store.schema.metadata, capturekit.queue.sql.metadata
    )

    assert "verdict" in difference


async def test_an_upgrade_is_done_once(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/new.db") as database:
        with pytest.raises(DatabaseTooOld, match="db upgrade"):
            await migrations.require_head(database)

        assert await migrations.upgrade(database) is None
        assert await migrations.upgrade(database) == migrations.head()
        await migrations.require_head(database)


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
    with sqlite3.connect(database.path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    for attempt in (migrations.upgrade, migrations.require_head):
        with pytest.raises(DatabaseTooNew, match="9999"):
            await attempt(database)


def test_the_head_is_the_one_that_alembic_finds() -> None:
    folder = Path(migrations.__file__).parent
    config = Config()
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.head()


async def test_a_start_without_an_upgrade_does_not_load_alembic(database: Database) -> None:
    code = (
        "import asyncio, sys\n"
        "from capturekit.database import Database\n"
        "from capturekit.store import migrations\n"
        "async def main():\n"
        f"    async with Database('sqlite:///{database.path}') as database:\n"
        "        await migrations.upgrade(database)\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    started = await anyio.run_process([sys.executable, "-c", code], check=False)
    assert started.returncode == 0
