"""What a pipeline said about a capture, and which of several runs holds."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue
from sqlalchemy import Connection, or_, select, update

from capturekit.errors import Unknown
from capturekit.frame import Observation
from capturekit.store import carrying, digests, items, locations, policies, telling
from capturekit.store.changes import Cause, StockChange
from capturekit.store.fold import index_captures, keys_of_runs, refold
from capturekit.store.items import Meaning
from capturekit.store.schema import (
    MAX_QUANTITY,
    capture,
    device,
    insert_new,
    observation,
    run,
    run_scope,
    view,
)

_MAX_STORED: Final = 2**40
"""Times MAX_CODE_QUANTITY this still fits 63 bits."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The outcome of one pipeline on one capture."""

    fingerprint: str
    """Of the pipeline. A capture has one run of each."""
    started_at: float
    finished_at: float
    result: dict[str, JsonValue]
    observations: Sequence[Observation] = ()
    thumbnail: str | None = None
    """SHA-256 of its blob."""
    is_blind: bool = False
    """True when the picture was too poor to say that something is missing: then even an
    exhaustive camera's silence means nothing."""
    zones: Sequence[str] = ()
    """Locations within the device's own that the run looked at whole. An exhaustive camera's
    silence holds for them too."""
    reference: str | None = None
    """Id of the capture whose observations these are, because nothing had changed since."""


@dataclass(frozen=True, slots=True)
class Run:
    """A pipeline's word on a capture, as it was kept. Times are seconds since 1970, UTC."""

    id: str
    capture_id: str
    fingerprint: str
    started_at: float
    finished_at: float
    result: dict[str, JsonValue]
    observation_ids: tuple[int, ...]


def get(connection: Connection, id: str) -> Run:
    """The run; raises Unknown."""
    row = connection.execute(select(run).where(run.c.id == id)).one_or_none()
    if row is None:
        raise Unknown("run", id)
    seen = select(observation.c.id).where(observation.c.run_id == id).order_by(observation.c.id)
    return Run(
        id=row.id,
        capture_id=row.capture_id,
        fingerprint=row.fingerprint,
        started_at=row.started_at,
        finished_at=row.finished_at,
        result=row.result,
        observation_ids=tuple(connection.scalars(seen)),
    )


def has(connection: Connection, capture_id: str, fingerprint: str) -> bool:
    """Whether there is a run of that pipeline."""
    return _find(connection, capture_id, fingerprint) is not None


def record(connection: Connection, capture_id: str, new: RunRecord, threshold: float) -> str:
    """Keep the run and return its id. The run of a fingerprint is kept once, the first.

    What people decided about the same things in other runs holds for it.
    """
    known = _find(connection, capture_id, new.fingerprint)
    if known is not None:
        return known
    own = _location_of(connection, capture_id)
    values: dict[str, object] = {
        "id": secrets.token_hex(8),
        "capture_id": capture_id,
        "fingerprint": new.fingerprint,
        "started_at": new.started_at,
        "finished_at": new.finished_at,
        "result": new.result,
        "thumbnail_sha256": new.thumbnail,
        "reference_id": new.reference,
    }
    scopes = [] if new.is_blind else _scopes(connection, capture_id, own, new.zones)
    means = _meanings(connection, new, own)
    thresholds = policies.thresholds(
        connection,
        [(one.analyser, meant.item_id) for one, meant in zip(new.observations, means, strict=True)],
        threshold,
    )
    seen = [
        _values(one, own, least) for one, least in zip(new.observations, thresholds, strict=True)
    ]
    digest = digests.of_run(values, scopes, seen)
    connection.execute(run.insert().values(values | {"digest": digest}))
    run_id = str(values["id"])
    insert_new(connection, run_scope, [{"run_id": run_id, "location_id": one} for one in scopes])
    _record_observations(connection, run_id, new, means, seen)
    like_it = [capture_id] if new.reference is None else [capture_id, new.reference]
    carrying.carry_to_run(connection, run_id, like_it)
    return run_id


