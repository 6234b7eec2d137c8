"""What the outbox says of captures and of what waits for a person.

A doubtful observation is no fact yet, so its event names no item and no figure.
"""

from collections.abc import Iterable
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, select

from capturekit.store import outbox
from capturekit.store.review import implausible_proposals, open_proposals
from capturekit.store.schema import capture, observation, run
from capturekit.times import iso

MAX_IDS: Final = 100
"""Of observations in one event; ``count`` says how many there are."""


def tell_completed(connection: Connection, capture_id: str, at: float) -> None:
    """Write ``capture.completed``. The transaction must hold the ledger's lock.

    Once for each time that it is processed: a job that was killed after its effect comes again.
    """
    columns = (*_CAPTURE, capture.c.current_run_id.label("run_id"))
    payload = _payload(connection, capture_id, *columns)
    outbox.tell(connection, "capture.completed", payload, at, name=_name(connection, capture_id))


def tell_failed(connection: Connection, capture_id: str, at: float) -> None:
    """Write ``capture.failed``. The transaction must hold the ledger's lock."""
    payload = _payload(connection, capture_id, *_CAPTURE, capture.c.error)
    outbox.tell(connection, "capture.failed", payload, at, name=_name(connection, capture_id))


def tell_proposals(connection: Connection, capture_id: str, run_id: str, at: float) -> None:
    """Write ``proposal.opened`` if the run, which speaks for the capture now, has doubts."""
    # Sorted here: asked for the order, SQLite would read the doubts of all runs for it.
    query = open_proposals().where(observation.c.run_id == run_id)
    waiting = [*connection.execute(query).mappings()]
    ids = sorted(
        row["observation_id"] for row in waiting + implausible_proposals(connection, capture_id)
    )
    if not ids:
        return
    _open(connection, capture_id, run_id, ids, at)


def tell_doubted(connection: Connection, run_ids: Iterable[str], at: float) -> None:
    """Write ``proposal.opened`` for runs that a picture that came late makes implausible."""
    for run_id in sorted(run_ids):
        capture_id = connection.scalars(select(run.c.capture_id).where(run.c.id == run_id)).one()
        rows = implausible_proposals(connection, capture_id)
        if ids := sorted(row["observation_id"] for row in rows):
            _open(connection, capture_id, run_id, ids, at)


def _open(connection: Connection, capture_id: str, run_id: str, ids: list[int], at: float) -> None:
    payload = _payload(connection, capture_id, *_CAPTURE)
    payload |= {"run_id": run_id, "count": len(ids), "observation_ids": [*ids[:MAX_IDS]]}
    outbox.tell(connection, "proposal.opened", payload, at)


_CAPTURE: Final = (
    capture.c.id.label("capture_id"),
    capture.c.device_id,
    capture.c.captured_at,
)


def _name(connection: Connection, capture_id: str) -> str:
    series = connection.scalars(select(capture.c.series).where(capture.c.id == capture_id)).one()
    return f"{capture_id} {series}"


def _payload(
    connection: Connection, capture_id: str, *columns: ColumnElement[Any]
) -> dict[str, JsonValue]:
    query = select(*columns).where(capture.c.id == capture_id)
    row = dict(connection.execute(query).mappings().one())
    return row | {"captured_at": iso(row["captured_at"])}
