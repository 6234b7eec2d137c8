"""Cameras, and the tokens that they and users of the API prove themselves with.

Only a token's SHA-256 is stored. A token has 256 random bits, so looking its hash up tells
nothing by its timing, and a slow hash would add nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from capturekit.database import Database
from capturekit.database.prepared import Prepared
from capturekit.errors import Conflict, Unknown
from capturekit.store import locations
from capturekit.store.access import Role
from capturekit.store.configuration import Configuration
from capturekit.store.schema import (
    claim,
    credential,
    device,
    device_config,
    insert_new,
    lock_ledger,
    view,
)
from capturekit.times import iso

RESERVED_IDS: Final = frozenset({"claims"})
"""Words that stand in the HTTP API where the id of a device stands."""

FIRST_NAME: Final = "admin"
"""Name of the token that was made at the first start, or is set by CAPTUREKIT_ADMIN_TOKEN."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Polygon = Sequence[tuple[float, float]]

MAX_GRACE_S: Final = 30 * 86400.0
"""Longest that a token holds after another took its place: a device that sleeps for a month."""


class PrincipalKind(StrEnum):
    """What speaks for whom."""

    DEVICE = "device"
    TOKEN = "token"  # noqa: S105  # a word, and no secret
    """A token of the API."""
    PERSON = "person"
    """Someone who signed in: no token, but a session."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    kind: PrincipalKind
    device_id: str | None
    """None for all but devices."""
    credential_id: str
    """Tells tokens and sessions apart. Of a token its SHA-256, with which a device may sign."""
    name: str = ""
    """Of the person or the token; the id of a device."""
    role: Role | None = None
    """What it may do; None for a device, which only uploads."""
    configuration: Configuration | None = None
    """What the device should do, if that was said."""
    is_signed_only: bool = False
    """True for a device whose token alone is not enough."""


@dataclass(frozen=True, slots=True)
class Device:
    """A camera as the store knows it. Times are seconds since 1970, UTC."""

    id: str
    name: str
    location_id: str
    """Where it observes, unless an observation says otherwise."""
    is_exhaustive: bool
    """True when it sees its location whole: what it does not report is not there."""
    created_at: float
    revoked_at: float | None
    last_seen_at: float | None
    battery_v: float | None
    rssi: int | None
    is_signed_only: bool = False
    """True when it must sign its uploads, and its token alone is refused."""

    @property
    def is_revoked(self) -> bool:
        """True when none of its tokens holds, until ``rotate`` makes a new one."""
        return self.revoked_at is not None

    def as_json(self) -> dict[str, JsonValue]:
        """The device as the HTTP API and the command line show it."""
        return {
            "id": self.id,
            "name": self.name,
            "location": self.location_id,
            "exhaustive": self.is_exhaustive,
            "last_seen_at": iso(self.last_seen_at),
            "battery_v": self.battery_v,
            "rssi": self.rssi,
            "signed_only": self.is_signed_only,
            "created_at": iso(self.created_at),
            "revoked_at": iso(self.revoked_at),
        }


class Devices:
    """Adds, lists and revokes devices, and tells whose a token is."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def add(
        self, name: str, id: str | None = None, *, is_exhaustive: bool = False
    ) -> tuple[Device, str]:
        """Make a device and a location of the same id, and return it with its token.

        The token is shown here only. The id is the name unless one is given: 1 to 64
        letters (A to Z), digits, ``.``, ``_`` and ``-``, with a letter or digit first;
        ValueError otherwise. Raises Conflict when the id is taken.
        """
        new = new_device(name, id, is_exhaustive=is_exhaustive, at=self._clock())
        return await self._database.write(partial(add, new=new))

    async def add_view(
        self,
        device_id: str,
        location_id: str,
        *,
        polygon: Polygon | None = None,
        is_exhaustive: bool = False,
    ) -> None:
        """Say that the device sees this location too, below its own if it is new.

        Applies to captures processed from now on; a second call replaces the first. Raises
        Unknown for the device, ValueError for the location.
        """
        row: dict[str, object] = {
            "device_id": device_id,
            "location_id": location_id,
            "polygon": None if polygon is None else [list(point) for point in polygon],
            "is_exhaustive": is_exhaustive,
        }
        await self._database.write(partial(_add_view, row=row, device_id=device_id))

    async def all(self) -> list[Device]:
        """Every device, revoked ones too, by id."""
        return await self._database.read(_all)

    async def counts(self) -> tuple[int, int]:
        """How many devices there are, and how many of them are revoked."""
        return await self._database.read(_counts)

    async def get(self, id: str) -> Device:
        """The device; raises Unknown."""
        return await self._database.read(partial(get, id=id))

    async def rotate(self, id: str, *, grace_s: float = 0.0) -> str:
        """Give the device a new token. Raises Unknown.

        The one that it has holds for ``grace_s`` seconds more, until the device has learnt the
        new one; an older one ends at once, so that never more than two hold.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise ValueError(f"grace_s {grace_s:g}: an old token holds 0 to {MAX_GRACE_S:g} s more")
        return await self._database.write(partial(rotate, id=id, at=self._clock(), grace_s=grace_s))

    async def revoke(self, id: str) -> None:
        """End all of the device's tokens, and offers of one, at once. Raises Unknown."""
        await self._database.write(partial(_revoke, id=id, at=self._clock()))

    async def authenticate(self, token: str) -> Principal | None:
        """Whose token this is; None when it is unknown, has ended or was revoked."""
        return await self._database.read(partial(_authenticate, token=token, at=self._clock()))

    async def signers(self, device_id: str) -> list[Principal]:
        """The device, once for each token that holds; none when it is unknown or revoked."""
        return await self._database.read(partial(_signers, device_id=device_id, at=self._clock()))

    async def ensure_admin_token(self) -> str | None:
        """Make an admin's token unless there is one; return it if it was made now."""
        return await self._database.write(partial(_ensure_admin_token, at=self._clock()))

    async def set_admin_token(self, token: str) -> None:
        """Let this be the first token, in place of the one before; named ones stay.

        Raises ValueError for an empty one.
        """
        if not token:
            raise ValueError("an admin token needs at least one character")
        await self._database.write(partial(_set_admin_token, token=token, at=self._clock()))


