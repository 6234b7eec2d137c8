"""What callers spent, in the memory of this process.

Each key has a log of (time, cost) per window, and a decision adds up what the window holds.
Small limits log exact times. Large ones round a time *up* to a sub-bucket, so that entries
merge: the log stays short, and an entry counts a little too long, never too short.
"""

import heapq
import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence

from capturekit.ratelimit.decision import Decision, Quota

EXACT_UP_TO = 64
"""Largest limit whose times are exact: its log cannot hold more entries than this."""

SUB_BUCKETS = 64
"""Per window, for larger limits. A steady stream gets 64/65 of what an exact log admits."""

MAX_KEYS = 100_000
"""Keys per window of a limiter, by default: at most about 120 MB."""


class MemoryStorage:
    """A Storage for one process. Safe from several threads; no decision ever waits for I/O.

    A key costs 0.4 kB with one entry and at most 1.2 kB per window (1.5 kB where costs add
    up to over 2^32, or for a while where the limit moved across EXACT_UP_TO). It is evicted
    only when all its entries have left the window. With ``max_keys`` live keys in a window,
    newcomers share one common log under the same limit until there is room: to forget a key
    would grant it quota, and to refuse newcomers would shut everyone out.

    Args:
        clock: Seconds, monotonic. When it steps back, time stands still for that reading.
        max_keys: Live keys of each limiter, per window.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, max_keys: int = MAX_KEYS
    ) -> None:
        if max_keys < 1:
            raise ValueError(f"max_keys is {max_keys}; it must be at least 1")
        self._clock = clock
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._accounts: dict[str, dict[float, _Book]] = {}
        self._last_reading = -math.inf
        self._stepped_back_s = 0.0

    async def decide(
        self, account: str, key: str, quotas: Sequence[Quota], cost: int, *, spend: bool
    ) -> Decision:
        """See Storage. Never suspends."""
        with self._lock:
            now = self._now()
            books = self._accounts.get(account)
            if books is not None and len(books) == len(quotas) == 1:
                # One rule is the common case, and takes half the time without lists.
                quota = quotas[0]
                book = books.get(quota.window_s)
                if book is not None:
                    return book.decide(key, quota, cost, now, spend=spend)
            return _decide(self._open_books(account, quotas), key, quotas, cost, now, spend=spend)

    async def reset(self, account: str, key: str) -> None:
        """See Storage. A newcomer that shares the common log leaves it if there is room."""
        with self._lock:
            for book in self._accounts.get(account, {}).values():
                book.clear(key)

    async def keys(self, account: str, most: int) -> list[str]:
        """See Storage."""
        with self._lock:
            books = self._accounts.get(account, {}).values()
            longest = max(books, key=lambda book: book.window_s, default=None)
            logs = longest.logs if longest else {}
            return heapq.nlargest(most, logs, key=lambda key: logs[key].used)

    def count(self, account: str) -> int:
        """See Storage."""
        with self._lock:
            books = self._accounts.get(account, {}).values()
            return max((len(book.logs) for book in books), default=0)

    def _now(self) -> float:
        reading = self._clock()
        if reading < self._last_reading:
            self._stepped_back_s += self._last_reading - reading
        self._last_reading = reading
        return reading + self._stepped_back_s

    def _open_books(self, account: str, quotas: Sequence[Quota]) -> "dict[float, _Book]":
        books = self._accounts.setdefault(account, {})
        for quota in quotas:
            if quota.window_s not in books:
                # Copying takes about 2 µs a key, once when rules change.
                longest = books[max(books)] if books else _Book(0.0, self._max_keys)
                books[quota.window_s] = longest.with_window(quota.window_s)
        return books


class _Log:
    """What was spent in one window, oldest first. ``used`` is the sum of the costs."""

    __slots__ = ("costs", "times", "used")

    def __init__(self) -> None:
        # Arrays hold 12 bytes an entry where lists of float and int hold up to 68.
        self.times = array("d")
        self.costs = array("I")
        self.used = 0

    def copy(self) -> "_Log":
        other = _Log()
        other.times, other.costs, other.used = self.times[:], self.costs[:], self.used
        return other

    def forget(self, window_s: float, now: float) -> None:
        """Drop what has left the window."""
        gone = 0
        for moment in self.times:
            if moment + window_s > now:
                break
            gone += 1
        if gone:
            self.used -= sum(self.costs[:gone])
            del self.times[:gone], self.costs[:gone]

    def add(self, moment: float, cost: int) -> None:
        """Append an entry, or merge it with the newest when that is not older."""
        self.used += cost
        if self.times and moment <= self.times[-1]:
            cost += self.costs.pop()
        else:
            self.times.append(moment)
        try:
            self.costs.append(cost)
        except OverflowError:
            self.costs = array("Q", [*self.costs, cost])


class _Book:
    """One window of one limiter: a log for each key that spent in it lately."""

    __slots__ = ("_common", "_max_keys", "_ring", "_sub_bucket_s", "logs", "window_s")

    def __init__(self, window_s: float, max_keys: int) -> None:
        self.window_s = window_s
        self._sub_bucket_s = window_s / SUB_BUCKETS
        self._max_keys = max_keys
        self.logs: dict[str, _Log] = {}
        # What the keys without a log of their own spent: empty unless there were too many.
        self._common = _Log()
        self._ring: deque[str] = deque()

    def with_window(self, window_s: float) -> "_Book":
        """Another window that starts with what this one remembers."""
        book = _Book(window_s, self._max_keys)
        book.logs = {key: log.copy() for key, log in self.logs.items()}
        book._common = self._common.copy()
        book._ring = self._ring.copy()
        return book

    def find(self, key: str, now: float) -> _Log:
        """The log that this key is judged by."""
        log = self.logs.get(key, self._common)
        if log.times and log.times[0] + self.window_s <= now:
            log.forget(self.window_s, now)
        return log

    def decide(self, key: str, quota: Quota, cost: int, now: float, *, spend: bool) -> Decision:
        """One atomic step where this is the only window and the only rule."""
        log = self.find(key, now)
        wait_s = 0.0
        if log.used + cost > quota.limit:
            wait_s = _wait_s(log, quota, cost, now)
        elif spend:
            log = self.spend(key, cost, now, exact=quota.limit <= EXACT_UP_TO)
        return _spoken(quota, log, wait_s, cost, now)

    def spend(self, key: str, cost: int, now: float, *, exact: bool) -> _Log:
        """Write a cost into the log of this key, which is opened if need be."""
        # One step before each hit and another before a newcomer, so that garbage shrinks.
        self._sweep_one(now)
        log = self.logs.get(key)
        if log is None:
            self._sweep_one(now)
            log = self._own(key)
        if not exact:
            now = max(now, math.ceil(now / self._sub_bucket_s) * self._sub_bucket_s)
        log.add(now, cost)
        return log

    def clear(self, key: str) -> None:
        """Empty this key's own log. It stays, so that the ring holds each key once."""
        if self._own(key) is not self._common:
            self.logs[key] = _Log()

    def _own(self, key: str) -> _Log:
        log = self.logs.get(key)
        if log is None:
            if len(self.logs) >= self._max_keys:
                return self._common
            # The common log may hold spendings of this key.
            log = self.logs[key] = self._common.copy() if self._common.times else _Log()
            self._ring.append(key)
        return log

    def _sweep_one(self, now: float) -> None:
        """Look at one key for eviction, each in turn."""
        ring = self._ring
        if not ring:
            return
        key = ring[0]
        times = self.logs[key].times
        if times and times[-1] + self.window_s > now:
            ring.rotate(-1)
        else:
            del self.logs[key], ring[0]


