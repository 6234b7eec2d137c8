"""Tokens of the API: named, with a role, perhaps with an end; shown once and stored hashed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, select, update

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import devices
from capturekit.store.access import Role, require_name
from capturekit.store.devices import FIRST_NAME, PrincipalKind, holds_at
from capturekit.store.schema import credential, lock_ledger
from capturekit.times import iso


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. Times are seconds since 1970, UTC."""

    id: str
    name: str
    role: Role
    created_at: float
    expires_at: float | None
    """When it ends, or has ended; None for one that holds until it is revoked."""

    def as_json(self) -> dict[str, object]:
        """As programs read it; times are ISO 8601."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role,
            "created_at": iso(self.created_at),
            "expires_at": iso(self.expires_at),
        }


class Tokens:
    """Makes, lists and revokes the tokens of the API. Those of cameras are with the devices."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def add(
        self, name: str, role: Role, *, expires_at: float | None = None
    ) -> tuple[Token, str]:
        """Make a token and return it with its secret, which is shown here only.

        Raises Conflict when a token of this name holds still, ValueError for a name that
        cannot be one or an end that has passed.
        """
        require_name(name)
        if name == FIRST_NAME:
            raise ValueError(f"the name {name!r} is the first token's; give another")
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise ValueError("the token would have expired already")
        work = partial(_add, name=name, role=role, at=now, expires_at=expires_at)
        return await self._database.write(work)

    async def all(self) -> list[Token]:
        """Every token, also those that hold no more, the oldest first."""
        return await self._database.read(_all)

    async def revoke(self, id: str) -> Token:
        """End a token at once; again is harmless. Raises Unknown."""
        return await self._database.write(partial(_revoke, id=id, at=self._clock()))

    async def named(self, name: str) -> Token:
        """The token of this name that holds still. Raises Unknown."""
        return await self._database.read(partial(_named, name=name, at=self._clock()))


_COLUMNS: Final = (
    *(credential.c[name] for name in ("id", "name", "role", "created_at")),
    credential.c.revoked_at.label("expires_at"),
)
_IS_TOKEN: Final = credential.c.kind == PrincipalKind.TOKEN


def _add(
    connection: Connection, name: str, role: Role, at: float, expires_at: float | None
) -> tuple[Token, str]:
    lock_ledger(connection)
    is_taken = select(credential.c.id).where(_IS_TOKEN, credential.c.name == name, holds_at(at))
    if connection.scalar(is_taken) is not None:
        raise Conflict(f"there is a token {name!r} already; revoke it, or give another name")
    new_id, secret = devices.issue(
        connection, PrincipalKind.TOKEN, at, name=name, role=role, revoked_at=expires_at
    )
    return Token(new_id, name, role, at, expires_at), secret


def _all(connection: Connection) -> list[Token]:
    order = (credential.c.created_at, credential.c.id)
    rows = connection.execute(select(*_COLUMNS).where(_IS_TOKEN).order_by(*order)).mappings()
    return [_token(row) for row in rows]


def _revoke(connection: Connection, id: str, at: float) -> Token:
    is_this = _IS_TOKEN & (credential.c.id == id)
    connection.execute(update(credential).where(is_this, holds_at(at)).values(revoked_at=at))
    row = connection.execute(select(*_COLUMNS).where(is_this)).mappings().first()
    if row is None:
        raise Unknown("token", id)
    return _token(row)


def _named(connection: Connection, name: str, at: float) -> Token:
    found = select(*_COLUMNS).where(_IS_TOKEN, credential.c.name == name, holds_at(at))
    row = connection.execute(found).mappings().first()
    if row is None:
        raise Unknown("token", name)
    return _token(row)


def _token(row: RowMapping) -> Token:
    values: dict[str, Any] = dict(row)
    return Token(**values | {"role": Role(row["role"])})