def choose(connection: Connection, capture_id: str, run_id: str, cause: Cause) -> list[StockChange]:
    """Let this run speak for the capture; what the one before said is taken back."""
    of_capture = capture.c.id == capture_id
    before = connection.scalar(select(capture.c.current_run_id).where(of_capture))
    if before == run_id:
        return []
    thumbnail = select(run.c.thumbnail_sha256).where(run.c.id == run_id).scalar_subquery()
    connection.execute(
        update(capture).where(of_capture).values(current_run_id=run_id, thumbnail_sha256=thumbnail)
    )
    doubted = index_captures(connection, [capture_id])
    concerned = [one for one in (before, run_id) if one is not None]
    changes = refold(connection, keys_of_runs(connection, concerned), cause, changed=capture_id)
    telling.tell_proposals(connection, capture_id, run_id, cause.at)
    telling.tell_doubted(connection, doubted - {run_id}, cause.at)
    return changes


def choose_named(
    connection: Connection, capture_id: str, name: str, at: float
) -> list[StockChange]:
    """``choose`` by the run's id or its pipeline's fingerprint. Raises Unknown."""
    run_id = _find(connection, capture_id, name)
    if run_id is None:
        raise Unknown("run of that capture", name)
    return choose(connection, capture_id, run_id, Cause("choice", run_id, at))


def _find(connection: Connection, capture_id: str, name: str) -> str | None:
    return connection.scalar(
        select(run.c.id).where(
            run.c.capture_id == capture_id, or_(run.c.fingerprint == name, run.c.id == name)
        )
    )


def _location_of(connection: Connection, capture_id: str) -> str:
    found: str = connection.scalars(
        select(device.c.location_id)
        .join(capture, capture.c.device_id == device.c.id)
        .where(capture.c.id == capture_id)
    ).one()
    return found


def _scopes(connection: Connection, capture_id: str, own: str, zones: Sequence[str]) -> list[str]:
    """Locations whose silence counts: those that a picture of this device shows whole."""
    locations.ensure(connection, zones, own)
    of_device = (
        select(device.c.location_id)
        .join(capture, capture.c.device_id == device.c.id)
        .where(capture.c.id == capture_id, device.c.is_exhaustive)
    )
    of_views = (
        select(view.c.location_id)
        .join(capture, capture.c.device_id == view.c.device_id)
        .where(capture.c.id == capture_id, view.c.is_exhaustive)
    )
    whole = set(connection.scalars(of_device))
    return sorted(whole | set(connection.scalars(of_views)) | set(zones if whole else ()))


def _meanings(connection: Connection, new: RunRecord, own: str) -> list[Meaning]:
    """What each observation means today, with its item and its location made where new."""
    seen = new.observations
    if not seen:
        return []
    at = new.finished_at
    locations.ensure(connection, {one.location for one in seen if one.location}, own)
    codes = items.ensure_codes(connection, {one.code for one in seen if one.code is not None}, at)
    named = items.meanings(connection, {one.item for one in seen if one.item is not None})
    items.ensure_items(connection, [meaning.item_id for meaning in named.values()], at)
    return [
        named[one.item] if one.item is not None else codes[one.code or ""]  # one of them is given
        for one in seen
    ]


def _record_observations(
    connection: Connection,
    run_id: str,
    new: RunRecord,
    means: Sequence[Meaning],
    rows: Sequence[Mapping[str, object]],
) -> None:
    """Keep the observations with what they mean; ``rows`` are their own columns."""
    complete: list[dict[str, object]] = []
    for one, meant, row in zip(new.observations, means, rows, strict=True):
        meaning = {"item_id": meant.item_id, "units": one.quantity * meant.units}
        complete.append({"run_id": run_id, **row, **meaning})
    if complete:
        connection.execute(observation.insert(), complete)


def _values(one: Observation, own: str, threshold: float) -> dict[str, object]:
    if one.quantity > _MAX_STORED:
        raise ValueError(f"{one.analyser} saw {one.quantity} of {one.item or one.code}")
    return {
        "analyser": one.analyser,
        "location_id": one.location or own,
        "code": one.code,
        "item": one.item,
        "quantity": one.quantity,
        "confidence": one.confidence,
        "box": [list(point) for point in one.box] or None,
        "lot": one.lot,
        "expires_on": one.expires_on.isoformat() if one.expires_on else None,
        "is_confident": one.confidence >= threshold and one.quantity <= MAX_QUANTITY,
    }
