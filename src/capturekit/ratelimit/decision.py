"""May this caller go on? The question, its answer, and what a storage promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from capturekit.errors import CaptureKitError


@dataclass(frozen=True, slots=True)
class Quota:
    """One rule in force: at most ``limit`` in any ``window_s`` seconds."""

    name: str
    limit: int
    window_s: float


# A tuple, because a frozen dataclass takes 1.2 µs to make: a third of a decision.
class Decision(NamedTuple):
    """The answer of a limiter. Of several rules, the tightest speaks.

    That is the rule that makes one wait longest, or else the one with the least left.
    """

    allowed: bool
    name: str
    """The rule that speaks."""
    limit: int
    """What it allows at present; a scaled limit is lower than its rule says."""
    window_s: float
    remaining: int
    """What is left after this decision."""
    reset_s: float
    """Seconds until nothing that was spent counts any more."""
    retry_after_s: float
    """Seconds until the same cost passes, if nobody spends meanwhile; 0.0 when allowed.

    When ``cost > limit`` no wait can help; it is then the window (or the reset, if later).
    """
    cost: int
    is_degraded: bool = False
    """Made by the failure policy, because the storage's server did not answer."""


class RateLimitExceeded(CaptureKitError):
    """The caller has spent its quota; ``decision`` says which and when to try again."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(
            f"over the limit {decision.name!r} of {decision.limit} in {decision.window_s:g} s; "
            f"try again in {decision.retry_after_s:.3f} s"
        )
        self.decision = decision


def tightest(decisions: Sequence[Decision]) -> Decision:
    """The one that speaks for all: refused, then longest to wait, then least left.

    Raises ValueError when there is none.
    """
    return max(
        decisions, key=lambda one: (not one.allowed, one.retry_after_s, -one.remaining, one.reset_s)
    )


class Storage(Protocol):
    """Remembers what was spent, by account (a limiter's name) and key (a caller).

    The memory of an account does not depend on the limits: they may change between calls,
    and what was spent before counts against the new ones. In no window is more spent than
    its limit allows. An account may be shared by several limiters.
    """

    async def decide(
        self, account: str, key: str, quotas: Sequence[Quota], cost: int, *, spend: bool
    ) -> Decision:
        """One atomic step: spend ``cost`` in all windows of ``quotas``, or in none.

        With ``spend=False`` nothing is spent: the answer is what a hit would hear, with
        what is left now. ``quotas`` has one or more rules, each with another window.
        """
        ...

    async def reset(self, account: str, key: str) -> None:
        """Forget what this key spent."""
        ...

    async def keys(self, account: str, most: int) -> list[str]:
        """Up to so many keys that spent lately; those that it cannot name are left out.

        Memory tells those that spent most, a server whichever it finds first.
        """
        ...

    def count(self, account: str) -> int | None:
        """Keys remembered now, some of them idle; None where counting would cost a trip."""
        ...
