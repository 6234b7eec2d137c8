"""Which store of blobs belongs to a database.

A process that saw other blobs than the rest would call pictures missing, and might delete what
it does not know.
"""

import secrets
from functools import partial
from typing import Final

from sqlalchemy import Connection, select

from capturekit.blobs import Blobs
from capturekit.database import Database
from capturekit.errors import ConfigError
from capturekit.store.schema import insert_new, installation

NAME: Final = "blobs_owner"
OFFERED: Final = "blobs_owner_offered:"
"""With a name after it: an owner's name that a start of this database may have given to blobs.
Killed before it was written down for good, the next start knows it as its own."""


async def has_owner(database: Database) -> bool:
    """Whether a process has joined the database with blobs before."""
    return await database.read(_owner) is not None


async def require_own(database: Database, blobs: Blobs) -> None:
    """Join the database and the blobs for good, if both are free. Raises ConfigError else."""
    expected = await database.read(_owner)
    owner = await blobs.owner()
    if expected is None:
        if owner is None:
            name = secrets.token_hex(16)
            await database.write(partial(_offer, name=name))
            owner = await blobs.claim(name)
        expected = await database.write(partial(_join, owner=owner))
    if owner is None:
        raise ConfigError(
            "the pictures of this database are kept elsewhere, and this process would not see "
            "them: share the data folder of the server, or set CAPTUREKIT_BLOB_URL for all of them"
        )
    if owner != expected:
        raise ConfigError(
            "these pictures belong to another database: see to CAPTUREKIT_DATABASE_URL and "
            "CAPTUREKIT_BLOB_URL, or name another data folder"
        )


def _owner(connection: Connection) -> str | None:
    return connection.scalar(select(installation.c.value).where(installation.c.name == NAME))


def _offer(connection: Connection, name: str) -> None:
    connection.execute(installation.insert().values(name=OFFERED + name, value=name))


def _join(connection: Connection, owner: str) -> str | None:
    is_ours = connection.scalar(
        select(installation.c.name).where(installation.c.name == OFFERED + owner)
    )
    if is_ours:
        insert_new(connection, installation, [{"name": NAME, "value": owner}])
    return _owner(connection)
