"""What waits for a person, and the policies that say what does."""

from pydantic import JsonValue

from capturekit.wire.base import Answer, Cursor, Moment
from capturekit.wire.stock import StockChange


class Review(Answer):
    """An observation without effect until a person accepts it."""

    observation_id: int
    capture_id: str
    device_id: str
    captured_at: Moment
    analyser: str
    item_id: str
    name: str
    code: str | None
    location: str
    quantity: int
    confidence: float
    waits_for: str
    """``confidence``, ``quantity``, ``step`` or ``counter went back``."""
    box: JsonValue
    """A polygon in pixels of the upright picture."""
    thumbnail: str | None
    """Its path."""


class ReviewPage(Answer):
    """What waits for a person, the newest first."""

    reviews: list[Review]
    next: Cursor


class Decided(Answer):
    """What a decision changed."""

    observation_id: int
    changes: list[StockChange]


class PolicyRow(Answer):
    """From when on an observation counts; null is any analyser, any item."""

    analyser: str | None
    item_id: str | None
    threshold: float | None
    max_step_per_hour: float | None
    is_monotone: bool
    changed_at: Moment
    by: str


class PolicyPage(Answer):
    """Policies by item and analyser."""

    policies: list[PolicyRow]
    next: Cursor


class PolicySet(Answer):
    """A policy and what it changed."""

    policy: PolicyRow
    changes: list[StockChange]


class PolicyRemoved(Answer):
    """What changed as a policy went."""

    changes: list[StockChange]


class Reprocessed(Answer):
    """What another look at a capture changed, or would."""

    capture_id: str
    fingerprint: str
    """Of the pipeline that looks."""
    dry_run: bool
    task_id: str | None
    """Of the look that is still to come."""
    changes: list[StockChange]
