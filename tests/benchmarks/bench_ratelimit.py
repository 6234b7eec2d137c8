"""What a decision in memory costs, beside the moving window of ``limits``.

Run it: ``python tests/benchmarks/bench_ratelimit.py``. Both sides answer the same question
(may this pass, what is left, until when), in turns, so that a busy machine slows both.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from limits import parse
from limits.aio.storage import MemoryStorage as TheirStorage
from limits.aio.strategies import MovingWindowRateLimiter

from capturekit.ratelimit import RateLimiter

ROUNDS = 15
HITS = 2_000
RULES = ("20/minute", "1000/minute", "100000/hour")
LIVE_KEYS = 100_000

Hit = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds per decision, medians over the rounds."""

    rules: str
    ours_us: float
    hit_us: float
    """The hit of ``limits`` alone."""
    hit_and_stats_us: float
    """Its hit and get_window_stats, which together say what ours says."""


async def measure(rules: str, rounds: int = ROUNDS, hits: int = HITS) -> Row:
    """Time the three in turns, on a few keys that come again and again."""
    ours = RateLimiter(rules)
    item = parse(rules)
    theirs = MovingWindowRateLimiter(TheirStorage())
    theirs_with_stats = MovingWindowRateLimiter(TheirStorage())

    async def hit(key: str) -> object:
        return await theirs.hit(item, key)

    async def hit_and_stats(key: str) -> object:
        await theirs_with_stats.hit(item, key)
        return await theirs_with_stats.get_window_stats(item, key)

    times_us: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        for subject, taken_us in zip((ours.hit, hit, hit_and_stats), times_us, strict=True):
            taken_us.append(await _us_per_hit(subject, hits))
    return Row(rules, *(statistics.median(one) for one in times_us))


async def longest_pause_ms(keys: int = LIVE_KEYS) -> tuple[float, float]:
    """Median and longest time of one hit, in ms, while so many keys come and stay live."""
    limiter = RateLimiter("20/hour")
    taken_ms = []
    for number in range(2 * keys):
        started = time.perf_counter()
        await limiter.hit(str(number % keys))
        taken_ms.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken_ms), max(taken_ms)


async def _us_per_hit(hit: Hit, hits: int) -> float:
    started = time.perf_counter()
    for number in range(hits):
        await hit(str(number % 8))
    return (time.perf_counter() - started) / hits * 1e6


async def _print_all() -> None:
    print(f"{'rules':>12} {'ours µs':>8} {'hit':>8} {'+stats':>8} {'ours/hit':>9} {'ours/both':>9}")
    for rules in RULES:
        row = await measure(rules)
        print(
            f"{row.rules:>12} {row.ours_us:8.2f} {row.hit_us:8.2f} {row.hit_and_stats_us:8.2f}"
            f" {row.ours_us / row.hit_us:9.2f} {row.ours_us / row.hit_and_stats_us:9.2f}"
        )
    median_ms, longest_ms = await longest_pause_ms()
    print(
        f"{LIVE_KEYS:,} live keys: a hit takes {median_ms:.4f} ms, the longest {longest_ms:.1f} ms"
    )


def main() -> None:
    """Print the table."""
    asyncio.run(_print_all())


if __name__ == "__main__":
    main()
