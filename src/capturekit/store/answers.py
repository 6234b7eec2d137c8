"""Answers to requests that name themselves, kept so that one sent again is not done again."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, Connection, Delete, Update, delete, select, update

from capturekit.database import Database
from capturekit.store.schema import insert_new, kept_answer

KEPT_S: Final = 86400.0
"""How long an answer is kept; then its key is as good as new."""

LEASE_S: Final = 300.0
"""After which a request without an answer is taken to have died with its server."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is to do what a request asks for."""

    id: str
    word: str
    is_mine: bool
    """Whether to do it now, and to ``keep`` the answer or to ``forget`` the turn."""
    is_same: bool
    """Whether this is the request that the key was first used for."""
    sealed: str | None
    """The answer, if there is one already."""


class Answers:
    """Gives each key to one request at a time, over all processes of the database."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, id: str, request_digest: str) -> Turn:
        """The turn of the request ``request_digest`` under the key ``id``."""
        word = secrets.token_hex(16)
        work = partial(_begin, id=id, digest=request_digest, word=word, now=self._clock())
        return await self._database.write(work)

    async def keep(self, turn: Turn, sealed: str) -> None:
        """Keep the answer, unless another took the turn meanwhile."""
        query = update(kept_answer).where(*_of(turn)).values(sealed=sealed)
        await self._database.write(partial(_execute, query=query))

    async def forget(self, turn: Turn) -> None:
        """Give the turn back: nothing was done."""
        query = delete(kept_answer).where(*_of(turn))
        await self._database.write(partial(_execute, query=query))


def _execute(connection: Connection, query: Update | Delete) -> None:
    connection.execute(query)


def _of(turn: Turn) -> tuple[ColumnElement[bool], ...]:
    return (kept_answer.c.id == turn.id, kept_answer.c.turn == turn.word)


def _begin(connection: Connection, id: str, digest: str, word: str, now: float) -> Turn:
    connection.execute(delete(kept_answer).where(kept_answer.c.begun_at < now - KEPT_S))
    mine = {"id": id, "request_digest": digest, "turn": word, "begun_at": now}
    insert_new(connection, kept_answer, [mine])
    row = connection.execute(select(kept_answer).where(kept_answer.c.id == id)).one()
    is_same = row.request_digest == digest
    is_mine: bool = row.turn == word
    if not is_mine and is_same and row.sealed is None and row.begun_at < now - LEASE_S:
        # The word before in the condition: of two that wait for a dead one, one gets it.
        before = (kept_answer.c.id == id) & (kept_answer.c.turn == row.turn)
        taken = connection.execute(
            update(kept_answer).where(before).values(turn=word, begun_at=now)
        )
        is_mine = taken.rowcount == 1
    return Turn(id, word, is_mine, is_same, row.sealed)
