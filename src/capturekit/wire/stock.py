"""Stock: what is there, why, and what people did to it."""

from datetime import date
from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field, JsonValue

from capturekit.wire.base import Answer, Cursor, Moment

Kind: TypeAlias = Literal["receive", "use", "move", "count", "write_off"]
"""``store.MovementKind``, without the store."""


class StockRow(Answer):
    """How much there is of an item in a place."""

    item_id: str
    name: str
    quantity: int
    unit: str | None
    location: str
    confidence: float | None
    last_seen_at: Moment | None
    codes: list[str]


class StockPage(Answer):
    """Stock by item and location."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "item_id": "pasta",
                            "name": "Pasta",
                            "quantity": 12,
                            "unit": "pack",
                            "location": "pantry",
                            "confidence": 0.98,
                            "last_seen_at": "2026-11-24T17:03:00.000Z",
                            "codes": ["4006381333931"],
                        }
                    ],
                    "next": None,
                    "updated_at": "2026-11-24T17:03:01.512Z",
                }
            ]
        }
    )

    items: list[StockRow]
    next: Cursor
    updated_at: Moment | None
    """When a quantity last changed, anywhere."""


class Movement(Answer):
    """What a person did."""

    movement_id: str
    key: str
    """The Idempotency-Key, or one that was made."""
    kind: Kind
    item_id: str
    quantity: int
    source: str | None = Field(alias="from")
    target: str | None = Field(alias="to")
    at: Moment
    by: str
    reason: str | None
    lot: str | None
    expires_on: date | None
    recorded_at: Moment
    voided_at: Moment | None
    voided_by: str | None


class StockChange(Answer):
    """A figure that is another."""

    item_id: str
    location_id: str
    before: int
    after: int


class Moved(Answer):
    """A movement and what it changed."""

    movement: Movement
    changes: list[StockChange]


class Evidence(Answer):
    """An observation that a count is made of."""

    observation_id: int
    analyser: str
    code: str | None
    quantity: int
    confidence: float
    box: JsonValue
    """A polygon in pixels of the upright picture."""
    is_confident: bool
    is_accepted: bool | None
    decided_by: str | None
    is_corrected: bool
    carried_from: int | None


class SeenBasis(Answer):
    """A camera's reading that a figure starts from."""

    kind: Literal["camera"]
    capture_id: str
    device_id: str
    captured_at: Moment
    run_id: str
    fingerprint: str
    evidence: list[Evidence]
    """Empty when it is the item's absence that was seen."""


class CountedBasis(Movement):
    """A person's count that a figure starts from."""

    kind: Literal["person"]  # type: ignore[assignment]  # the kind of basis, not of movement


class LedgerMove(Answer):
    """A line of the ledger, into or out of a place."""

    seq: int
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    quantity: int
    cause: str
    cause_id: str
    recorded_at: Moment


class Explained(StockRow):
    """A figure and what it follows from."""

    basis: SeenBasis | CountedBasis | None = Field(discriminator="kind")
    movements: list[Movement]
    moves: list[LedgerMove]


class Why(Answer):
    """What each figure of an item follows from."""

    item_id: str
    stock: list[Explained]


class Origin(Answer):
    """Who or what caused a line of the ledger; what does not apply is left out."""

    kind: str
    id: str
    by: str | None = None
    reason: str | None = None
    movement_kind: str | None = None
    device_id: str | None = None
    capture_id: str | None = None
    captured_at: Moment | None = None
    run_id: str | None = None
    fingerprint: str | None = None


class LineEnd(Answer):
    """What a line did to one real place."""

    location: str
    before: int
    after: int


class Line(Answer):
    """A line of the ledger. Virtual locations begin with a tilde."""

    seq: int
    item_id: str
    name: str
    unit: str | None
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    quantity: int
    recorded_at: Moment
    ends: list[LineEnd]
    cause: Origin


class HistoryPage(Answer):
    """Lines of the ledger, the last written first."""

    lines: list[Line]
    next: Cursor


class ExpiringRow(Answer):
    """Stock that expires soon, or did."""

    item_id: str
    name: str
    lot: str | None
    expires_on: date
    quantity: int


class ExpiringList(Answer):
    """What expires, the first first."""

    items: list[ExpiringRow]
