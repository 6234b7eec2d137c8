"""Bringing a database to the schema that this capturekit knows.

The revisions are the files of ``versions``, in the order of their names. Alembic takes
a third of a second to import, so it is imported only when there is something to upgrade.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, MetaData, inspect, text

from capturekit.database import Database
from capturekit.errors import DatabaseTooNew, DatabaseTooOld
from capturekit.store.schema import lock_ledger

_FOLDER: Final = Path(__file__).parent


def known() -> list[str]:
    """The revisions that this capturekit can bring a database to, oldest first."""
    return sorted(path.name[:4] for path in (_FOLDER / "versions").glob("[0-9]*.py"))


def head() -> str:
    """The revision that this capturekit works on."""
    return known()[-1]


async def revision(database: Database) -> str | None:
    """The database's revision; None when it is empty."""
    return await database.read(_revision)


async def upgrade(database: Database) -> str | None:
    """Bring the database to ``head()`` and return the revision that it had.

    All in one transaction: killed half way, the database is as it was. Several processes may
    try at once. Raises DatabaseTooNew when the database's revision is not known here.
    """
    found = await revision(database)
    _refuse_unknown(found)
    if found == head():
        return found
    return await database.write(upgrade_within)


async def require_head(database: Database) -> None:
    """Raise DatabaseTooOld or DatabaseTooNew unless the database is at ``head()``."""
    found = await revision(database)
    _refuse_unknown(found)
    if found != head():
        raise DatabaseTooOld(
            f"the database is at revision {found or 'none'}, this capturekit needs {head()}: "
            "run `capturekit db upgrade`"
        )


async def check(database: Database, *metadatas: MetaData) -> list[str]:
    """How the database differs from these tables together; empty when it does not."""
    return await database.read(partial(_differences, metadatas=metadatas))


def upgrade_within(connection: Connection, target: str = "head") -> str | None:
    """``upgrade`` in the caller's transaction, up to the revision ``target``."""
    lock_ledger(connection)
    found = _revision(connection)
    _refuse_unknown(found)
    if found != head():
        _run_alembic(connection, target)
    return found


def _refuse_unknown(found: str | None) -> None:
    if found is not None and found not in known():
        raise DatabaseTooNew(found, head())


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _run_alembic(connection: Connection, target: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _differences(connection: Connection, metadatas: Sequence[MetaData]) -> list[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    wanted = MetaData()
    for metadata in metadatas:
        for table in metadata.tables.values():
            table.to_metadata(wanted)
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return [str(difference) for difference in compare_metadata(context, wanted)]
