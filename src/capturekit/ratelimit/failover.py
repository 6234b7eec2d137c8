"""What a limiter answers while its storage's server does not.

A deadline for each decision, a circuit breaker, and a policy: let pass, refuse, or keep
limiting in this process.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, Literal, Self, TypedDict, TypeVar

from capturekit.errors import KeyInTheWay, StorageError, StorageUnavailable
from capturekit.ratelimit.decision import Decision, Quota, Storage
from capturekit.ratelimit.memory import MemoryStorage

OnFailure = Literal["open", "closed", "local"]
"""``open`` lets everything pass, ``closed`` nothing; ``local`` limits in this process alone."""

DEADLINE_S = 0.25
"""For one decision. Far over a round trip, far under what a caller waits for an answer."""

KEYS_DEADLINE_S = 1.0
"""For looking through keys, which only people ask for."""

FAILURES_TO_OPEN = 5
"""In a row. One that ran into the deadline opens the breaker at once."""

PROBE_EVERY_S = 1.0
"""While the breaker is open, one caller in this time tries the server."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Breaker(StrEnum):
    """The state of the circuit breaker."""

    CLOSED = "closed"
    """Decisions go to the server."""
    OPEN = "open"
    """The server failed; decisions are made without it."""
    HALF_OPEN = "half-open"
    """One caller is trying whether the server is back."""


class FailoverStats(TypedDict):
    """A FailoverStorage at one moment, ready for JSON."""

    on_failure: OnFailure
    breaker: str
    """``closed``, ``open`` or ``half-open``: see Breaker."""
    failures: int
    """Calls of the server that failed or were late."""
    fallbacks: int
    """Decisions made without the server."""
    opened: int
    """How often the breaker opened."""


