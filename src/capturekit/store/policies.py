"""From when on an observation is believed, by analyser and item.

The most particular policy wins: that of an analyser and an item, then the item's, then the
analyser's, then the store's threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, delete, select, tuple_

from capturekit.errors import Unknown
from capturekit.store import items, plausible
from capturekit.store.changes import Cause, StockChange
from capturekit.store.fold import refold
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import policy
from capturekit.times import iso

ANY: Final = ""
"""In place of an analyser or an item: whatever has no policy of its own."""


@dataclass(frozen=True, slots=True)
class NewPolicy:
    """A policy as a person says it."""

    analyser: str = ANY
    item: str = ANY
    threshold: float | None = None
    """Confidence, 0 to 1, from which an observation counts; None leaves it to a less particular
    policy. It holds for runs recorded from now on."""
    max_step_per_hour: float | None = None
    """Units by which the item's quantity in a place may change in an hour."""
    is_monotone: bool = False
    """True for what only ever grows, such as a meter."""
    by: str = ""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError("a threshold is a confidence from 0 to 1")
        if self.max_step_per_hour is not None and not 0 <= self.max_step_per_hour < float("inf"):
            raise ValueError("the largest step per hour is a number of units, 0 or more")
        if self.has_rule and (self.analyser != ANY or self.item == ANY):
            raise ValueError("steps and counters are judged for an item, whatever analyser saw it")
        if self.threshold is None and not self.has_rule:
            raise ValueError("a policy has a threshold, a largest step or a counter's rule")

    @property
    def has_rule(self) -> bool:
        """Whether it judges counts by those before them."""
        return self.max_step_per_hour is not None or self.is_monotone


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it is kept."""

    analyser: str
    """Empty for any."""
    item_id: str
    """Empty for any."""
    threshold: float | None
    max_step_per_hour: float | None
    is_monotone: bool
    changed_at: float
    """When it was set, in seconds since 1970, UTC."""
    by: str

    def as_json(self) -> dict[str, JsonValue]:
        """The policy as the HTTP API and the command line show it."""
        return {
            "analyser": self.analyser or None,
            "item_id": self.item_id or None,
            "threshold": self.threshold,
            "max_step_per_hour": self.max_step_per_hour,
            "is_monotone": self.is_monotone,
            "changed_at": iso(self.changed_at),
            "by": self.by,
        }


def set_policy(
    connection: Connection, new: NewPolicy, at: float
) -> tuple[Policy, list[StockChange]]:
    """Keep the policy in place of the one before. Raises Unknown for the item."""
    if new.item != ANY:
        items.get(connection, new.item)
    before = plausible.rule_of(connection, new.item)
    connection.execute(delete(policy).where(_is_of(new.analyser, new.item)))
    connection.execute(
        policy.insert().values(
            analyser=new.analyser,
            item_id=new.item,
            threshold=new.threshold,
            max_step_per_hour=new.max_step_per_hour,
            is_monotone=new.is_monotone,
            changed_at=at,
            by=new.by,
        )
    )
    changes = _judge_anew(connection, new.item, before, at)
    return get(connection, new.analyser, new.item), changes


def get(connection: Connection, analyser: str, item_id: str) -> Policy:
    """The policy of exactly these. Raises Unknown."""
    found = connection.execute(select(policy).where(_is_of(analyser, item_id))).mappings()
    row = found.one_or_none()
    if row is None:
        raise Unknown("policy", f"{analyser or 'any analyser'}, {item_id or 'any item'}")
    return Policy(**row)


def remove(connection: Connection, analyser: str, item_id: str, at: float) -> list[StockChange]:
    """Forget the policy. Raises Unknown."""
    get(connection, analyser, item_id)
    before = plausible.rule_of(connection, item_id)
    connection.execute(delete(policy).where(_is_of(analyser, item_id)))
    return _judge_anew(connection, item_id, before, at)


def page(connection: Connection, cursor: str | None, limit: int) -> Page[Policy]:
    """Policies by item and analyser."""
    order = (policy.c.item_id, policy.c.analyser)
    query = select(policy).order_by(*order).limit(limit + 1)
    if cursor is not None:
        query = query.where(tuple_(*order) > tuple_(*from_cursor(cursor, 2)))
    found = [Policy(**row) for row in connection.execute(query).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    following = None if last is None else to_cursor([last.item_id, last.analyser])
    return Page(tuple(found[:limit]), following)


def thresholds(
    connection: Connection, of: Sequence[tuple[str, str]], default: float
) -> list[float]:
    """For each analyser and item, from which confidence on an observation counts."""
    if not of:
        return []
    found = connection.execute(
        select(policy.c.analyser, policy.c.item_id, policy.c.threshold).where(
            policy.c.analyser.in_({ANY, *(analyser for analyser, _ in of)}),
            policy.c.item_id.in_({ANY, *(item_id for _, item_id in of)}),
            policy.c.threshold.is_not(None),
        )
    )
    known = {(analyser, item_id): threshold for analyser, item_id, threshold in found}
    return [_most_particular(known, *one, default) for one in of]


def _most_particular(
    known: dict[tuple[str, str], float], analyser: str, item_id: str, default: float
) -> float:
    for place in ((analyser, item_id), (ANY, item_id), (analyser, ANY)):
        if place in known:
            return known[place]
    return known.get((ANY, ANY), default)


def _judge_anew(
    connection: Connection, item_id: str, before: plausible.Rule | None, at: float
) -> list[StockChange]:
    if plausible.rule_of(connection, item_id) == before:
        return []
    keys = plausible.judge_item(connection, item_id)
    return refold(connection, keys, Cause("policy", item_id, at))


def _is_of(analyser: str, item_id: str) -> ColumnElement[bool]:
    return (policy.c.analyser == analyser) & (policy.c.item_id == item_id)
