"""Short codes with which a new camera fetches its token, once.

A code is made of the server's secret and the claim's id, so that it can be shown again while it
is good; stored is its hash. It has 40 bits: enough for the minutes that it lives, with the tries
of each address limited; too few for anything longer.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pydantic import JsonValue
from sqlalchemy import Connection, delete, select, update

from capturekit.database import Database
from capturekit.errors import ClaimRefused, Conflict, Unknown
from capturekit.store import devices
from capturekit.store.devices import Device
from capturekit.store.schema import claim, device
from capturekit.store.server_secret import server_secret
from capturekit.times import iso

VALID_S: Final = 900.0
MAX_VALID_S: Final = 86400.0

FORGET_S: Final = 7 * 86400.0
"""A claim that ended so long ago is forgotten."""

_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O and U."""

_MISREAD: Final = str.maketrans("ILO", "110", " -")


@dataclass(frozen=True, slots=True)
class Claim:
    """An offer of a token. Times are seconds since 1970, UTC."""

    id: str
    device_id: str | None
    """Whose token it is; None for a device that is made with it."""
    created_at: float
    expires_at: float
    used_at: float | None
    claimed_id: str | None
    """The device that has the token."""

    def as_json(self) -> dict[str, JsonValue]:
        """The claim as the HTTP API and the command line show it, without its code."""
        return {
            "claim_id": self.id,
            "device_id": self.claimed_id or self.device_id,
            "created_at": iso(self.created_at),
            "expires_at": iso(self.expires_at),
            "used_at": iso(self.used_at),
        }


class Claims:
    """Offers tokens, and gives each away once."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def offer(
        self,
        device_id: str | None = None,
        *,
        name: str | None = None,
        is_exhaustive: bool = False,
        valid_s: float = VALID_S,
        must_be_new: bool = False,
    ) -> tuple[Claim, str]:
        """Offer a token, and return the claim with its code, such as ``7H2K-9MQX``.

        A device that is not there yet is made now, without a token; one that is there will lose
        the tokens that it has when the code is used. Without ``device_id`` it is for whatever
        device comes. ValueError for what cannot be an id. Where the device ``must_be_new``,
        Conflict when there is one.
        """
        if not 0 < valid_s <= MAX_VALID_S:
            raise ValueError(f"a code is good for 0 to {MAX_VALID_S:g} s, not {valid_s:g}")
        now = self._clock()
        new = None
        if device_id is not None:
            new = devices.new_device(
                name or device_id, device_id, is_exhaustive=is_exhaustive, at=now
            )
        work = partial(_offer, new=new, must_be_new=must_be_new, at=now, until=now + valid_s)
        return await self._database.write(work)

    async def get(self, id: str) -> Claim:
        """The claim; raises Unknown."""
        return await self._database.read(partial(_get, id=id))

    async def code(self, id: str) -> str:
        """The claim's code, while it is good. Raises Unknown, and Conflict later."""
        return await self._database.write(partial(_code_again, id=id, at=self._clock()))

    async def use(self, code: str, name: str | None = None) -> tuple[Device, str]:
        """Take the token that the code was made for; nobody else can then.

        ``name`` names a device that is made with it, and is its id. Raises ClaimRefused whether
        the code is wrong, used or too old. Raises Conflict when there is a device of that name:
        the code is good for another.
        """
        made = devices.new_device(
            name or f"cam-{secrets.token_hex(4)}", None, is_exhaustive=False, at=self._clock()
        )
        return await self._database.write(
            partial(_use, hashed=_hashed(code), made=made, at=self._clock())
        )


def _offer(
    connection: Connection, new: Device | None, at: float, until: float, *, must_be_new: bool
) -> tuple[Claim, str]:
    connection.execute(delete(claim).where(claim.c.expires_at < at - FORGET_S))
    if new is not None and (must_be_new or not _is_known(connection, new.id)):
        devices.insert(connection, new)
    secret = server_secret(connection)
    new_id = secrets.token_hex(8)
    while _is_taken(connection, _hashed(_code(secret, new_id))):
        new_id = secrets.token_hex(8)
    code = _code(secret, new_id)
    made = Claim(new_id, None if new is None else new.id, at, until, None, None)
    values = {name: getattr(made, name) for name in Claim.__dataclass_fields__}
    connection.execute(claim.insert().values(code_hash=_hashed(code), **values))
    return made, code


def _is_known(connection: Connection, device_id: str) -> bool:
    return connection.scalar(select(device.c.id).where(device.c.id == device_id)) is not None


def _is_taken(connection: Connection, hashed: str) -> bool:
    return connection.scalar(select(claim.c.id).where(claim.c.code_hash == hashed)) is not None


def _get(connection: Connection, id: str) -> Claim:
    columns = (claim.c[name] for name in Claim.__dataclass_fields__)
    row = connection.execute(select(*columns).where(claim.c.id == id)).one_or_none()
    if row is None:
        raise Unknown("claim", id)
    return Claim(*row)


def _code_again(connection: Connection, id: str, at: float) -> str:
    found = _get(connection, id)
    if found.used_at is not None or found.expires_at <= at:
        raise Conflict("the code was used or has expired; make another claim")
    return _code(server_secret(connection), id)


def _use(connection: Connection, hashed: str, made: Device, at: float) -> tuple[Device, str]:
    # Two at once: on Postgres the second waits for the first and then finds nothing.
    taken = connection.execute(
        update(claim)
        .where(claim.c.code_hash == hashed, claim.c.used_at.is_(None), claim.c.expires_at > at)
        .values(used_at=at)
        .returning(claim.c.id, claim.c.device_id)
    ).one_or_none()
    if taken is None:
        raise ClaimRefused("the code is wrong, was used or has expired")
    if taken.device_id is None:
        owner, token = devices.add(connection, made)
    else:
        token = devices.rotate(connection, taken.device_id, at)
        owner = devices.get(connection, taken.device_id)
    connection.execute(update(claim).where(claim.c.id == taken.id).values(claimed_id=owner.id))
    return owner, token


def _code(secret: bytes, id: str) -> str:
    digest = hmac.digest(secret, f"claim:{id}".encode(), hashlib.sha256)
    bits = int.from_bytes(digest[:5])
    letters = "".join(_LETTERS[bits >> shift & 31] for shift in range(35, -1, -5))
    return f"{letters[:4]}-{letters[4:]}"


def _hashed(code: str) -> str:
    """Of the code as it was meant: in capitals, without what sets it apart."""
    meant = code.upper().translate(_MISREAD)
    return hashlib.sha256(meant.encode()).hexdigest()
