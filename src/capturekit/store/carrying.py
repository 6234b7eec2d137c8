"""Verdicts that hold for other runs, which saw the same things in the same capture.

So they do for captures that took its observations over, because nothing had changed.

What is carried is a function of what people decided, whatever came first: each observation that
nobody was asked about has the last verdict on one like it, or none.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, delete, select

from capturekit.store.schema import observation, run, verdict

MIN_OVERLAP: Final = 0.5
"""Of two boxes' area together, how much they must share to show the same thing. That of PASCAL
VOC (Everingham et al., IJCV 2010)."""

CAPTURES_AT_ONCE: Final = 100

Points: TypeAlias = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What makes an observation like another."""

    id: int
    analyser: str
    location_id: str
    code: str | None
    item: str | None
    box: Points | None
    item_id: str = ""
    """What it was taken for."""
    corrected_to: str | None = None
    """The item that a person says it is instead."""

    @property
    def name(self) -> tuple[str, str | None, str | None]:
        """In observations of the same thing, this is the same."""
        return self.location_id, self.code, self.item


class _Run(NamedTuple):
    id: str
    capture_id: str
    fingerprint: str
    reference_id: str | None


class _Decided(NamedTuple):
    decided_at: float
    fingerprint: str
    of: Mapping[str, object]


def matched(old: Sequence[Sighting], new: Sequence[Sighting]) -> Iterator[tuple[int, int]]:
    """Pairs of places in both, each at most once, that show the same thing.

    They have the same code or item in the same location, and boxes that overlap by
    ``MIN_OVERLAP``, the closest first. Where neither has a box, they come of the same analyser,
    in the same order. What is left may be what the old one was corrected to, in such a box.
    """
    pairs = sorted(
        (one.name != other.name, -likeness, first, second)
        for first, one in enumerate(old)
        for second, other in enumerate(new)
        if (likeness := _likeness(one, other))
    )
    taken: tuple[set[int], set[int]] = set(), set()
    for *_, first, second in pairs:
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            yield first, second


