"""Which captures another pipeline is to look at, and what it said of them already."""

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select

from capturekit.store.schema import capture, run


@dataclass(frozen=True, slots=True)
class Selection:
    """Which captures; None is whatever it is."""

    device: str | None = None
    since: float | None = None
    """Taken at this time or later, in seconds since 1970, UTC."""
    until: float | None = None
    """Taken before this time."""
    fingerprint: str | None = None
    """Of the pipeline whose run speaks for it now."""


class Candidate(NamedTuple):
    """A capture that was processed, or failed to be."""

    capture_id: str
    state: str
    is_removed: bool
    """Whether its picture was removed, so that no pipeline can look at it."""
    is_known: bool
    """Whether the pipeline asked about has a run of it."""
    is_current: bool
    """Whether that run speaks for it."""


def candidates(
    connection: Connection, fingerprint: str, which: Selection, after: str, limit: int
) -> list[Candidate]:
    """See ``Captures.to_reprocess``."""
    own = run.alias("own")
    current = run.alias("current")
    query = (
        select(
            capture.c.id,
            capture.c.state,
            capture.c.picture_removed_at.is_not(None),
            own.c.id.is_not(None),
            and_(own.c.id.is_not(None), own.c.id == capture.c.current_run_id),
        )
        .outerjoin(own, and_(own.c.capture_id == capture.c.id, own.c.fingerprint == fingerprint))
        .outerjoin(current, current.c.id == capture.c.current_run_id)
        .where(capture.c.id > after, *_bounds(which))
        .order_by(capture.c.id)
        .limit(limit)
    )
    if which.fingerprint is not None:
        query = query.where(current.c.fingerprint == which.fingerprint)
    return [
        Candidate(name, state, bool(removed), bool(known), bool(holds))
        for name, state, removed, known, holds in connection.execute(query)
    ]


def _bounds(which: Selection) -> list[ColumnElement[bool]]:
    bounds: list[ColumnElement[bool]] = []
    if which.device is not None:
        bounds.append(capture.c.device_id == which.device)
    if which.since is not None:
        bounds.append(capture.c.captured_at >= which.since)
    if which.until is not None:
        bounds.append(capture.c.captured_at < which.until)
    return bounds
