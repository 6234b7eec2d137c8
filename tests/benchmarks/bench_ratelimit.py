"""What a decision in memory costs, in time and memory, beside other libraries.

Run it: ``python tests/benchmarks/bench_ratelimit.py [time|memory|lag]`` (needs limits,
throttled-py and pyrate-limiter). In turns, so that a busy machine slows all of them. Ours and
``hit + stats`` say what is left and until when; the ``hit`` of limits says yes or no.
throttled-py counts in two fixed windows and weighs them; the others keep logs.
"""

import asyncio
import gc
import itertools
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from limits import parse
from limits.aio.storage import MemoryStorage as TheirStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pyrate_limiter import BucketFactory, InMemoryBucket, Limiter, Rate, RateItem
from throttled.asyncio import MemoryStore, Throttled

from capturekit.ratelimit import MemoryStorage, RateLimiter

ROUNDS = 15
HITS = 2_000
LIVE_KEYS = 100_000
FILLED_HITS = 100_000
"""Of each library, to fill all keys up to their limit."""

Hit = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Hits per minute on keys that come again and again, or never."""

    says: str
    limit: int
    keys: int


TRAFFIC = (
    Traffic("few keys, admitted", 100_000_000, 8),
    Traffic("few keys, refused", 20, 8),
    Traffic("each key once", 20, 10**9),
)


def ours(limit: int, clock: Callable[[], float] = time.monotonic) -> Hit:
    """Our hit, which has the state in its answer."""
    return RateLimiter(f"{limit}/minute", storage=MemoryStorage(clock=clock)).hit


def limits_hit(limit: int) -> Hit:
    """The moving window of limits."""
    item, limiter = parse(f"{limit}/minute"), MovingWindowRateLimiter(TheirStorage())
    return lambda key: limiter.hit(item, key)


def limits_hit_and_stats(limit: int) -> Hit:
    """The same, and what is left."""
    item, limiter = parse(f"{limit}/minute"), MovingWindowRateLimiter(TheirStorage())

    async def hit(key: str) -> object:
        await limiter.hit(item, key)
        return await limiter.get_window_stats(item, key)

    return hit


def throttled_py(limit: int) -> Hit:
    """Its sliding window, with room for all keys."""
    store = MemoryStore(options={"MAX_SIZE": 10**9})
    limiter = Throttled(using="sliding_window", quota=f"{limit}/m", store=store)
    return limiter.limit


class _BucketOfEachKey(BucketFactory):
    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: dict[str, InMemoryBucket] = {}

    def wrap_item(self, name: str, weight: int = 1) -> RateItem:
        return RateItem(name, int(time.monotonic() * 1000), weight=weight)

    def get(self, item: RateItem) -> InMemoryBucket:
        bucket = self._buckets.get(item.name)
        if bucket is None:
            bucket = self._buckets[item.name] = InMemoryBucket([self._rate])
        return bucket


def pyrate_limiter(limit: int) -> Hit:
    """A bucket of its own for each key, which is how it keeps keys apart."""
    limiter = Limiter(_BucketOfEachKey(Rate(limit, 60_000)))
    return lambda key: limiter.try_acquire_async(key, blocking=False)


SUBJECTS: dict[str, Callable[[int], Hit]] = {
    "ours": ours,
    "limits hit": limits_hit,
    "limits hit + stats": limits_hit_and_stats,
    "throttled-py": throttled_py,
    "pyrate-limiter": pyrate_limiter,
}


async def hit_us(traffic: Traffic, rounds: int = ROUNDS, hits: int = HITS) -> dict[str, float]:
    """Median microseconds of a hit of each, measured in turns."""
    subjects = {name: make(traffic.limit) for name, make in SUBJECTS.items()}
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    first = 0
    for _ in range(rounds):
        for name, hit in subjects.items():
            started = time.perf_counter()
            for number in range(first, first + hits):
                await hit(str(number % traffic.keys))
            taken[name].append((time.perf_counter() - started) / hits * 1e6)
        first += hits
    return {name: statistics.median(one) for name, one in taken.items()}


async def bytes_per_key(name: str, limit: int, hits: int = FILLED_HITS) -> float:
    """Memory held for a key that has spent all of its limit."""
    keys = hits // limit
    # Ours merges what comes at nearly one time: so let it come over the whole window.
    seconds = itertools.count(0, 60 / limit / keys)
    tracemalloc.start()
    hit = ours(limit, lambda: next(seconds)) if name == "ours" else SUBJECTS[name](limit)
    await hit("first")
    empty = tracemalloc.get_traced_memory()[0]
    for number in range(keys * limit):
        await hit(f"ip:203.0.113.{number % keys}")
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (held - empty) / keys


async def lags_ms(hit: Hit, *, keys: int = LIVE_KEYS, seconds: float = 4.0) -> list[float]:
    """How late a task wakes that sleeps 1 ms, while others hit so many live keys."""
    until = time.perf_counter() + seconds
    numbers = itertools.count()

    async def traffic() -> None:
        while time.perf_counter() < until:
            await hit(str(next(numbers) % keys))
            await asyncio.sleep(0)

    async def tick() -> list[float]:
        late_ms = []
        while (started := time.perf_counter()) < until:
            await asyncio.sleep(0.001)
            late_ms.append((time.perf_counter() - started) * 1e3 - 1)
        return late_ms

    *_, late_ms = await asyncio.gather(*(traffic() for _ in range(16)), tick())
    assert isinstance(late_ms, list)
    return sorted(late_ms)


async def _print_times() -> None:
    print("µs a hit, and the ratio of ours to it")
    print(" " * 20 + "".join(f"{name:>20}" for name in SUBJECTS))
    for traffic in TRAFFIC:
        row = await hit_us(traffic)
        cells = (f"{us:13.2f} ({row['ours'] / us:4.2f})" for us in row.values())
        print(f"{traffic.says:>20}" + "".join(cells))


async def _print_memory() -> None:
    print("bytes a key whose limit is spent, hits over the whole minute")
    print(" " * 20 + "".join(f"{name:>20}" for name in SUBJECTS))
    for limit in (10, 100, 10_000):
        cells = [f"{await bytes_per_key(name, limit):20,.0f}" for name in SUBJECTS]
        print(f"{limit:>20,}" + "".join(cells))


async def _print_lags() -> None:
    async def nothing(_key: str) -> None:
        pass

    limiter = RateLimiter("20/hour")
    for number in range(LIVE_KEYS):
        await limiter.hit(str(number))
    for says, hit in (("16 tasks that hit", limiter.hit), ("that do nothing", nothing)):
        late_ms = await lags_ms(hit)
        print(
            f"{LIVE_KEYS:,} live keys, {says}: event loop late by {statistics.median(late_ms):.3f}"
            f" ms p50, {late_ms[int(len(late_ms) * 0.99)]:.3f} p99, {late_ms[-1]:.3f} at most"
        )


def main() -> None:
    """Print the tables."""
    parts = {"time": _print_times, "memory": _print_memory, "lag": _print_lags}
    for name in sys.argv[1:] or parts:
        asyncio.run(parts[name]())


if __name__ == "__main__":
    main()