def overlap(one: Points, other: Points) -> float:
    """Of the area that the polygons' upright hulls cover together, the part that they share."""
    left, top, right, bottom = _hull(one)
    left2, top2, right2, bottom2 = _hull(other)
    width = min(right, right2) - max(left, left2)
    height = min(bottom, bottom2) - max(top, top2)
    shared = max(0.0, width) * max(0.0, height)
    whole = (right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - shared
    if whole <= 0:
        return float(_hull(one) == _hull(other))
    return shared / whole


def carry(connection: Connection, capture_ids: Collection[str]) -> None:
    """Give all runs of these captures the verdicts that hold for them, and no others."""
    for some in _portions(sorted(set(capture_ids))):
        targets = _runs(connection, some)
        references = {one.reference_id for one in targets if one.reference_id}
        _carry_to(connection, targets, _runs(connection, references))


def carry_to_run(connection: Connection, run_id: str, capture_ids: Collection[str]) -> None:
    """The same for a run that was just recorded, from runs of its capture and its reference.

    Costs one look-up when there are none.
    """
    found = _runs(connection, capture_ids)
    if len(found) > 1:
        _carry_to(connection, [one for one in found if one.id == run_id], found)


def dependants(connection: Connection, capture_id: str) -> list[str]:
    """The capture, and those that took over its observations."""
    took = select(run.c.capture_id).where(run.c.reference_id == capture_id).distinct()
    return sorted({capture_id, *connection.scalars(took)})


_RUNS: Final = select(run.c.id, run.c.capture_id, run.c.fingerprint, run.c.reference_id)


def _runs(connection: Connection, capture_ids: Collection[str]) -> list[_Run]:
    found = connection.execute(_RUNS.where(run.c.capture_id.in_(capture_ids)))
    return [_Run(*row) for row in found]


def _carry_to(
    connection: Connection,
    targets: Sequence[_Run],
    others: Iterable[_Run],
) -> None:
    sources = {row.id: row for row in chain(targets, others)}
    decided = _decided(connection, list(sources))
    carried = select(verdict.c.observation_id).join(observation, _IS_ABOUT)
    old = carried.where(
        observation.c.run_id.in_([row.id for row in targets]),
        verdict.c.carried_from_id.is_not(None),
    )
    if stale := connection.scalars(old).all():
        connection.execute(delete(verdict).where(verdict.c.observation_id.in_(stale)))
    if not decided:
        return
    seen = _sightings(connection, list(sources), decided)
    rows: list[dict[str, object]] = []
    for target in targets:
        own = [row for row in sources.values() if row.capture_id == target.capture_id]
        reference = [row for row in sources.values() if row.capture_id == target.reference_id]
        held = _held(target.id, reference, seen, decided) | _held(target.id, own, seen, decided)
        rows += [
            {**one.of, "observation_id": of, "carried_from_id": one.of["observation_id"]}
            for of, one in held.items()
            if of not in decided
        ]
    if rows:
        connection.execute(verdict.insert(), rows)


def _held(
    target: str,
    sources: Iterable[_Run],
    seen: Mapping[str, Sequence[Sighting]],
    decided: Mapping[int, Mapping[str, object]],
) -> dict[int, _Decided]:
    """What was decided last, by observation of the target, about its like in those runs."""
    held: dict[int, _Decided] = {}
    for source in sources:
        if source.id == target:
            continue
        old, new = seen.get(source.id, ()), seen.get(target, ())
        for first, second in matched(old, new) if any(one.id in decided for one in old) else ():
            of = decided.get(old[first].id)
            if of is None:
                continue
            one = _Decided(float(str(of["decided_at"])), source.fingerprint, of)
            known = held.get(new[second].id)
            if known is None or one[:2] > known[:2]:
                held[new[second].id] = one
    return held


def _decided(connection: Connection, run_ids: Sequence[str]) -> dict[int, Mapping[str, object]]:
    """Verdicts of people on observations of these runs, by the observation."""
    direct = (
        select(verdict)
        .join(observation, _IS_ABOUT)
        .where(observation.c.run_id.in_(run_ids), verdict.c.carried_from_id.is_(None))
    )
    return {row["observation_id"]: dict(row) for row in connection.execute(direct).mappings()}


_SEEN: Final = ("id", "analyser", "location_id", "code", "item", "box", "item_id")


def _sightings(
    connection: Connection, run_ids: Sequence[str], decided: Mapping[int, Mapping[str, object]]
) -> dict[str, list[Sighting]]:
    """What each run saw, in its order."""
    columns = [observation.c[name] for name in _SEEN]
    query = select(observation.c.run_id, *columns).where(observation.c.run_id.in_(run_ids))
    seen: dict[str, list[Sighting]] = {}
    for run_id, *values in sorted(connection.execute(query), key=lambda row: int(row[1])):
        one = Sighting(*values)
        corrected_to = decided.get(one.id, {}).get("item_id")
        if corrected_to is not None:
            one = replace(one, corrected_to=str(corrected_to))
        seen.setdefault(run_id, []).append(one)
    return seen


def _likeness(one: Sighting, other: Sighting) -> float:
    """0 when they cannot be the same thing."""
    is_corrected = one.location_id == other.location_id and one.corrected_to == other.item_id
    if not (one.name == other.name or is_corrected) or (one.box is None) != (other.box is None):
        return 0.0
    if one.box is None or other.box is None:
        return float(one.name == other.name and one.analyser == other.analyser)
    shared = overlap(one.box, other.box)
    return shared if shared >= MIN_OVERLAP else 0.0


_IS_ABOUT: Final = observation.c.id == verdict.c.observation_id


def _hull(points: Points) -> tuple[float, float, float, float]:
    across, down = [point[0] for point in points], [point[1] for point in points]
    return min(across), min(down), max(across), max(down)


def _portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), CAPTURES_AT_ONCE):
        yield ids[start : start + CAPTURES_AT_ONCE]
