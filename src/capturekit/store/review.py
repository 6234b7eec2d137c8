"""What runs saw but did not dare to count, and what people decided about it."""

from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy import Connection, Select, delete, select

from capturekit.errors import Unknown
from capturekit.store.changes import Cause, Key, StockChange
from capturekit.store.fold import index_captures, refold
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import capture, item, observation, run, verdict


@dataclass(frozen=True, slots=True)
class Proposal:
    """An observation without effect until a person accepts it."""

    observation_id: int
    capture_id: str
    captured_at: float
    item_id: str
    name: str
    code: str | None
    location_id: str
    quantity: int
    confidence: float
    box: JsonValue


def open_proposals() -> Select[tuple[object, ...]]:
    """Doubtful observations of current runs that nobody decided about."""
    return (
        select(
            observation.c.id.label("observation_id"),
            capture.c.id.label("capture_id"),
            capture.c.captured_at,
            observation.c.item_id,
            item.c.name,
            observation.c.code,
            observation.c.location_id,
            observation.c.units.label("quantity"),
            observation.c.confidence,
            observation.c.box,
        )
        .join(capture, capture.c.current_run_id == observation.c.run_id)
        .join(item, item.c.id == observation.c.item_id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(observation.c.is_confident.is_(False), verdict.c.observation_id.is_(None))
    )


def proposals(connection: Connection, cursor: str | None, limit: int) -> Page[Proposal]:
    """A page of ``open_proposals``, newest first."""
    query = open_proposals().order_by(observation.c.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(observation.c.id < from_cursor(cursor, 1)[0])
    found = [Proposal(**row) for row in connection.execute(query).mappings()]
    is_last = len(found) <= limit
    return Page(
        tuple(found[:limit]), None if is_last else to_cursor([found[limit - 1].observation_id])
    )


def decide(
    connection: Connection, observation_id: int, by: str, at: float, *, is_accepted: bool
) -> list[StockChange]:
    """Let the observation count or not; the last word replaces the one before."""
    of = observation.c.id == observation_id
    row = connection.execute(select(observation).where(of)).one_or_none()
    if row is None:
        raise Unknown("observation", str(observation_id))
    connection.execute(delete(verdict).where(verdict.c.observation_id == observation_id))
    connection.execute(
        verdict.insert().values(
            observation_id=observation_id, is_accepted=is_accepted, by=by, decided_at=at
        )
    )
    index_captures(connection, select(run.c.capture_id).where(run.c.id == row.run_id))
    key = Key(row.item_id, row.location_id)
    return refold(connection, [key], Cause("verdict", str(observation_id), at))
