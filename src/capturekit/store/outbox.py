"""Events, written in the transaction of what they tell: there is none without the other.

Their numbers grow in the order of commits, because whoever writes one holds the ledger's lock.
So a reader that remembers the last number it saw misses nothing.
"""

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from typing import Final, TypeVar

import anyio
from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, Row, delete, func, literal, select

from capturekit.database import Database
from capturekit.store.changes import Cause, StockChange
from capturekit.store.schema import event, outlet, webhook
from capturekit.times import iso

T = TypeVar("T")

KINDS: Final = (
    "stock.changed",
    "stock.low",
    "stock.restocked",
    "stock.unwatched",
    "stock.below_zero",
    "movement.recorded",
    "movement.voided",
    "capture.completed",
    "capture.failed",
    "proposal.opened",
    "webhook.disabled",
)
"""What happens, by name. Another version may tell of more."""

NOTICE_S: Final = 0.25
"""Seconds after which events of another process are noticed, at the latest."""

LOOKED_THROUGH: Final = 5000
"""Events at most among which some kinds are looked for at once."""

PRUNED_AT_ONCE: Final = 5000
"""Events removed by one transaction."""

DAY_S: Final = 86400.0

HEARD_OF_S: Final = 300.0
"""Seconds after which an outlet that no process holds is not waited for by the lag."""

_TOLD: Final = "capturekit.outbox"
"""Marks a connection whose work wrote an event."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    seq: int
    """Grows from event to event; not every number is taken."""
    id: str
    """The same however often the event is told."""
    kind: str
    """One of ``KINDS``."""
    item_id: str | None
    data: dict[str, JsonValue]
    at: float
    """When it was recorded, in seconds since 1970, UTC."""

    def envelope(self) -> dict[str, JsonValue]:
        """The event as it is told to others."""
        return {
            "id": self.id,
            "kind": self.kind,
            "at": iso(self.at),
            "seq": self.seq,
            "data": self.data,
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events in order."""

    events: tuple[Event, ...]
    upto: int
    """Whoever has these has all up to this number."""


class Noticing(Database):
    """An opened database that wakes an outbox's readers when a write told events."""

    def __init__(self, database: Database, ring: Callable[[], None]) -> None:
        # It opens and closes nothing: the other one does.
        self._database, self._ring = database, ring

    async def write(self, work: Callable[[Connection], T], *, is_synced: bool = True) -> T:
        """As ``Database.write``."""
        answer, has_told = await self._database.write(partial(_noticed, work), is_synced=is_synced)
        if has_told:
            self._ring()
        return answer

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As ``Database.read``."""
        return await self._database.read(work)


def _noticed(work: Callable[[Connection], T], connection: Connection) -> tuple[T, bool]:
    connection.info[_TOLD] = False
    answer = work(connection)
    return answer, bool(connection.info.pop(_TOLD, False))


class Outbox:
    """Reads what was told, and wakes those who wait for more."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._rung: anyio.Event | None = None
        self._looking: anyio.Lock | None = None
        self._newest = 0
        self._looked_at = -math.inf

    async def after(self, seq: int, limit: int = 100, *, kinds: Sequence[str] = ()) -> Batch:
        """Up to ``limit`` events past this number, in order; of these kinds, where some are given.

        Give its ``upto`` the next time. There may be more while ``upto`` grows, also when none of
        the kinds were among those looked through.
        """
        work = partial(after, seq=seq, limit=limit, kinds=tuple(kinds))
        return await self._database.read(work)

    async def newest(self) -> int:
        """The number of the newest event; 0 when there is none."""
        return await self._database.read(newest)

    async def oldest(self) -> int | None:
        """The number of the oldest event that was not pruned; None when there is none."""
        return await self._database.read(_oldest)

    async def before(self, at: float) -> int:
        """The number after which the events since this time begin, in seconds since 1970."""
        return await self._database.read(partial(before, at=at))

    async def lag_s(self) -> float:
        """Seconds since the oldest event that an outlet at work has not told; 0 when all are."""
        return await self._database.read(partial(_lag_s, now=self._clock()))

    async def wait(self, seq: int, timeout_s: float) -> bool:
        """Until there is an event past this number; False when there was none in time.

        Those who wait share one look at the database in ``NOTICE_S``.
        """
        ends_at = anyio.current_time() + timeout_s
        while True:
            rung = self._bell()
            if await self._look() > seq:
                return True
            left_s = ends_at - anyio.current_time()
            if left_s <= 0:
                return False
            with anyio.move_on_after(min(left_s, NOTICE_S)):
                await rung.wait()

    def ring(self) -> None:
        """Wake those who wait. Call it in the event loop's thread, after the commit."""
        self._looked_at = -math.inf
        if self._rung is not None:
            self._rung.set()
            self._rung = None

    async def prune(self, older_than_s: float) -> int:
        """Forget old events, but none that an outlet at work has not told; how many.

        The newest stays: its number must not be given again.
        """
        pruned = 0
        while True:
            work = partial(_prune, now=self._clock(), older_than_s=older_than_s)
            gone = await self._database.write(work, is_synced=False)
            pruned += gone
            if gone < PRUNED_AT_ONCE:
                return pruned

    def _bell(self) -> anyio.Event:
        if self._rung is None:
            self._rung = anyio.Event()
        return self._rung

    async def _look(self) -> int:
        """The newest number, asked for when the last answer is too old."""
        if self._looking is None:
            self._looking = anyio.Lock()
        async with self._looking:
            now = anyio.current_time()
            # A little earlier than the wait ends, or every second one would find it too young.
            if now - self._looked_at >= 0.9 * NOTICE_S:
                self._looked_at = now
                self._newest = await self.newest()
            return self._newest


