"""What happens, as types: one model for each kind of event.

Another version may say more in an event; what is not known here is left out.
"""

from datetime import date, datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Happened(_Part):
    """What all events have."""

    id: str
    """The same however often the event is told."""
    seq: int
    """Grows from event to event."""
    at: datetime
    """When it was recorded."""


class Cause(_Part):
    """Why stock is another."""

    kind: str
    """``run``, ``choice``, ``verdict``, ``policy``, ``movement``, ``void``, ``code`` or
    ``import``."""
    id: str


class StockFigure(_Part):
    """A key of stock and its quantity."""

    item_id: str
    location_id: str
    quantity: int
    """Base units."""


class StockChangedData(_Part):
    """Data of ``stock.changed``."""

    item_id: str
    location_id: str
    before: int
    after: int
    confidence: float | None = None
    """That of the new figure, 0 to 1; None where nothing was counted."""
    cause: Cause


class StockChanged(Happened):
    """An item's quantity in a location is another."""

    kind: Literal["stock.changed"]
    data: StockChangedData


class LevelCrossedData(StockFigure):
    """Data of ``stock.low`` and ``stock.restocked``."""

    minimum: int
    restock_at: int
    alert_id: int | None = None
    """Of the alert that was raised; None when one was cleared."""


class StockLow(Happened):
    """Stock fell below its par level; once per crossing."""

    kind: Literal["stock.low"]
    data: LevelCrossedData


class StockRestocked(Happened):
    """Stock that was low is enough again."""

    kind: Literal["stock.restocked"]
    data: LevelCrossedData


class UnwatchedData(_Part):
    """Data of ``stock.unwatched``."""

    item_id: str
    location_id: str


class StockUnwatched(Happened):
    """The par level that stock was below was removed, and its alert is over."""

    kind: Literal["stock.unwatched"]
    data: UnwatchedData


class BelowZeroData(StockFigure):
    """Data of ``stock.below_zero``."""

    alert_id: int


class StockBelowZero(Happened):
    """A figure says less than nothing: a fact is missing or wrong."""

    kind: Literal["stock.below_zero"]
    data: BelowZeroData


class MovementData(_Part):
    """Data of ``movement.recorded`` and ``movement.voided``."""

    movement_id: str
    key: str
    kind: str
    item_id: str
    quantity: int
    source: str | None = Field(default=None, alias="from")
    target: str | None = Field(default=None, alias="to")
    at: datetime
    """When it was done, as the person said."""
    by: str
    reason: str | None = None
    lot: str | None = None
    expires_on: date | None = None
    recorded_at: datetime
    voided_at: datetime | None = None
    voided_by: str | None = None


class MovementRecorded(Happened):
    """A person said what was done with stock."""

    kind: Literal["movement.recorded"]
    data: MovementData


class MovementVoided(Happened):
    """A movement was taken back."""

    kind: Literal["movement.voided"]
    data: MovementData


class CaptureData(_Part):
    """What the events of a capture say."""

    capture_id: str
    device_id: str
    captured_at: datetime


class CaptureCompletedData(CaptureData):
    """Data of ``capture.completed``."""

    run_id: str | None = None


class CaptureCompleted(Happened):
    """A picture was processed."""

    kind: Literal["capture.completed"]
    data: CaptureCompletedData


class CaptureFailedData(CaptureData):
    """Data of ``capture.failed``."""

    error: dict[str, JsonValue] | None = None
    """``type``, ``message``, ``step`` and ``attempt``."""


class CaptureFailed(Happened):
    """A picture cannot be processed."""

    kind: Literal["capture.failed"]
    data: CaptureFailedData


class ProposalData(CaptureData):
    """Data of ``proposal.opened``."""

    run_id: str
    count: int
    observation_ids: tuple[int, ...]
    """The first hundred."""


class ProposalOpened(Happened):
    """Something was seen that only a person can decide."""

    kind: Literal["proposal.opened"]
    data: ProposalData


class WebhookDisabledData(_Part):
    """Data of ``webhook.disabled``."""

    webhook_id: str
    failures: int
    error: str | None = None


class WebhookDisabled(Happened):
    """A webhook failed for too long."""

    kind: Literal["webhook.disabled"]
    data: WebhookDisabledData


TYPES: Final[dict[str, type[Happened]]] = {
    "stock.changed": StockChanged,
    "stock.low": StockLow,
    "stock.restocked": StockRestocked,
    "stock.unwatched": StockUnwatched,
    "stock.below_zero": StockBelowZero,
    "movement.recorded": MovementRecorded,
    "movement.voided": MovementVoided,
    "capture.completed": CaptureCompleted,
    "capture.failed": CaptureFailed,
    "proposal.opened": ProposalOpened,
    "webhook.disabled": WebhookDisabled,
}
"""The model of each kind."""
