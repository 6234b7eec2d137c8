"""Whether a count can be true, where an item's policy says how fast it may change.

A count is judged by the two before it in time, whether those are plausible or not: after a real
jump the second picture is believed, and a single misreading is not. So the judgement is a
function of the facts, and a fact that comes late changes that of the two counts after it alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    or_,
    select,
    tuple_,
    update,
)

from capturekit.store.changes import Key
from capturekit.store.schema import live_count, observation, policy, verdict
from capturekit.store.seen import ITEM_SEEN

LOOKED_BACK: Final = 2
"""Counts before it that a count may fit."""


class Rule(NamedTuple):
    """How an item's quantity in a place may change."""

    max_step_per_hour: float | None
    """Units; between two counts less than an hour apart as much as in an hour."""
    is_monotone: bool
    """True for what only ever grows, such as a meter."""


class Count(NamedTuple):
    """What is judged: a row of the index of live counts."""

    id: int
    location_id: str
    counted_at: float
    quantity: int
    is_plausible: bool
    run_id: str | None


class Position(NamedTuple):
    """A count's place in the order of those of its key."""

    item_id: str
    location_id: str
    counted_at: float
    source: str
    key: str


class Doubt(StrEnum):
    """Why a count is not believed."""

    STEP = "step"
    """It is too far from the counts before it."""
    COUNTER = "counter went back"
    """It is less than the counts before it, of what only ever grows."""


def doubt(count: Count, before: Sequence[Count], rule: Rule) -> Doubt | None:
    """Why the count is not believed after those before it; None where it is, or there are none."""
    if not before or any(_fits(count, one, rule) for one in before):
        return None
    went_back = rule.is_monotone and all(count.quantity < one.quantity for one in before)
    return Doubt.COUNTER if went_back else Doubt.STEP


def _fits(count: Count, before: Count, rule: Rule) -> bool:
    step = count.quantity - before.quantity
    if rule.is_monotone and step < 0:
        return False
    if rule.max_step_per_hour is None:
        return True
    hours = (count.counted_at - before.counted_at) / 3600
    return abs(step) <= rule.max_step_per_hour * max(1.0, hours)


# In the index


def ruled(connection: Connection, which: ColumnElement[bool]) -> set[Position]:
    """Where those live counts stand whose item has a rule; cheap where no item has one."""
    if connection.execute(_ANY_RULE).one_or_none() is None:
        return set()
    columns = [live_count.c[name] for name in Position._fields]
    found = (
        select(*columns)
        .join(policy, (policy.c.item_id == live_count.c.item_id) & _IS_RULE)
        .where(which)
    )
    return {Position(*row) for row in connection.execute(found)}


def judge(connection: Connection, positions: Iterable[Position]) -> set[str]:
    """Judge the counts there, if any, and the two after each; the order does not matter.

    Returns the runs of which a count is not believed any more.
    """
    doubted: set[str] = set()
    for position in sorted(positions):
        rule = rule_of(connection, position.item_id)
        if rule is None:
            continue
        before = _before(connection, position)
        after = connection.execute(
            _counts(position.item_id, position.location_id)
            .where(tuple_(*position[2:]) <= _ORDER)
            .order_by(*_ORDER_BY)
            .limit(1 + LOOKED_BACK)
        )
        window = [*before, *(Count(**row) for row in after.mappings())]
        doubted |= _judge_some(connection, position.item_id, window, rule, start=len(before))
    return doubted


def judge_item(connection: Connection, item_id: str) -> set[Key]:
    """Judge all counts of the item, because its rule changed; returns the keys concerned.

    Reads every one of them, some 5 µs each.
    """
    rule, places = rule_of(connection, item_id), _by_place(connection, item_id)
    for window in places.values():
        _judge_some(connection, item_id, window, rule, start=0)
    return {Key(item_id, location_id) for location_id in places}


def rule_of(connection: Connection, item_id: str) -> Rule | None:
    """What the item's policy says about its counts, if anything."""
    found = select(policy.c.max_step_per_hour, policy.c.is_monotone).where(
        policy.c.item_id == item_id, _IS_RULE
    )
    row = connection.execute(found).one_or_none()
    return None if row is None else Rule(*row)