def _decide(
    books: dict[float, _Book],
    key: str,
    quotas: Sequence[Quota],
    cost: int,
    now: float,
    *,
    spend: bool,
) -> Decision:
    logs = [books[quota.window_s].find(key, now) for quota in quotas]
    waits_s = [_wait_s(log, quota, cost, now) for log, quota in zip(logs, quotas, strict=True)]
    if spend and not any(waits_s):
        logs = _spend(books, key, quotas, cost, now)

    def tightness(index: int) -> tuple[bool, float, int]:
        quota = quotas[index]
        return cost > quota.limit, waits_s[index], logs[index].used - quota.limit

    speaker = max(range(len(quotas)), key=tightness)
    return _spoken(quotas[speaker], logs[speaker], waits_s[speaker], cost, now)


def _spend(
    books: dict[float, _Book], key: str, quotas: Sequence[Quota], cost: int, now: float
) -> list[_Log]:
    if len(books) > len(quotas):
        # Windows of earlier rules, or of another limiter with this name, hear of it too.
        for window_s in books.keys() - {quota.window_s for quota in quotas}:
            books[window_s].find(key, now)
            books[window_s].spend(key, cost, now, exact=False)
    return [
        books[quota.window_s].spend(key, cost, now, exact=quota.limit <= EXACT_UP_TO)
        for quota in quotas
    ]


def _wait_s(log: _Log, quota: Quota, cost: int, now: float) -> float:
    """Seconds until ``cost`` fits; 0.0 when it fits now."""
    missing = log.used + cost - quota.limit
    if missing <= 0:
        return 0.0
    if cost > quota.limit:
        return max(quota.window_s, _reset_s(log, quota, now))
    for moment, spent in zip(log.times, log.costs, strict=True):
        missing -= spent
        if missing <= 0:
            return _until(moment + quota.window_s, now)
    raise AssertionError("a log's costs do not add up to what it says was used")


def _reset_s(log: _Log, quota: Quota, now: float) -> float:
    return _until(log.times[-1] + quota.window_s, now) if log.times else 0.0


def _until(moment: float, now: float) -> float:
    """The wait from now to a moment, rounded so that ``now + wait`` is not before it."""
    wait_s = moment - now
    while now + wait_s < moment:
        wait_s = math.nextafter(wait_s, math.inf)
    return wait_s


def _spoken(quota: Quota, log: _Log, wait_s: float, cost: int, now: float) -> Decision:
    reset_s = _reset_s(log, quota, now)
    limit = quota.limit
    left = limit - log.used
    return Decision(
        not wait_s,
        quota.name,
        limit,
        quota.window_s,
        left if left > 0 else 0,  # noqa: FURB136  # max() takes three times as long
        reset_s if reset_s > wait_s else wait_s,  # noqa: FURB136
        wait_s,
        cost,
    )
