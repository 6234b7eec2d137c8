"""Words that a device signs with its request, so that nobody can send the request again later.

A server makes one of the time, a random number and a secret, and keeps nothing; it needs no clock
of the device's. A word that was used is remembered, for all servers, until it would have ended.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select

from capturekit.database import Database
from capturekit.database.prepared import Prepared
from capturekit.store.schema import insert_new, used_nonce
from capturekit.store.server_secret import server_secret

VALID_S: Final = 300.0

_TIME_BYTES: Final = 6
_BODY_BYTES: Final = 12
_PROOF_BYTES: Final = 12


class Nonces:
    """Makes nonces and remembers those that were used."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._key: bytes | None = None

    async def issue(self) -> str:
        """A new one, good for ``VALID_S`` seconds, in 32 letters."""
        milliseconds = int(self._clock() * 1000)
        body = milliseconds.to_bytes(_TIME_BYTES) + secrets.token_bytes(_BODY_BYTES - _TIME_BYTES)
        return base64.urlsafe_b64encode(body + await self._proof(body)).decode()

    async def is_good(self, nonce: str) -> bool:
        """Whether a server of this database made it, within ``VALID_S`` seconds."""
        try:
            content = base64.b64decode(nonce, altchars=b"-_", validate=True)
        except ValueError:
            return False
        body, proof = content[:_BODY_BYTES], content[_BODY_BYTES:]
        if not hmac.compare_digest(proof, await self._proof(body)):
            return False
        age_s = self._clock() - int.from_bytes(body[:_TIME_BYTES]) / 1000
        # Another server's clock may be a little ahead.
        return -VALID_S <= age_s < VALID_S

    async def spend(self, nonce: str, signature: bytes) -> bool:
        """Let this signature have the nonce; False when another has it.

        The same signature may have it again: it is the same request, whose answer was lost.
        """
        work = partial(
            _spend, nonce=nonce, signature=signature.hex(), until=self._clock() + 2 * VALID_S
        )
        # A power cut may forget it: then the request could be sent again, to the same effect.
        return await self._database.write(work, is_synced=False)

    async def prune(self) -> int:
        """Forget those that would be refused by now anyhow; returns how many."""
        gone = delete(used_nonce).where(used_nonce.c.expires_at < self._clock())
        return await self._database.write(
            lambda connection: connection.execute(gone).rowcount, is_synced=False
        )

    async def _proof(self, body: bytes) -> bytes:
        if self._key is None:
            secret = await self._database.write(server_secret)
            self._key = hmac.digest(secret, b"nonce", hashlib.sha256)
        return hmac.digest(self._key, body, hashlib.sha256)[:_PROOF_BYTES]


_OWNER: Final = Prepared(
    select(used_nonce.c.signature).where(used_nonce.c.nonce == bindparam("wanted"))
)


def _spend(connection: Connection, nonce: str, signature: str, until: float) -> bool:
    row = {"nonce": nonce, "signature": signature, "expires_at": until}
    insert_new(connection, used_nonce, [row])
    owner: str | None = _OWNER.scalar(connection, wanted=nonce)
    return owner == signature