def doubt_of(connection: Connection, position: Position) -> Doubt | None:
    """Why the count at that place is not believed."""
    rule = rule_of(connection, position.item_id)
    at = _counts(position.item_id, position.location_id).where(tuple_(*position[2:]) == _ORDER)
    row = connection.execute(at).mappings().one_or_none()
    if rule is None or row is None:
        return None
    return doubt(Count(**row), _before(connection, position), rule)


def misjudged(connection: Connection) -> Iterator[Key]:
    """Keys of which the index says otherwise than the rules do; changes nothing."""
    items = connection.scalars(select(live_count.c.item_id).where(~live_count.c.is_plausible))
    ruled_items = connection.scalars(select(policy.c.item_id).where(_IS_RULE))
    for item_id in sorted({*items, *ruled_items}):
        rule = rule_of(connection, item_id)
        for location_id, window in _by_place(connection, item_id).items():
            if list(_wrong(connection, item_id, window, rule, start=0)):
                yield Key(item_id, location_id)


def _by_place(connection: Connection, item_id: str) -> dict[str, list[Count]]:
    counts = _counts(item_id).order_by(live_count.c.location_id, *_ORDER_BY)
    places: dict[str, list[Count]] = {}
    for row in connection.execute(counts).mappings():
        count = Count(**row)
        places.setdefault(count.location_id, []).append(count)
    return places


def _judge_some(
    connection: Connection, item_id: str, window: Sequence[Count], rule: Rule | None, start: int
) -> set[str]:
    """Write what is plausible of consecutive counts of one key, from the place ``start`` on.

    Returns the runs of those that were, and are not.
    """
    wrong = list(_wrong(connection, item_id, window, rule, start))
    if wrong:
        rows = [{"of_id": one.id, "is_plausible": not one.is_plausible} for one in wrong]
        connection.execute(_REWRITE, rows)
    return {one.run_id for one in wrong if one.is_plausible and one.run_id is not None}


def _wrong(
    connection: Connection, item_id: str, window: Sequence[Count], rule: Rule | None, start: int
) -> Iterator[Count]:
    for place in range(start, len(window)):
        count = window[place]
        before = window[max(0, place - LOOKED_BACK) : place]
        is_believed = (
            rule is None
            or count.run_id is None
            or doubt(count, before, rule) is None
            or _is_vouched(connection, item_id, count)
        )
        if is_believed != count.is_plausible:
            yield count


def _is_vouched(connection: Connection, item_id: str, count: Count) -> bool:
    """Whether a person accepted any of the observations that make up the count."""
    accepted = (
        select(observation.c.id)
        .join(verdict, verdict.c.observation_id == observation.c.id)
        .where(
            observation.c.run_id == count.run_id,
            observation.c.location_id == count.location_id,
            ITEM_SEEN.in_([item_id]),
            verdict.c.is_accepted,
        )
        .limit(1)
    )
    return connection.execute(accepted).one_or_none() is not None


def _before(connection: Connection, position: Position) -> list[Count]:
    rows = connection.execute(
        _counts(position.item_id, position.location_id)
        .where(tuple_(*position[2:]) > _ORDER)
        .order_by(*(column.desc() for column in _ORDER_BY))
        .limit(LOOKED_BACK)
    )
    return [Count(**row) for row in rows.mappings()][::-1]


def _counts(item_id: str, location_id: str | None = None) -> Select[tuple[object, ...]]:
    found = select(*(live_count.c[name] for name in Count._fields)).where(
        live_count.c.item_id == item_id
    )
    return found if location_id is None else found.where(live_count.c.location_id == location_id)


_IS_RULE: Final = (policy.c.analyser == "") & or_(
    policy.c.max_step_per_hour.is_not(None), policy.c.is_monotone
)
_ANY_RULE: Final = select(policy.c.item_id).where(_IS_RULE).limit(1)
_ORDER_BY: Final = (live_count.c.counted_at, live_count.c.source, live_count.c.key)
_ORDER: Final = tuple_(*_ORDER_BY)
_REWRITE: Final = (
    update(live_count)
    .where(live_count.c.id == bindparam("of_id"))
    .values(is_plausible=bindparam("is_plausible"))
)
