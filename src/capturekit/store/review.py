"""What runs saw but what does not count yet, and what people decided about it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import JsonValue
from sqlalchemy import Connection, Row, RowMapping, Select, delete, select

from capturekit.errors import Conflict, Unknown
from capturekit.store import carrying, items, plausible
from capturekit.store.changes import Cause, Key, StockChange
from capturekit.store.fold import KEYS_AT_ONCE, index_captures, keys_seen, refold
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import (
    MAX_QUANTITY,
    capture,
    item,
    live_count,
    observation,
    run,
    verdict,
)
from capturekit.times import iso


class WaitsFor(StrEnum):
    """Why a proposal needs a person."""

    CONFIDENCE = "confidence"
    """The analyser was less sure than the policy asks."""
    QUANTITY = "quantity"
    """More than anyone has of anything."""
    STEP = "step"
    """Too far from the counts before it."""
    COUNTER = "counter went back"
    """Less than the counts before it, of what only ever grows."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An observation without effect until a person accepts it."""

    observation_id: int
    capture_id: str
    device_id: str
    captured_at: float
    analyser: str
    item_id: str
    name: str
    code: str | None
    location_id: str
    quantity: int
    confidence: float
    box: JsonValue
    """A polygon in pixels of the upright picture."""
    waits_for: WaitsFor
    has_thumbnail: bool

    def as_json(self) -> dict[str, JsonValue]:
        """The proposal as the HTTP API and the command line show it."""
        thumbnail = f"/v1/captures/{self.capture_id}/thumbnail" if self.has_thumbnail else None
        return {
            "observation_id": self.observation_id,
            "capture_id": self.capture_id,
            "device_id": self.device_id,
            "captured_at": iso(self.captured_at),
            "analyser": self.analyser,
            "item_id": self.item_id,
            "name": self.name,
            "code": self.code,
            "location": self.location_id,
            "quantity": self.quantity,
            "confidence": self.confidence,
            "waits_for": self.waits_for,
            "box": self.box,
            "thumbnail": thumbnail,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's word on an observation."""

    is_accepted: bool
    by: str
    reason: str | None = None
    item: str | None = None
    """What it is instead; None where that was right."""
    quantity: int | None = None
    """How many units it is instead; None where that was right."""

    def __post_init__(self) -> None:
        if self.quantity is not None and not 0 <= self.quantity <= MAX_QUANTITY:
            raise ValueError(f"a quantity is 0 to {MAX_QUANTITY:,}")


def open_proposals() -> Select[tuple[object, ...]]:
    """Doubtful observations of current runs that nobody decided about."""
    return _undecided().where(observation.c.is_confident.is_(False))


def implausible_proposals(
    connection: Connection, capture_id: str | None = None
) -> list[RowMapping]:
    """The confident ones of counts that cannot be true as the item's policy has it.

    In two steps, because there are few such counts among all: no planner would begin with them.
    """
    counts = select(live_count.c.run_id, live_count.c.location_id, live_count.c.item_id).where(
        live_count.c.is_plausible.is_(False), live_count.c.run_id.is_not(None)
    )
    if capture_id is not None:
        counts = counts.where(live_count.c.capture_id == capture_id)
    doubted = {tuple(row) for row in connection.execute(counts)}
    runs = sorted({str(run_id) for run_id, _, _ in doubted})
    found: list[RowMapping] = []
    for start in range(0, len(runs), KEYS_AT_ONCE):
        of_runs = observation.c.run_id.in_(runs[start : start + KEYS_AT_ONCE])
        seen = connection.execute(_undecided().where(of_runs, observation.c.is_confident))
        found += [
            row
            for row in seen.mappings()
            if (row["run_id"], row["location_id"], row["item_id"]) in doubted
        ]
    return found


def _undecided() -> Select[tuple[object, ...]]:
    return (
        select(
            observation.c.id.label("observation_id"),
            observation.c.run_id,
            capture.c.id.label("capture_id"),
            capture.c.device_id,
            capture.c.captured_at,
            observation.c.analyser,
            observation.c.item_id,
            item.c.name,
            observation.c.code,
            observation.c.location_id,
            observation.c.units.label("quantity"),
            observation.c.confidence,
            observation.c.box,
            capture.c.thumbnail_sha256.is_not(None).label("has_thumbnail"),
            observation.c.quantity.label("amount"),
            observation.c.is_confident,
            capture.c.key,
        )
        .join(capture, capture.c.current_run_id == observation.c.run_id)
        .join(item, item.c.id == observation.c.item_id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(verdict.c.observation_id.is_(None))
    )


def proposals(connection: Connection, cursor: str | None, limit: int) -> Page[Proposal]:
    """A page of all that waits for a person, newest first."""
    before = None if cursor is None else from_cursor(cursor, 1)[0]
    query = open_proposals().order_by(observation.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(observation.c.id < before)
    found = list(connection.execute(query).mappings())
    found += [
        row
        for row in implausible_proposals(connection)
        if before is None or row["observation_id"] < before
    ]
    found.sort(key=lambda row: int(row["observation_id"]), reverse=True)
    shown = tuple(_proposal(connection, row) for row in found[:limit])
    return Page(shown, to_cursor([shown[-1].observation_id]) if len(found) > limit else None)


_ONLY_FOR_US: Final = ("run_id", "amount", "is_confident", "key")


def _proposal(connection: Connection, row: RowMapping) -> Proposal:
    shown = {name: value for name, value in row.items() if name not in _ONLY_FOR_US}
    return Proposal(**shown, waits_for=_waits_for(connection, row))


def _waits_for(connection: Connection, row: RowMapping) -> WaitsFor:
    if not row["is_confident"]:
        too_many = row["amount"] > MAX_QUANTITY
        return WaitsFor.QUANTITY if too_many else WaitsFor.CONFIDENCE
    position = plausible.Position(
        row["item_id"], row["location_id"], row["captured_at"], row["device_id"], row["key"]
    )
    doubt = plausible.doubt_of(connection, position)
    return WaitsFor.COUNTER if doubt is plausible.Doubt.COUNTER else WaitsFor.STEP


def decide(
    connection: Connection, observation_id: int, decision: Decision, at: float
) -> list[StockChange]:
    """Let the observation count or not, or as something else. Raises Unknown.

    The last word replaces the one before; the same again changes nothing.
    """
    row = _observation(connection, observation_id)
    said = {
        "is_accepted": decision.is_accepted,
        "reason": decision.reason,
        **_corrected(connection, row, decision),
    }
    known = (
        connection.execute(select(verdict).where(verdict.c.observation_id == observation_id))
        .mappings()
        .one_or_none()
    )
    is_own = known is not None and known["carried_from_id"] is None
    if known is not None and is_own and said == {name: known[name] for name in said}:
        return []
    values = {"observation_id": observation_id, "by": decision.by, "decided_at": at, **said}
    return _replace(connection, row, values, at)


def withdraw(connection: Connection, observation_id: int, at: float) -> list[StockChange]:
    """Forget what was decided about it. Raises Unknown.

    Raises Conflict when it was decided about another observation that shows the same thing.
    """
    row = _observation(connection, observation_id)
    carried_from = connection.execute(
        select(verdict.c.carried_from_id).where(verdict.c.observation_id == observation_id)
    ).one_or_none()
    if carried_from is None:
        return []
    if carried_from[0] is not None:
        raise Conflict(
            f"that was decided about observation {carried_from[0]}, which shows the same thing: "
            "withdraw it there, or decide anew here"
        )
    return _replace(connection, row, None, at)


def _observation(connection: Connection, id: int) -> Row[tuple[object, ...]]:
    query = select(observation, run.c.capture_id).join(run, run.c.id == observation.c.run_id)
    row = connection.execute(query.where(observation.c.id == id)).one_or_none()
    if row is None:
        raise Unknown("observation", str(id))
    return row


def _corrected(
    connection: Connection, row: Row[tuple[object, ...]], decision: Decision
) -> dict[str, object]:
    """What it counts as instead: the item as it is called today, and how many units of it."""
    if decision.item is None:
        return {"item_id": None, "units": decision.quantity}
    meant = items.meanings(connection, [decision.item])[decision.item]
    items.get(connection, meant.item_id)
    if decision.quantity is None:
        return {"item_id": meant.item_id, "units": row.units}
    units = decision.quantity * meant.units
    if units > MAX_QUANTITY:
        raise ValueError(f"{decision.quantity:,} times {meant.units:,} is over {MAX_QUANTITY:,}")
    return {"item_id": meant.item_id, "units": units}


def _replace(
    connection: Connection,
    row: Row[tuple[object, ...]],
    values: dict[str, object] | None,
    at: float,
) -> list[StockChange]:
    """Put the verdict in place of the one before, and carry it where it holds too."""
    captures = carrying.dependants(connection, row.capture_id)
    keys = _keys(connection, captures)
    connection.execute(delete(verdict).where(verdict.c.observation_id == row.id))
    if values is not None:
        connection.execute(verdict.insert().values(values))
    carrying.carry(connection, captures)
    for start in range(0, len(captures), KEYS_AT_ONCE):
        index_captures(connection, captures[start : start + KEYS_AT_ONCE])
    keys |= _keys(connection, captures)
    return refold(connection, keys, Cause("verdict", str(row.id), at))


def _keys(connection: Connection, captures: list[str]) -> set[Key]:
    keys: set[Key] = set()
    for start in range(0, len(captures), KEYS_AT_ONCE):
        some = captures[start : start + KEYS_AT_ONCE]
        current = select(capture.c.current_run_id).where(capture.c.id.in_(some))
        keys |= keys_seen(connection, current)
    return keys
