"""``RateLimiter("20/minute")``: rules, a storage, and who asks."""

import math
import operator
import threading
from collections.abc import Callable
from typing import Self, TypedDict

from limits import parse_many

from capturekit.ratelimit.decision import Decision, Quota, Storage
from capturekit.ratelimit.failover import DEADLINE_S, FailoverStats, FailoverStorage, OnFailure
from capturekit.ratelimit.memory import MemoryStorage
from capturekit.ratelimit.urls import open_storage

MAX_AMOUNT = 999_999_999_999_999
"""Largest amount of a rule, and window in seconds: the largest integer of RFC 9651."""


class LimiterStats(TypedDict):
    """A limiter at one moment, ready for JSON."""

    name: str
    rules: str
    scale: float
    keys: int | None
    """Keys in the storage, idle ones included; None where it cannot say."""
    allowed: int
    refused: int
    """Decisions of this object since it was made; peeks are not counted."""
    server: FailoverStats | None
    """How the storage's server does; None for memory."""


def _always_full() -> float:
    return 1.0


class RateLimiter:
    """Never lets a key spend more than its rules allow, in any window of their length.

    A hit is one atomic step of the storage, from any task or thread. Of several rules, all
    are spent or none. History is kept by name and window, independent of the amounts: a
    scale that moves, or a new limiter with the same name and storage, forgets nothing. (A
    *longer* window that is new to a name knows only what the windows before it still held.)

    Args:
        rules: In the notation of ``limits``: ``"20/minute"``, ``"20/minute; 200/hour"``,
            ``"5 per 10 seconds"``. An amount of 0 refuses everything. Of two rules with
            the same window the lower counts. Anything else is a ValueError.
        name: Names the account in the storage and the policy in headers; printable ASCII.
        storage: May be shared by several limiters; memory of its own if not given.
        scale: Asked at every decision for a factor from 0 to 1 on all amounts. They are
            rounded down, but to 0 only by a factor of 0. Out of range is a ValueError.
    """

    def __init__(
        self,
        rules: str,
        *,
        name: str = "default",
        storage: Storage | None = None,
        scale: Callable[[], float] = _always_full,
    ) -> None:
        if not (name and name.isascii() and name.isprintable()):
            raise ValueError(f"the name {name!r} of a limiter must be printable ASCII")
        self.name = name
        self.rules = rules
        self._quotas = _parse(rules, name)
        self._storage: Storage = MemoryStorage() if storage is None else storage
        self._scale = scale
        self._in_force = (1.0, self._quotas)
        self._counts_lock = threading.Lock()
        self._allowed = self._refused = 0

    @classmethod
    def from_url(
        cls,
        url: str,
        rules: str,
        *,
        name: str = "default",
        scale: Callable[[], float] = _always_full,
        on_failure: OnFailure = "local",
        deadline_s: float = DEADLINE_S,
    ) -> Self:
        """A limiter over the storage that a URL names: see ``open_storage``.

        ``async with`` it, or call ``aclose``, to close the connections to a server.
        """
        storage = open_storage(url, on_failure=on_failure, deadline_s=deadline_s)
        return cls(rules, name=name, storage=storage, scale=scale)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what the storage holds open for this event loop; memory holds nothing."""
        if isinstance(self._storage, FailoverStorage):
            await self._storage.aclose()

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Spend ``cost`` if every rule allows it, else nothing.

        Raises ValueError for a cost under 1 and TypeError for one that is no integer.
        """
        quotas = self._quotas if self._scale is _always_full else self._quotas_in_force()
        if type(cost) is not int or cost < 1:
            cost = _checked(cost)
        decision = await self._storage.decide(self.name, key, quotas, cost, spend=True)
        with self._counts_lock:
            self._allowed += decision.allowed
            self._refused += not decision.allowed
        return decision

    async def peek(self, key: str, cost: int = 1) -> Decision:
        """What a hit would hear now, without spending; ``remaining`` is what is left now."""
        quotas = self._quotas_in_force()
        return await self._storage.decide(self.name, key, quotas, _checked(cost), spend=False)

    async def keys(self, most: int = 100) -> list[str]:
        """Up to so many keys that spent lately, to ``peek`` at; for people, not for decisions.

        Long keys that a server keeps as a digest are not among them.
        """
        return await self._storage.keys(self.name, most)

    async def reset(self, key: str) -> None:
        """Forget what this key spent."""
        await self._storage.reset(self.name, key)

    def describe(self) -> LimiterStats:
        """Where the limiter stands, for stats and metrics. Costs no I/O."""
        storage = self._storage
        return LimiterStats(
            name=self.name,
            rules=self.rules,
            scale=self._scale(),
            keys=storage.count(self.name),
            allowed=self._allowed,
            refused=self._refused,
            server=storage.describe() if isinstance(storage, FailoverStorage) else None,
        )

    def _quotas_in_force(self) -> tuple[Quota, ...]:
        factor = self._scale()
        cached_factor, quotas = self._in_force
        if factor != cached_factor:
            quotas = tuple(_scaled(quota, factor) for quota in self._quotas)
            self._in_force = (factor, quotas)
        return quotas


def _checked(cost: int) -> int:
    cost = operator.index(cost)
    if cost < 1:
        raise ValueError(f"a hit costs at least 1, not {cost}")
    return cost


def _parse(rules: str, name: str) -> tuple[Quota, ...]:
    try:
        items = parse_many(rules)
    except ValueError as error:
        raise ValueError(
            f"{rules!r} is not a rate limit; write '20/minute', '5 per 10 seconds' or "
            "'20/minute; 200/hour'"
        ) from error
    amounts: dict[int, int] = {}
    for item in items:
        window_s = item.get_expiry()
        if max(item.amount, window_s) > MAX_AMOUNT:
            raise ValueError(f"{rules!r} has an amount or a window over {MAX_AMOUNT:,}")
        amounts[window_s] = min(item.amount, amounts.get(window_s, item.amount))
    several = len(amounts) > 1
    return tuple(
        Quota(f"{name}-{window_s}s" if several else name, amount, float(window_s))
        for window_s, amount in amounts.items()
    )


def _scaled(quota: Quota, factor: float) -> Quota:
    if not 0 <= factor <= 1:
        raise ValueError(f"the scale of {quota.name!r} is {factor}; it must be from 0 to 1")
    floor = min(1, quota.limit) if factor else 0
    return Quota(quota.name, max(floor, math.floor(quota.limit * factor)), quota.window_s)
