"""People who sign in with a name and a password, and the sessions that they have then."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
from sqlalchemy import Connection, delete, select, update

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import passwords
from capturekit.store.access import Role, require_name
from capturekit.store.devices import Principal, PrincipalKind
from capturekit.store.schema import insert_new, lock_ledger, person, session
from capturekit.times import iso

IDLE_S: Final = 12 * 3600.0
"""A session that was not used for so long is over: who comes back in the morning signs in."""

SESSION_S: Final = 7 * 86400.0
"""A session is over then, however much it is used."""

SEEN_S: Final = 60.0
"""Use is written down no more often: a page that asks every 2 s would write each time."""

HASHED_AT_ONCE: Final = 2
"""Each takes 32 MiB and a core."""

HASHING_WAITS: Final = 16
"""Tries that may wait for one of these; more are refused."""


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who may sign in. Times are seconds since 1970, UTC."""

    name: str
    role: Role
    created_at: float
    disabled_at: float | None

    def as_json(self) -> dict[str, object]:
        """As programs read it; times are ISO 8601."""
        return {
            "name": self.name,
            "role": self.role,
            "created_at": iso(self.created_at),
            "disabled_at": iso(self.disabled_at),
        }


class People:
    """Adds and changes people, and opens and ends their sessions.

    Only a password's scrypt hash and a session's SHA-256 are stored.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._hashing = anyio.CapacityLimiter(HASHED_AT_ONCE)

    @property
    def is_busy(self) -> bool:
        """Whether so many sign in at once that the next should try again later."""
        return self._hashing.statistics().tasks_waiting >= HASHING_WAITS

    async def add(self, name: str, role: Role, password: str) -> Person:
        """Let someone in. Raises Conflict when there is one, ValueError for name or password."""
        require_name(name)
        passwords.require_strong(password)
        new = Person(name, role, self._clock(), None)
        hashed = await self._hashed(password)
        await self._database.write(partial(_add, new=new, hashed=hashed))
        return new

    async def all(self) -> list[Person]:
        """Everyone, also who is disabled, by name."""
        return await self._database.read(_all)

    async def change(
        self, name: str, *, role: Role | None = None, is_disabled: bool | None = None
    ) -> Person:
        """Give someone another role, or shut them out or in again; raises Unknown.

        A role counts from the next request on. Who is disabled has no sessions.
        """
        work = partial(_change, name=name, role=role, is_disabled=is_disabled, at=self._clock())
        return await self._database.write(work)

    async def set_password(self, name: str, password: str) -> None:
        """Give someone another password; all their sessions end. Raises Unknown, ValueError."""
        passwords.require_strong(password)
        hashed = await self._hashed(password)
        await self._database.write(partial(_set_password, name=name, hashed=hashed))

    async def sign_in(self, name: str, password: str) -> str | None:
        """A new session's secret; None for a wrong password, equally slow for an unknown name."""
        found = await self._database.read(partial(_password_of, name=name))
        is_right = await anyio.to_thread.run_sync(
            passwords.is_right, password, found or passwords.OF_NOBODY, limiter=self._hashing
        )
        if found is None or not is_right:
            return None
        secret = secrets.token_urlsafe(32)
        work = partial(_open, name=name, hashed=found, secret=secret, at=self._clock())
        return secret if await self._database.write(work) else None

    async def by_session(self, secret: str) -> Principal | None:
        """Whose session this is; None when there is none or it is over."""
        at, id_hash = self._clock(), _hash(secret)
        found = await self._database.read(partial(_session, id_hash=id_hash, at=at))
        if found is None:
            return None
        name, role, seen_at = found
        if at - seen_at >= SEEN_S:
            await self._database.write(partial(_note_use, id_hash=id_hash, at=at))
        return Principal(PrincipalKind.PERSON, None, id_hash, name, role)

    async def sign_out(self, principal: Principal) -> None:
        """End the session that was used."""
        await self._database.write(partial(_close, id_hash=principal.credential_id))

    async def _hashed(self, password: str) -> str:
        return await anyio.to_thread.run_sync(passwords.hash_of, password, limiter=self._hashing)


_COLUMNS: Final = (person.c.name, person.c.role, person.c.created_at, person.c.disabled_at)


def _add(connection: Connection, new: Person, hashed: str) -> None:
    lock_ledger(connection)
    if connection.scalar(select(person.c.name).where(person.c.name == new.name)) is not None:
        raise Conflict(f"there is a person {new.name!r} already")
    row: dict[str, object] = {
        "name": new.name,
        "role": new.role,
        "password": hashed,
        "created_at": new.created_at,
    }
    insert_new(connection, person, [row])


def _all(connection: Connection) -> list[Person]:
    rows = connection.execute(select(*_COLUMNS).order_by(person.c.name)).mappings()
    return [_person(dict(row)) for row in rows]


def _change(
    connection: Connection, name: str, role: Role | None, *, is_disabled: bool | None, at: float
) -> Person:
    values: dict[str, object] = {} if role is None else {"role": role}
    if is_disabled is not None:
        values["disabled_at"] = at if is_disabled else None
    is_this = person.c.name == name
    if values:
        connection.execute(update(person).where(is_this).values(values))
    if is_disabled:
        connection.execute(delete(session).where(session.c.person == name))
    row = connection.execute(select(*_COLUMNS).where(is_this)).mappings().first()
    if row is None:
        raise Unknown("person", name)
    return _person(dict(row))


def _set_password(connection: Connection, name: str, hashed: str) -> None:
    done = connection.execute(update(person).where(person.c.name == name).values(password=hashed))
    if done.rowcount == 0:
        raise Unknown("person", name)
    connection.execute(delete(session).where(session.c.person == name))


def _password_of(connection: Connection, name: str) -> str | None:
    is_in = (person.c.name == name) & person.c.disabled_at.is_(None)
    found: str | None = connection.scalar(select(person.c.password).where(is_in))
    return found


def _open(connection: Connection, name: str, hashed: str, secret: str, at: float) -> bool:
    """Whether there is a session now: meanwhile the password may be another one."""
    lock_ledger(connection)
    if _password_of(connection, name) != hashed:
        return False
    is_over = (session.c.expires_at <= at) | (session.c.seen_at <= at - IDLE_S)
    connection.execute(delete(session).where(is_over))
    connection.execute(
        session.insert().values(
            id_hash=_hash(secret),
            person=name,
            created_at=at,
            seen_at=at,
            expires_at=at + SESSION_S,
        )
    )
    return True


def _session(connection: Connection, id_hash: str, at: float) -> tuple[str, Role, float] | None:
    row = connection.execute(
        select(person.c.name, person.c.role, session.c.seen_at)
        .join(session, session.c.person == person.c.name)
        .where(
            session.c.id_hash == id_hash,
            session.c.expires_at > at,
            session.c.seen_at > at - IDLE_S,
            person.c.disabled_at.is_(None),
        )
    ).first()
    return None if row is None else (row[0], Role(row[1]), row[2])


def _note_use(connection: Connection, id_hash: str, at: float) -> None:
    connection.execute(update(session).where(session.c.id_hash == id_hash).values(seen_at=at))


def _close(connection: Connection, id_hash: str) -> None:
    connection.execute(delete(session).where(session.c.id_hash == id_hash))


def _person(row: dict[str, Any]) -> Person:
    return Person(**row | {"role": Role(row["role"])})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
