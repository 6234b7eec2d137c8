"""Uploads and their records: taken once, processed under a fence, finished with effect once.

A capture's life belongs here, its job's life to the queue. ``(series, attempt)`` is the fence
between them: it only grows, and an answer under another pair than the present one is lost.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeAlias

from pydantic import JsonValue
from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    or_,
    select,
    tuple_,
    update,
)

from capturekit.database import Database
from capturekit.database.prepared import Prepared
from capturekit.errors import Conflict, LeaseLost, NotAuthorized, Unknown
from capturekit.store import devices, reprocessing, runs, telling
from capturekit.store.blob_records import require_kept
from capturekit.store.changes import Cause, Rehearsed, StockChange
from capturekit.store.devices import Principal, PrincipalKind
from capturekit.store.page import Page
from capturekit.store.reprocessing import Candidate, Selection
from capturekit.store.runs import Run, RunRecord
from capturekit.store.schema import capture, device, lock_ledger

MAX_CLOCK_AHEAD_S: Final = 300.0
"""A device's clock may be this far ahead. One that is years ahead would win over every later
picture, so a time beyond that is replaced by the time of arrival."""


class CaptureState(StrEnum):
    """Where a capture is in its life."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NewCapture:
    """An upload whose bytes are stored already."""

    device_id: str
    key: str
    """The device's name for it. A second upload under it is the same capture."""
    sha256: str
    size_bytes: int
    media_type: str
    width: int
    height: int
    flags: tuple[str, ...] = ()
    captured_at: float | None = None
    """When it was taken, in seconds since 1970, UTC; None when the device does not know."""
    trigger_type: str | None = None
    battery_v: float | None = None
    rssi: int | None = None
    metadata: dict[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Capture:
    """An upload's record. Times are seconds since 1970, UTC."""

    id: str
    device_id: str
    key: str
    sha256: str
    size_bytes: int
    media_type: str
    width: int
    height: int
    flags: tuple[str, ...]
    """Those of the picture, and ``clock_ahead`` when its time was not believed."""
    captured_at: float
    received_at: float
    trigger_type: str | None
    battery_v: float | None
    rssi: int | None
    metadata: dict[str, JsonValue]
    state: CaptureState
    series: int
    """Counts the jobs that were made for it."""
    attempt: int
    """Of the job of this series; 0 before the first."""
    current_run_id: str | None
    """The run whose observations hold."""
    error: dict[str, JsonValue] | None
    """Why it failed: at least ``type`` and ``message``."""
    thumbnail_sha256: str | None
    picture_removed_at: float | None = None
    """When retention removed its pictures; what was seen on them stays."""


Enqueue: TypeAlias = Callable[[Connection, Capture], None]
"""Submits the capture's job within the transaction that records the capture."""


class Captures:
    """Records uploads and what became of them."""

    def __init__(self, database: Database, clock: Callable[[], float], threshold: float) -> None:
        self._database = database
        self._clock = clock
        self._threshold = threshold

    async def record(
        self, new: NewCapture, enqueue: Enqueue, *, by: Principal | None = None
    ) -> tuple[Capture, bool]:
        """Keep the upload and its job together; True beside it when it was kept before.

        A second upload under the same (device, key) answers with the first capture, whatever
        its bytes, and makes no job. Raises Unknown for the device, NotAuthorized when
        it or the token of ``by`` is revoked, or ``by`` is another device, and BlobDoomed.
        """
        work = partial(_record, new=new, enqueue=enqueue, by=by, at=self._clock())
        return await self._database.write(work)

    async def get(self, id: str) -> Capture:
        """The capture; raises Unknown."""
        return await self._database.read(partial(get, id=id))

    async def list(
        self,
        *,
        state: CaptureState | None = None,
        device_id: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Capture]:
        """Captures, newest received first; ``cursor`` is the ``next`` of the page before."""
        query = select(capture).order_by(capture.c.id.desc())
        if state is not None:
            query = query.where(capture.c.state == state)
        if device_id is not None:
            query = query.where(capture.c.device_id == device_id)
        if cursor is not None:
            query = query.where(capture.c.id < cursor)
        return await self._database.read(partial(_page, query=query, limit=limit))

    async def counts(self) -> dict[CaptureState, int]:
        """Number of captures in every state."""
        return await self._database.read(_counts)

    async def due(self, limit: int = 1000, *, after: str | None = None) -> Sequence[Capture]:
        """Captures that wait or are being processed, oldest first: each should have a job.

        ``after`` is the id of the last capture of the page before.
        """
        return await self._database.read(partial(_due, limit=limit, after=after))

    async def current_run(self, id: str) -> Run | None:
        """What the run that speaks for the capture said; None before the first. Raises Unknown."""
        return await self._database.read(partial(_current_run, id=id))

    async def run_before(self, of: Capture, fingerprint: str) -> tuple[Capture, Run] | None:
        """The device's newest picture taken before this one, if this pipeline's run holds."""
        return await self._database.read(partial(_run_before, of=of, fingerprint=fingerprint))

    async def start(self, id: str, series: int, attempt: int) -> Capture:
        """Begin to process it. Raises Unknown, and LeaseLost unless (series, attempt) grows."""
        return await self._database.write(partial(_start, id=id, series=series, attempt=attempt))

    async def finish(
        self, id: str, series: int, attempt: int, record: RunRecord
    ) -> Sequence[StockChange]:
        """Keep the run, let it speak for the capture, and tell what changed in stock.

        A run of that fingerprint that is known already is used again, so that finishing
        twice counts once. Raises Unknown, and LeaseLost when the capture was given to
        another attempt, released or finished: then nothing is kept. Raises BlobDoomed when
        the thumbnail is to be put again.
        """
        work = partial(
            _finish,
            id=id,
            fence=(series, attempt),
            record=record,
            threshold=self._threshold,
            at=self._clock(),
        )
        return await self._database.write(work)

    async def newest_received_at(self) -> float | None:
        """When the last one came, in seconds since 1970; None when there is none."""
        return await self._database.read(_newest_received_at)

    async def rehearse(self, records: Mapping[str, RunRecord]) -> Sequence[StockChange]:
        """What stock would be if these runs were kept, each for the capture named; undoes it all.

        A run of that fingerprint that is known already speaks in place of the one given. Raises
        Unknown.
        """
        work = partial(_rehearse, records=records, threshold=self._threshold, at=self._clock())
        try:
            return await self._database.write(work)
        except Rehearsed as done:
            return done.changes

    async def has_run(self, id: str, fingerprint: str) -> bool:
        """Whether the pipeline of this fingerprint has a run of the capture."""
        return await self._database.read(partial(runs.has, capture_id=id, fingerprint=fingerprint))

    async def to_reprocess(
        self, fingerprint: str, which: Selection, *, after: str = "", limit: int = 500
    ) -> Sequence[Candidate]:
        """Captures, oldest received first, and whether this pipeline's run of each is known.

        ``after`` is the id of the last one of the page before.
        """
        work = partial(
            reprocessing.candidates, fingerprint=fingerprint, which=which, after=after, limit=limit
        )
        return await self._database.read(work)

    async def fail(
        self, id: str, series: int, attempt: int, error: Mapping[str, JsonValue]
    ) -> None:
        """It cannot be processed; its earlier run, if any, holds on. Raises as ``finish``.

        Also of a capture that was never started, because its job never came that far.
        """
        await self._database.write(
            partial(_fail, id=id, fence=(series, attempt), error=error, at=self._clock())
        )

    async def release(self, id: str, series: int, attempt: int) -> None:
        """Put it back unprocessed, so that a late answer has no effect. Raises as ``finish``."""
        state = CaptureState.PENDING
        await self._database.write(
            partial(_leave, id=id, fence=(series, attempt), state=state, error=None)
        )

    async def next_series(self, id: str) -> Capture:
        """Make ready for a new job: pending, in a series of its own.

        What still runs for an earlier series loses its lease. Raises Unknown, and Conflict when
        its picture was removed.
        """
        return await self._database.write(partial(next_series, id=id))


def get(connection: Connection, id: str) -> Capture:
    """The capture; raises Unknown."""
    row = _CAPTURE.mapping(connection, wanted=id)
    if row is None:
        raise Unknown("capture", id)
    return _capture(row)


_CAPTURE: Final = Prepared(select(capture).where(capture.c.id == bindparam("wanted")))


def _newest_received_at(connection: Connection) -> float | None:
    # Ids begin with the time of arrival.
    newest = select(capture.c.received_at).order_by(capture.c.id.desc()).limit(1)
    found: float | None = connection.scalar(newest)
    return found


def next_series(connection: Connection, id: str) -> Capture:
    """``Captures.next_series`` within the caller's transaction."""
    # As retention does, which must not remove what is to be processed.
    lock_ledger(connection)
    if get(connection, id).picture_removed_at is not None:
        raise Conflict(
            f"the picture of capture {id} was removed by retention: it cannot be processed again"
        )
    connection.execute(
        update(capture)
        .where(capture.c.id == id)
        .values(series=capture.c.series + 1, attempt=0, state=CaptureState.PENDING, error=None)
    )
    return get(connection, id)


def _capture(row: Mapping[str, Any]) -> Capture:
    values = dict(row)
    values["flags"] = tuple(row["flags"])
    values["state"] = CaptureState(row["state"])
    return Capture(**values)


_KNOWN: Final = Prepared(
    select(capture.c.id).where(
        capture.c.device_id == bindparam("device"), capture.c.key == bindparam("key")
    )
)
_TOUCH: Final = Prepared(
    update(device)
    .where(device.c.id == bindparam("device"))
    .values(
        last_seen_at=bindparam("at"),
        battery_v=func.coalesce(bindparam("told_battery_v", type_=Float), device.c.battery_v),
        rssi=func.coalesce(bindparam("told_rssi", type_=Integer), device.c.rssi),
    )
)
_INSERT: Final = Prepared(
    capture.insert().values({column: bindparam(column.name) for column in capture.c})
)


def _record(
    connection: Connection, new: NewCapture, enqueue: Enqueue, by: Principal | None, at: float
) -> tuple[Capture, bool]:
    _authorize(connection, new.device_id, by, at)
    _touch(connection, new, at)
    known: str | None = _KNOWN.scalar(connection, device=new.device_id, key=new.key)
    if known is not None:
        return get(connection, known), True
    require_kept(connection, new.sha256)
    recorded = _received(new, at)
    values = {field.name: getattr(recorded, field.name) for field in fields(recorded)}
    _INSERT.count(connection, **values | {"flags": list(recorded.flags)})
    enqueue(connection, recorded)
    return recorded, False


def _authorize(connection: Connection, device_id: str, by: Principal | None, at: float) -> None:
    if devices.get(connection, device_id).is_revoked:
        raise NotAuthorized(f"device {device_id!r} is revoked")
    if by is None:
        return
    is_other = by.kind is PrincipalKind.DEVICE and by.device_id != device_id
    if is_other or not devices.is_valid(connection, by, at):
        raise NotAuthorized(f"this token does not hold for device {device_id!r}")


def _touch(connection: Connection, new: NewCapture, at: float) -> None:
    told = {"at": at, "told_battery_v": new.battery_v, "told_rssi": new.rssi}
    _TOUCH.count(connection, device=new.device_id, **told)


def _received(new: NewCapture, at: float) -> Capture:
    captured_at = at if new.captured_at is None else new.captured_at
    is_ahead = captured_at > at + MAX_CLOCK_AHEAD_S
    told = {field.name: getattr(new, field.name) for field in fields(new)}
    return Capture(
        **told
        | {
            "id": _new_id(at),
            "flags": (*new.flags, "clock_ahead") if is_ahead else new.flags,
            "captured_at": at if is_ahead else captured_at,
            "received_at": at,
            "metadata": new.metadata or {},
        },
        state=CaptureState.PENDING,
        series=0,
        attempt=0,
        current_run_id=None,
        error=None,
        thumbnail_sha256=None,
    )


def _new_id(at: float) -> str:
    """Sorts by time of arrival, to the millisecond until the year 10889."""
    return f"{max(0, int(at * 1000)):012x}{secrets.token_hex(5)}"


def _page(connection: Connection, query: Select[tuple[object, ...]], limit: int) -> Page[Capture]:
    found = [_capture({**row}) for row in connection.execute(query.limit(limit + 1)).mappings()]
    return Page(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)


def _counts(connection: Connection) -> dict[CaptureState, int]:
    query = select(capture.c.state, func.count()).group_by(capture.c.state)
    found = [(CaptureState(state), count) for state, count in connection.execute(query)]
    return dict.fromkeys(CaptureState, 0) | dict(found)


def _current_run(connection: Connection, id: str) -> Run | None:
    run_id = get(connection, id).current_run_id
    return None if run_id is None else runs.get(connection, run_id)


def _run_before(
    connection: Connection, of: Capture, fingerprint: str
) -> tuple[Capture, Run] | None:
    newest = (
        select(capture.c.id)
        .where(capture.c.device_id == of.device_id, capture.c.captured_at < of.captured_at)
        .where(capture.c.current_run_id.is_not(None))
        .order_by(capture.c.captured_at.desc(), capture.c.key.desc())
        .limit(1)
    )
    before = connection.scalar(newest)
    run = None if before is None else _current_run(connection, before)
    if run is None or run.fingerprint != fingerprint:
        return None
    return get(connection, run.capture_id), run


def _due(connection: Connection, limit: int, after: str | None) -> list[Capture]:
    states = (CaptureState.PENDING, CaptureState.PROCESSING)
    query = select(capture).where(capture.c.state.in_(states)).order_by(capture.c.id).limit(limit)
    if after is not None:
        query = query.where(capture.c.id > after)
    return [_capture({**row}) for row in connection.execute(query).mappings()]


def _start(connection: Connection, id: str, series: int, attempt: int) -> Capture:
    get(connection, id)
    if not _START.count(connection, wanted=id, to_series=series, to_attempt=attempt):
        raise LeaseLost(f"capture {id}: attempt {attempt} of series {series} comes too late")
    return get(connection, id)


_START: Final = Prepared(
    update(capture)
    .where(
        capture.c.id == bindparam("wanted"),
        tuple_(capture.c.series, capture.c.attempt)
        < tuple_(bindparam("to_series", type_=Integer), bindparam("to_attempt", type_=Integer)),
    )
    .values(
        series=bindparam("to_series", type_=Integer),
        attempt=bindparam("to_attempt", type_=Integer),
        state=CaptureState.PROCESSING,
    )
)


def _finish(
    connection: Connection,
    id: str,
    fence: tuple[int, int],
    record: RunRecord,
    threshold: float,
    at: float,
) -> list[StockChange]:
    lock_ledger(connection)
    require_kept(connection, record.thumbnail)
    _leave(connection, id, fence, CaptureState.COMPLETED, None)
    run_id = runs.record(connection, id, record, threshold)
    changes = runs.choose(connection, id, run_id, Cause("run", run_id, at))
    telling.tell_completed(connection, id, at)
    return changes


def _rehearse(
    connection: Connection, records: Mapping[str, RunRecord], threshold: float, at: float
) -> list[StockChange]:
    lock_ledger(connection)
    changes: list[StockChange] = []
    for id, record in records.items():  # noqa: A001 - as everywhere here
        get(connection, id)
        run_id = runs.record(connection, id, record, threshold)
        changes += runs.choose(connection, id, run_id, Cause("run", run_id, at))
    raise Rehearsed(changes)


def _fail(
    connection: Connection,
    id: str,
    fence: tuple[int, int],
    error: Mapping[str, JsonValue],
    at: float,
) -> None:
    lock_ledger(connection)
    _leave(connection, id, fence, CaptureState.FAILED, error)
    telling.tell_failed(connection, id, at)


def _leave(
    connection: Connection,
    id: str,
    fence: tuple[int, int],
    state: CaptureState,
    error: Mapping[str, JsonValue] | None,
) -> None:
    """End this attempt's hold on the capture."""
    get(connection, id)
    series, attempt = fence
    left = _LEAVE_FAILED if state is CaptureState.FAILED else _LEAVE
    told = {"to_state": state, "to_error": error and dict(error)}
    if not left.count(connection, wanted=id, of_series=series, of_attempt=attempt, **told):
        raise LeaseLost(f"capture {id} is not held by attempt {attempt} of series {series}")


def _leaving(is_held: ColumnElement[bool]) -> Prepared:
    return Prepared(
        update(capture)
        .where(
            capture.c.id == bindparam("wanted"),
            is_held,
            capture.c.series == bindparam("of_series"),
            capture.c.attempt == bindparam("of_attempt"),
        )
        .values(
            state=bindparam("to_state"), error=bindparam("to_error", type_=capture.c.error.type)
        )
    )


_LEAVE: Final = _leaving(capture.c.state == CaptureState.PROCESSING)
_LEAVE_FAILED: Final = _leaving(
    or_(
        capture.c.state == CaptureState.PROCESSING,
        # Its job never came as far as to start it.
        and_(capture.c.state == CaptureState.PENDING, capture.c.attempt == 0),
    )
)