def tell(
    connection: Connection,
    kind: str,
    payload: dict[str, JsonValue],
    at: float,
    *,
    item_id: str | None = None,
    name: str | None = None,
) -> None:
    """Write an event, such as ``stock.changed``. The transaction must hold the ledger's lock.

    Of a ``name`` it is written once, however often it is told.
    """
    row = _row(kind, payload, at, item_id)
    if name is not None:
        row["id"] = f"evt_{hashlib.sha256(f'{kind} {name}'.encode()).hexdigest()[:24]}"
        if connection.scalar(select(event.c.seq).where(event.c.id == row["id"])) is not None:
            return
    _insert(connection, [row])


def tell_changes(connection: Connection, changes: Sequence[StockChange], cause: Cause) -> None:
    """Write an event ``stock.changed`` for each key whose quantity changed."""
    if not changes:
        return
    why: dict[str, JsonValue] = {"kind": cause.kind, "id": cause.id}
    _insert(
        connection,
        [
            _row("stock.changed", {**asdict(one), "cause": why}, cause.at, one.item_id)
            for one in changes
        ],
    )


def after(connection: Connection, seq: int, limit: int, kinds: tuple[str, ...]) -> Batch:
    """``Outbox.after`` within the caller's transaction."""
    query = select(event).where(event.c.seq > seq).order_by(event.c.seq).limit(limit)
    upto = seq
    if kinds:
        # Within bounds: whoever wants what is rare would read the whole table at once.
        looked = select(event.c.seq).where(event.c.seq > seq).order_by(event.c.seq)
        last = select(func.max(looked.limit(LOOKED_THROUGH).subquery().c.seq))
        upto = connection.scalar(last) or seq
        query = query.where(event.c.kind.in_(kinds), event.c.seq <= upto)
    found = tuple(_event(row) for row in connection.execute(query))
    if found and (not kinds or len(found) == limit):
        upto = found[-1].seq
    return Batch(found, upto)


def newest(connection: Connection) -> int:
    """The number of the newest event; 0 when there is none."""
    return connection.scalar(select(func.max(event.c.seq))) or 0


def before(connection: Connection, at: float) -> int:
    """The number after which the events since this time begin."""
    first = (
        select(event.c.seq)
        .where(event.c.recorded_at >= at)
        .order_by(event.c.recorded_at, event.c.seq)
        .limit(1)
    )
    found = connection.scalar(first)
    return newest(connection) if found is None else found - 1


def shared_time(connection: Connection, at: float) -> ColumnElement[float]:
    """One clock for all who share the database: Postgres's own, else what ``at`` says."""
    if connection.dialect.name == "postgresql":
        return func.date_part("epoch", func.clock_timestamp())
    return literal(at)


def _oldest(connection: Connection) -> int | None:
    found: int | None = connection.scalar(select(func.min(event.c.seq)))
    return found


def _prune(connection: Connection, now: float, older_than_s: float) -> int:
    oldest = select(event.c.seq, event.c.recorded_at).order_by(event.c.seq).limit(PRUNED_AT_ONCE)
    # A clock that was far ahead must not keep what it wrote, and all after it, for years.
    old = [
        row.seq
        for row in takewhile(
            lambda row: not now - older_than_s <= row.recorded_at <= now + DAY_S,
            connection.execute(oldest).all(),
        )
    ]
    told = _told_by_all(connection, now, older_than_s)
    last = min(old[-1] if old else 0, newest(connection) - 1 if told is None else told)
    last = min(last, newest(connection) - 1)
    return connection.execute(delete(event).where(event.c.seq <= last)).rowcount


def _lag_s(connection: Connection, now: float) -> float:
    told = _told_by_all(connection, now, HEARD_OF_S)
    if told is None:
        return 0.0
    untold = select(event.c.recorded_at).where(event.c.seq > told).order_by(event.c.seq).limit(1)
    oldest = connection.scalar(untold)
    return 0.0 if oldest is None else max(0.0, now - oldest)


def _told_by_all(connection: Connection, now: float, older_than_s: float) -> int | None:
    """The number up to which all outlets told, but for those disabled or abandoned."""
    abandoned_before = shared_time(connection, now) - older_than_s
    at_work = (
        select(func.min(outlet.c.cursor))
        .outerjoin(webhook, webhook.c.id == outlet.c.id)
        .where(webhook.c.disabled_at.is_(None))
        .where(webhook.c.id.is_not(None) | (outlet.c.held_until > abandoned_before))
    )
    found: int | None = connection.scalar(at_work)
    return found


def _event(row: Row[tuple[object, ...]]) -> Event:
    return Event(row.seq, row.id, row.kind, row.item_id, row.payload, row.recorded_at)


def _insert(connection: Connection, rows: list[dict[str, object]]) -> None:
    connection.info[_TOLD] = True
    connection.execute(event.insert(), rows)


def _row(
    kind: str, payload: dict[str, JsonValue], at: float, item_id: str | None
) -> dict[str, object]:
    return {
        "id": f"evt_{secrets.token_hex(12)}",
        "kind": kind,
        "item_id": item_id,
        "payload": payload,
        "recorded_at": at,
    }