_DEVICE: Final = Prepared(select(device).where(device.c.id == bindparam("device")))


def get(connection: Connection, id: str) -> Device:
    """The device; raises Unknown."""
    row = _DEVICE.mapping(connection, device=id)
    if row is None:
        raise Unknown("device", id)
    return device_of(row)


def device_of(row: Mapping[Any, Any]) -> Device:
    """The device of a row with all columns of the table."""
    return Device(**row)


def lock(connection: Connection, id: str) -> None:
    """Let no other transaction change the device until this one ends. Raises Unknown.

    Of two rotations at once the second must see the first one's token. SQLite has one writer.
    """
    one = select(device.c.id).where(device.c.id == id).with_for_update()
    if connection.scalar(one) is None:
        raise Unknown("device", id)


def is_valid(connection: Connection, principal: Principal, at: float) -> bool:
    """Whether the principal's token holds at that time."""
    return _CREDENTIAL.first(connection, token_hash=principal.credential_id, at=at) is not None


def holds_at(at: float | ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a credential has not ended by then."""
    return or_(credential.c.revoked_at.is_(None), credential.c.revoked_at > at)


_CREDENTIAL: Final = Prepared(
    select(credential).where(
        credential.c.token_hash == bindparam("token_hash"), holds_at(bindparam("at", type_=Float))
    )
)
# With what the answer to an upload may tell the device: one question for both.
_OWNERS: Final = (
    select(credential, device.c.is_signed_only, device_config.c.version, device_config.c.config)
    .outerjoin(device, device.c.id == credential.c.device_id)
    .outerjoin(device_config, device_config.c.device_id == credential.c.device_id)
    .where(holds_at(bindparam("at", type_=Float)))
)
_OWNER: Final = Prepared(_OWNERS.where(credential.c.token_hash == bindparam("token_hash")))


def new_device(name: str, id: str | None, *, is_exhaustive: bool, at: float) -> Device:
    """A device as ``Devices.add`` makes it, not yet stored. ValueError for what is no id."""
    new_id = name if id is None else id
    if not _ID.fullmatch(new_id) or new_id in RESERVED_IDS:
        raise ValueError(
            f"device id {new_id!r}: use 1 to 64 letters, digits, '.', '_' and '-', with a letter "
            "or digit first; a name that is none can have an id beside it"
        )
    return Device(new_id, name, new_id, is_exhaustive, at, None, None, None, None)


def add(connection: Connection, new: Device) -> tuple[Device, str]:
    """Store a device, and return it with its token. Raises Conflict when its id is taken."""
    insert(connection, new)
    _, token = issue(connection, PrincipalKind.DEVICE, new.created_at, device_id=new.id)
    return new, token


def insert(connection: Connection, new: Device) -> None:
    """Store a device that has no token yet. Raises Conflict when its id is taken."""
    if connection.scalar(select(device.c.id).where(device.c.id == new.id)) is not None:
        raise Conflict(f"there is a device {new.id!r} already; rotate gives it a new token")
    locations.ensure(connection, [new.location_id])
    connection.execute(
        device.insert().values(
            id=new.id,
            name=new.name,
            location_id=new.location_id,
            is_exhaustive=new.is_exhaustive,
            created_at=new.created_at,
        )
    )


def _add_view(connection: Connection, row: dict[str, object], device_id: str) -> None:
    own = get(connection, device_id).location_id
    locations.ensure(connection, [str(row["location_id"])], own)
    connection.execute(
        delete(view).where(view.c.device_id == device_id, view.c.location_id == row["location_id"])
    )
    insert_new(connection, view, [row])


def _counts(connection: Connection) -> tuple[int, int]:
    query = select(func.count(), func.count(device.c.revoked_at)).select_from(device)
    total, revoked = connection.execute(query).one()
    return total, revoked


def _all(connection: Connection) -> list[Device]:
    rows = connection.execute(select(device).order_by(device.c.id)).mappings()
    return [Device(**row) for row in rows]


def rotate(connection: Connection, id: str, at: float, grace_s: float = 0.0) -> str:
    """``Devices.rotate`` within the caller's transaction."""
    lock(connection, id)
    own = update(credential).where(credential.c.device_id == id)
    connection.execute(own.where(credential.c.revoked_at > at).values(revoked_at=at))
    connection.execute(own.where(credential.c.revoked_at.is_(None)).values(revoked_at=at + grace_s))
    connection.execute(update(device).where(device.c.id == id).values(revoked_at=None))
    return issue(connection, PrincipalKind.DEVICE, at, device_id=id)[1]


def _revoke(connection: Connection, id: str, at: float) -> None:
    lock(connection, id)
    connection.execute(
        update(credential).where(credential.c.device_id == id, holds_at(at)).values(revoked_at=at)
    )
    connection.execute(update(device).where(device.c.id == id).values(revoked_at=at))
    # A code that was shown would give it another.
    is_open = (claim.c.device_id == id) & claim.c.used_at.is_(None) & (claim.c.expires_at > at)
    connection.execute(update(claim).where(is_open).values(expires_at=at))


def _authenticate(connection: Connection, token: str, at: float) -> Principal | None:
    row = _OWNER.mapping(connection, token_hash=_hash(token), at=at)
    return None if row is None else _principal(row)


def _signers(connection: Connection, device_id: str, at: float) -> list[Principal]:
    query = _OWNERS.where(credential.c.device_id == device_id)
    return [_principal(row) for row in connection.execute(query, {"at": at}).mappings()]


def _principal(row: Mapping[Any, Any]) -> Principal:
    configuration = None
    if row["version"] is not None:
        configuration = Configuration(row["version"], row["config"])
    return Principal(
        PrincipalKind(row["kind"]),
        row["device_id"],
        row["token_hash"],
        row["name"] or row["device_id"],
        Role(row["role"]) if row["role"] else None,
        configuration,
        bool(row["is_signed_only"]),
    )


def _ensure_admin_token(connection: Connection, at: float) -> str | None:
    # Several servers may start on one database.
    lock_ledger(connection)
    is_lasting = credential.c.revoked_at.is_(None)
    if connection.scalar(select(exists().where(credential.c.role == Role.ADMIN, is_lasting))):
        return None
    return issue(connection, PrincipalKind.TOKEN, at, name=FIRST_NAME, role=Role.ADMIN)[1]


def _set_admin_token(connection: Connection, token: str, at: float) -> None:
    lock_ledger(connection)
    is_this = credential.c.token_hash == _hash(token)
    is_first = (credential.c.kind == PrincipalKind.TOKEN) & (credential.c.name == FIRST_NAME)
    connection.execute(
        update(credential).where(is_first, ~is_this, holds_at(at)).values(revoked_at=at)
    )
    connection.execute(delete(credential).where(is_first, is_this))
    _keep(connection, token, PrincipalKind.TOKEN, at, name=FIRST_NAME, role=Role.ADMIN)


def issue(
    connection: Connection, kind: PrincipalKind, at: float, **columns: object
) -> tuple[str, str]:
    """Make a token, keep its hash, and return its id and itself."""
    token = f"ck_{kind}_{secrets.token_urlsafe(32)}"
    return _keep(connection, token, kind, at, **columns), token


def _keep(
    connection: Connection, token: str, kind: PrincipalKind, at: float, **columns: object
) -> str:
    new_id = secrets.token_hex(6)
    connection.execute(
        credential.insert().values(
            id=new_id, token_hash=_hash(token), kind=kind, created_at=at, **columns
        )
    )
    return new_id


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
