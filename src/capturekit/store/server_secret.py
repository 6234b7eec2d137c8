"""A secret that all servers on one database share, made at its first use.

Whoever can read the database can read it, as they can read all else there.
"""

import secrets

from sqlalchemy import Connection, select

from capturekit.store.schema import insert_new, installation

NAME = "server_secret"


def server_secret(connection: Connection) -> bytes:
    """The secret, 32 bytes; written when there is none yet."""
    own = select(installation.c.value).where(installation.c.name == NAME)
    if (found := connection.scalar(own)) is None:
        # Two servers may do so at once: the first one's is kept.
        insert_new(connection, installation, [{"name": NAME, "value": secrets.token_hex(32)}])
        found = connection.scalar(own)
    return bytes.fromhex(str(found))
