"""What stock is kept for, what changed in it, and why."""

from dataclasses import dataclass, field
from typing import NamedTuple

from capturekit.store.schema import ADJUSTED


class Key(NamedTuple):
    """What stock is kept for."""

    item_id: str
    location_id: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why stock was folded anew; every move names it."""

    kind: str
    """``run``, ``choice``, ``verdict``, ``movement``, ``void``, ``code`` or ``import``."""
    id: str
    at: float
    elsewhere: str = ADJUSTED
    """The virtual location that gives or takes what no real one does."""
    is_transfer: bool = False
    """True when what one real location loses is what another gains."""


@dataclass(frozen=True, slots=True)
class StockChange:
    """What a refold did to the quantity of one key."""

    item_id: str
    location_id: str
    before: int
    after: int
    confidence: float | None = field(default=None, compare=False)
    """That of the figure it is now; None where nothing was counted."""

    @property
    def delta(self) -> int:
        """Units gained, or lost when negative."""
        return self.after - self.before
