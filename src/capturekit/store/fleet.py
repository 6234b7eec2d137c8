"""Cameras as people list, look at and change them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue
from sqlalchemy import Connection, Select, or_, select, update

from capturekit.database import Database
from capturekit.errors import OutOfDate
from capturekit.store import locations
from capturekit.store.configuration import NO_CONFIGURATION, Configuration, DeviceConfig
from capturekit.store.devices import Device, Polygon, device_of, get, holds_at, lock
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import credential, device, device_config, view
from capturekit.times import iso


@dataclass(frozen=True, slots=True)
class View:
    """A location that a device sees beside its own."""

    location_id: str
    polygon: Polygon | None
    """Where in the picture; None for all of it."""
    is_exhaustive: bool

    def as_json(self) -> dict[str, JsonValue]:
        """The view as the HTTP API shows it."""
        polygon: JsonValue = None
        if self.polygon is not None:
            polygon = [list(point) for point in self.polygon]
        return {
            "location_id": self.location_id,
            "polygon": polygon,
            "is_exhaustive": self.is_exhaustive,
        }


@dataclass(frozen=True, slots=True)
class Key:
    """A token that holds, without what would let anyone use it."""

    id: str
    """Tells keys apart."""
    created_at: float
    ends_at: float | None
    """The end of its grace, when another has taken its place; None while it is the newest."""

    def as_json(self) -> dict[str, JsonValue]:
        """The key as the HTTP API shows it."""
        return {"id": self.id, "created_at": iso(self.created_at), "ends_at": iso(self.ends_at)}


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """A device with what belongs to it."""

    device: Device
    views: tuple[View, ...]
    keys: tuple[Key, ...]
    """Those that hold, the oldest first."""

    def as_json(self) -> dict[str, JsonValue]:
        """The device as the HTTP API shows it."""
        return self.device.as_json() | {
            "views": [one.as_json() for one in self.views],
            "keys": [one.as_json() for one in self.keys],
        }


class Fleet:
    """Lists and changes devices; ``Devices`` sees to their tokens."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def page(
        self,
        *,
        text: str | None = None,
        location_id: str | None = None,
        is_revoked: bool | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Device]:
        """Devices by id; ``cursor`` is the ``next`` of the page before.

        ``text`` is part of an id or a name. ValueError for another cursor.
        """
        query = select(device).order_by(device.c.id).limit(limit + 1)
        if text is not None:
            named = (device.c.id, device.c.name)
            query = query.where(or_(*(one.icontains(text, autoescape=True) for one in named)))
        if location_id is not None:
            query = query.where(device.c.location_id == location_id)
        if is_revoked is not None:
            query = query.where(device.c.revoked_at.is_not(None) == is_revoked)
        if cursor is not None:
            query = query.where(device.c.id > from_cursor(cursor, 1)[0])
        return await self._database.read(partial(_page, query=query, limit=limit))

    async def entry(self, id: str) -> DeviceEntry:
        """The device with its views and the keys that hold. Raises Unknown."""
        return await self._database.read(partial(_entry, id=id, at=self._clock()))

    async def change(
        self,
        id: str,
        *,
        name: str | None = None,
        location_id: str | None = None,
        is_exhaustive: bool | None = None,
        is_signed_only: bool | None = None,
    ) -> Device:
        """Change what is given, for captures that are processed from now on.

        Raises Unknown for the device and the location.
        """
        given = {
            "name": name,
            "location_id": location_id,
            "is_exhaustive": is_exhaustive,
            "is_signed_only": is_signed_only,
        }
        changes = {column: value for column, value in given.items() if value is not None}
        return await self._database.write(partial(_change, id=id, changes=changes))

    async def configuration(self, id: str) -> Configuration:
        """What the device should do. Raises Unknown."""
        return await self._database.read(partial(_configuration, id=id))

    async def configure(
        self, id: str, config: DeviceConfig, *, if_version: int | None = None
    ) -> Configuration:
        """Let the device do this, which it hears at its next upload; returned with its number.

        With ``if_version`` only if that is the present one: OutOfDate otherwise. Raises Unknown.
        """
        stored = config.model_dump(mode="json", exclude_none=True)
        work = partial(_configure, id=id, stored=stored, if_version=if_version, at=self._clock())
        return await self._database.write(work)


def _page(connection: Connection, query: Select[tuple[object, ...]], limit: int) -> Page[Device]:
    found = [device_of(row) for row in connection.execute(query).mappings()]
    shown = tuple(found[:limit])
    return Page(shown, to_cursor([shown[-1].id]) if len(found) > limit else None)


def _entry(connection: Connection, id: str, at: float) -> DeviceEntry:
    return DeviceEntry(get(connection, id), _views(connection, id), _keys(connection, id, at))


def _views(connection: Connection, id: str) -> tuple[View, ...]:
    query = (
        select(view.c.location_id, view.c.polygon, view.c.is_exhaustive)
        .where(view.c.device_id == id)
        .order_by(view.c.location_id)
    )
    return tuple(View(*row) for row in connection.execute(query))


def _keys(connection: Connection, id: str, at: float) -> tuple[Key, ...]:
    query = (
        select(credential.c.id, credential.c.created_at, credential.c.revoked_at)
        .where(credential.c.device_id == id, holds_at(at))
        .order_by(credential.c.created_at, credential.c.id)
    )
    return tuple(Key(*row) for row in connection.execute(query))


def _change(connection: Connection, id: str, changes: Mapping[str, str | bool]) -> Device:
    lock(connection, id)
    place = changes.get("location_id")
    if place is not None:
        locations.require(connection, str(place))
    if changes:
        connection.execute(update(device).where(device.c.id == id).values(changes))
    return get(connection, id)


def _configuration(connection: Connection, id: str) -> Configuration:
    get(connection, id)
    return _present(connection, id)


def _present(connection: Connection, id: str) -> Configuration:
    query = select(device_config.c.version, device_config.c.config)
    row = connection.execute(query.where(device_config.c.device_id == id)).one_or_none()
    return NO_CONFIGURATION if row is None else Configuration(*row)


def _configure(
    connection: Connection,
    id: str,
    stored: dict[str, JsonValue],
    if_version: int | None,
    at: float,
) -> Configuration:
    lock(connection, id)
    before = _present(connection, id).version
    if if_version is not None and if_version != before:
        raise OutOfDate(f"the configuration of {id!r} is at version {before} by now")
    values = {"version": before + 1, "config": stored, "changed_at": at}
    if before:
        own = update(device_config).where(device_config.c.device_id == id)
        connection.execute(own.values(values))
    else:
        connection.execute(device_config.insert().values(device_id=id, **values))
    return Configuration(before + 1, stored)
