"""Who tells events to others, up to where, and which process does it at the moment.

An outlet is held by one process at a time, for a while that it keeps renewing. One that was
killed stops renewing, and another takes over. Only the holder moves the cursor, and only from
where it thinks it is: whoever lost the outlet, or was told to begin again, notices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from capturekit.database import Database
from capturekit.store.outbox import newest, shared_time
from capturekit.store.schema import insert_new, outlet

HOLD_S: Final = 30.0
"""Seconds for which an outlet is held; after a kill nobody tells its events for as long."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where an outlet is."""

    id: str
    cursor: int
    """The number of the last event that was told."""
    holder: str | None
    """Names the process that tells, or told last."""


class Outlets:
    """The outlets of a database. Times are the server's own on Postgres, else the clock's."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def ensure(self, id: str) -> None:
        """Make the outlet, from the newest event on, unless it is there."""
        await self._database.write(partial(ensure, id=id))

    async def get(self, id: str) -> Outlet | None:
        """The outlet; None when it is gone."""
        return await self._database.read(partial(get, id=id))

    async def hold(self, id: str, holder: str) -> Outlet | None:
        """Take the outlet, or keep it, for ``HOLD_S``; None when another process has it."""
        work = partial(hold, id=id, holder=holder, at=self._clock())
        return await self._database.write(work, is_synced=False)

    async def advance(self, id: str, holder: str, cursor: int, to: int) -> bool:
        """Move the cursor and keep the outlet; False when it is not held or not there."""
        work = partial(advance, id=id, holder=holder, cursor=cursor, to=to, at=self._clock())
        # Where a power cut takes it back, events are told again.
        return await self._database.write(work, is_synced=False)

    async def release(self, holder: str) -> None:
        """Let others have all outlets that the process holds."""
        await self._database.write(partial(_release, holder=holder), is_synced=False)

    async def release_all(self) -> None:
        """Let anyone have any outlet; for a server that knows itself the only one."""
        await self._database.write(partial(_release, holder=None), is_synced=False)


def ensure(connection: Connection, id: str) -> None:
    """``Outlets.ensure`` within the caller's transaction."""
    if get(connection, id) is None:
        insert_new(connection, outlet, [{"id": id, "cursor": newest(connection)}])


def get(connection: Connection, id: str) -> Outlet | None:
    """The outlet; None when it is gone."""
    row = connection.execute(
        select(outlet.c.id, outlet.c.cursor, outlet.c.holder).where(outlet.c.id == id)
    ).one_or_none()
    return None if row is None else Outlet(*row)


def hold(connection: Connection, id: str, holder: str, at: float) -> Outlet | None:
    """``Outlets.hold`` within the caller's transaction."""
    now = shared_time(connection, at)
    is_free = or_(
        outlet.c.holder.is_(None),
        outlet.c.holder == holder,
        outlet.c.held_until < now,
        # Nobody holds for so long: the clock went back.
        outlet.c.held_until > now + 2 * HOLD_S,
    )
    taken = connection.execute(
        update(outlet)
        .where(outlet.c.id == id, is_free)
        .values(holder=holder, held_until=now + HOLD_S)
    )
    return get(connection, id) if taken.rowcount else None


def advance(connection: Connection, id: str, holder: str, cursor: int, to: int, at: float) -> bool:
    """``Outlets.advance`` within the caller's transaction."""
    moved = connection.execute(
        update(outlet)
        .where(is_at(id, holder, cursor))
        .values(cursor=to, held_until=shared_time(connection, at) + HOLD_S)
    )
    return bool(moved.rowcount)


def is_at(id: str, holder: str, cursor: int) -> ColumnElement[bool]:
    """Whether the outlet is this process's, and where it thinks."""
    return and_(outlet.c.id == id, outlet.c.holder == holder, outlet.c.cursor == cursor)


def _release(connection: Connection, holder: str | None) -> None:
    released = update(outlet).values(holder=None)
    if holder is not None:
        released = released.where(outlet.c.holder == holder)
    connection.execute(released)