class FailoverStorage:
    """A Storage that answers in time, whatever happens to the one it wraps.

    While the server is away, ``local`` keeps the rules in a MemoryStorage: each process
    admits up to the limit of its own, from empty. What is spent then is unknown to the server
    when it is back, and a server that restarted empty has forgotten what was spent. Such
    decisions have ``is_degraded`` set. A key that holds something else (KeyInTheWay) is
    answered by the policy too, and does not open the breaker.

    The log says when the breaker opens and when it closes, and nothing in between. Safe from
    several threads if the wrapped storage is.

    Args:
        storage: Raises StorageError when it cannot decide.
        on_failure: What to answer then.
        deadline_s: For one decision, connecting included.
        fallback: Decides for ``local``; a MemoryStorage if not given.
        clock: Seconds, monotonic; for the breaker.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        on_failure: OnFailure = "local",
        deadline_s: float = DEADLINE_S,
        fallback: Storage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if on_failure not in ("open", "closed", "local"):
            raise ValueError(f"on_failure is {on_failure!r}; it must be open, closed or local")
        if not deadline_s > 0:
            raise ValueError(f"deadline_s is {deadline_s}; it must be over 0")
        self._storage = storage
        self._on_failure: OnFailure = on_failure
        self._deadline_s = deadline_s
        self._fallback: Storage = MemoryStorage() if fallback is None else fallback
        self._clock = clock
        self._lock = threading.Lock()
        self._breaker = Breaker.CLOSED
        self._opened_at = -math.inf
        self._failures_in_a_row = 0
        self._failures = self._fallbacks = self._opened = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the wrapped storage, if it can be closed."""
        close: Any = getattr(self._storage, "aclose", None)
        if close is not None:
            await close()

    async def decide(
        self, account: str, key: str, quotas: Sequence[Quota], cost: int, *, spend: bool
    ) -> Decision:
        """See Storage. Never raises StorageError, and takes no longer than the deadline."""
        if self._may_call():
            try:
                return await self._call(
                    self._storage.decide(account, key, quotas, cost, spend=spend)
                )
            except StorageError:
                pass
        with self._lock:
            self._fallbacks += 1
        if self._on_failure == "local":
            local = await self._fallback.decide(account, key, quotas, cost, spend=spend)
            return local._replace(is_degraded=True)
        return _unjudged(quotas, cost, allowed=self._on_failure == "open")

    async def reset(self, account: str, key: str) -> None:
        """See Storage. Raises StorageError when the server does not hear of it."""
        await self._fallback.reset(account, key)
        if not self._may_call():
            raise StorageUnavailable("the rate limits' server does not answer; try again later")
        await self._call(self._storage.reset(account, key))

    async def keys(self, account: str, most: int) -> list[str]:
        """See Storage; those of this process while the server does not answer."""
        # Looking through many keys takes longer than a decision may, and says nothing of it.
        with contextlib.suppress(StorageError, TimeoutError):
            if self._breaker is Breaker.CLOSED:
                async with asyncio.timeout(KEYS_DEADLINE_S):
                    return await self._storage.keys(account, most)
        return await self._fallback.keys(account, most)

    def count(self, account: str) -> int | None:
        """See Storage: what the wrapped storage says."""
        return self._storage.count(account)

    def describe(self) -> FailoverStats:
        """For stats and metrics. Costs no I/O."""
        with self._lock:
            return FailoverStats(
                on_failure=self._on_failure,
                breaker=self._breaker.value,
                failures=self._failures,
                fallbacks=self._fallbacks,
                opened=self._opened,
            )

    def _may_call(self) -> bool:
        if self._breaker is Breaker.CLOSED:
            return True
        with self._lock:
            if self._clock() < self._opened_at + PROBE_EVERY_S or self._breaker is not Breaker.OPEN:
                return False
            self._breaker = Breaker.HALF_OPEN
            return True

    async def _call(self, answer: Awaitable[T]) -> T:
        """What the server says, in time; StorageError otherwise."""
        was_closed = self._breaker is Breaker.CLOSED
        try:
            # Half as dear as anyio's; what is wrapped needs asyncio in any case.
            async with asyncio.timeout(self._deadline_s):
                value = await answer
        except KeyInTheWay:
            self._note_answer(failed=1)
            raise
        except TimeoutError as error:
            late = f"no answer within {self._deadline_s:g} s"
            self._note_failure(late, enough=True)
            raise StorageUnavailable(late) from error
        except StorageError as error:
            self._note_failure(str(error), enough=not was_closed)
            raise
        except BaseException:
            # The caller went away, which says nothing about the server: the next one probes.
            self._note_cancelled(was_probe=not was_closed)
            raise
        if not was_closed or self._failures_in_a_row:
            self._note_answer()
        return value

    def _note_answer(self, failed: int = 0) -> None:
        with self._lock:
            self._failures += failed
            self._failures_in_a_row = 0
            was_open = self._breaker is not Breaker.CLOSED
            self._breaker = Breaker.CLOSED
        if was_open:
            logger.warning("the rate limits' server answers again")

    def _note_failure(self, reason: str, *, enough: bool) -> None:
        with self._lock:
            self._failures += 1
            self._failures_in_a_row += 1
            if not enough and self._failures_in_a_row < FAILURES_TO_OPEN:
                return
            was_closed = self._breaker is Breaker.CLOSED
            self._breaker = Breaker.OPEN
            self._opened_at = self._clock()
            self._opened += was_closed
        if was_closed:
            logger.error(
                "the rate limits' server failed; until it is back the policy is %r: %s",
                self._on_failure,
                reason,
            )

    def _note_cancelled(self, *, was_probe: bool) -> None:
        with self._lock:
            if was_probe and self._breaker is Breaker.HALF_OPEN:
                self._breaker = Breaker.OPEN


def _unjudged(quotas: Sequence[Quota], cost: int, *, allowed: bool) -> Decision:
    """The answer of a policy that counts nothing; the lowest limit speaks."""
    quota = min(quotas, key=lambda one: one.limit)
    return Decision(
        allowed=allowed,
        name=quota.name,
        limit=quota.limit,
        window_s=quota.window_s,
        remaining=quota.limit if allowed else 0,
        reset_s=0.0 if allowed else PROBE_EVERY_S,
        retry_after_s=0.0 if allowed else PROBE_EVERY_S,
        cost=cost,
        is_degraded=True,
    )
