"""Places that stock is kept for: a tree, with a few virtual ones beside it."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue
from sqlalchemy import Connection, select, update

from capturekit.errors import Conflict, Unknown
from capturekit.store import alerts
from capturekit.store.schema import insert_new, location, lock_ledger
from capturekit.store.tree import within

_ID: Final = re.compile(r"[^\W_][\w.\- ]{0,99}")


@dataclass(frozen=True, slots=True)
class Location:
    """A place; what is in its children is in it too."""

    id: str
    name: str
    parent_id: str | None

    def as_json(self) -> dict[str, JsonValue]:
        """The location as the HTTP API and the command line show it."""
        return {"location_id": self.id, "name": self.name, "parent_id": self.parent_id}


def checked_location_id(id: str) -> str:
    """The id itself; ValueError unless it is one.

    1 to 100 letters, digits, ``.``, ``_``, ``-`` or spaces, with a letter or digit first.
    """
    if not _ID.fullmatch(id):
        raise ValueError(
            f"location {id!r}: use 1 to 100 letters, digits, '.', '_', '-' or spaces, "
            "with a letter or digit first"
        )
    return id


def add(connection: Connection, new: Location) -> Location:
    """Make a location. Raises Conflict if it is there, Unknown if its parent is not."""
    checked_location_id(new.id)
    if exists(connection, new.id):
        raise Conflict(f"there is a location {new.id!r} already")
    if new.parent_id is not None:
        require(connection, new.parent_id)
    connection.execute(
        location.insert().values(
            id=new.id, name=new.name, parent_id=new.parent_id, is_virtual=False
        )
    )
    return new


def get(connection: Connection, id: str) -> Location:
    """The location; raises Unknown."""
    query = select(location.c.id, location.c.name, location.c.parent_id).where(
        location.c.id == id, location.c.is_virtual.is_(False)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Unknown("location", id)
    return Location(*row)


def rename(connection: Connection, id: str, name: str) -> Location:
    """Give the location another name. Raises Unknown."""
    get(connection, id)
    connection.execute(update(location).where(location.c.id == id).values(name=name))
    return get(connection, id)


def move(connection: Connection, id: str, parent_id: str | None, at: float) -> Location:
    """Put the location and all below it into another, or into none.

    Raises Unknown for either, Conflict when the other is below it.
    """
    lock_ledger(connection)
    before = get(connection, id)
    if parent_id is not None:
        require(connection, parent_id)
        if connection.scalar(
            select(location.c.id).where(location.c.id == parent_id, location.c.id.in_(within(id)))
        ):
            raise Conflict(f"{parent_id!r} is within {id!r}: a location cannot be within itself")
    connection.execute(update(location).where(location.c.id == id).values(parent_id=parent_id))
    changed = [one for one in (before.parent_id, parent_id) if one is not None]
    alerts.watch_locations(connection, changed, at)
    return get(connection, id)


def all_locations(connection: Connection) -> list[Location]:
    """Every real location, by id."""
    query = (
        select(location.c.id, location.c.name, location.c.parent_id)
        .where(location.c.is_virtual.is_(False))
        .order_by(location.c.id)
    )
    return [Location(*row) for row in connection.execute(query)]


def ensure(connection: Connection, ids: Collection[str], parent_id: str | None = None) -> None:
    """Make those of the locations that are not there, named after their ids."""
    insert_new(
        connection,
        location,
        [
            {
                "id": checked_location_id(one),
                "name": one,
                "parent_id": parent_id,
                "is_virtual": False,
            }
            for one in sorted(ids)
        ],
    )


def exists(connection: Connection, id: str) -> bool:
    """Whether there is a real location with this id."""
    query = select(location.c.id).where(location.c.id == id, location.c.is_virtual.is_(False))
    return connection.scalar(query) is not None


def require(connection: Connection, id: str) -> None:
    """Raise Unknown unless there is a real location with this id."""
    if not exists(connection, id):
        raise Unknown("location", id)
