"""What a decision on a server costs, beside a PING and what others ask the server.

Run it: ``python tests/benchmarks/bench_ratelimit_redis.py``. It starts its own servers, and
asks in turns, over one connection each, so that a busy machine slows all. Then it prints
what a key costs the server at several limits. With ``--keys 1000000`` it prints what that
many distinct keys cost, instead.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from limits import parse
from limits.aio.storage import RedisStorage as LimitsStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pyrate_limiter import Rate, RateItem, RedisBucket
from redis.asyncio import Redis
from throttled.asyncio import RedisStore, Throttled

from capturekit.ratelimit import FailoverStorage, Quota, RateLimiter
from capturekit.ratelimit.redis import RedisStorage
from tests.servers_redis import RedisServer, free_port, running_redis

ROUNDS = 15
HITS = 400
KEYS = 8
LIMITS = (10, 100, 10_000)

Ask = Callable[[str], Awaitable[object]]


# redis-py's timeouts take a third of a PING. Everybody does without, as ours does.
BARE: dict[str, Any] = {"socket_timeout": None, "protocol": 2}


async def subjects(server: RedisServer, limit: int, stack: AsyncExitStack) -> dict[str, Ask]:
    """The questions to time, by name. All keep a limit per minute."""
    url, rules = f"redis://127.0.0.1:{server.port}", f"{limit}/minute"
    client = await stack.enter_async_context(Redis(port=server.port, **BARE))
    slower = await stack.enter_async_context(Redis(port=server.port))
    storage = await stack.enter_async_context(RedisStorage(url))
    alone = RateLimiter(rules, storage=storage, name="alone")
    guarded = RateLimiter(rules, storage=FailoverStorage(storage, deadline_s=5), name="guarded")

    item = parse(rules)
    theirs: Any = LimitsStorage(f"async+{url}", implementation="redispy", **BARE)
    limits = MovingWindowRateLimiter(theirs)
    stack.push_async_callback(theirs.bridge.storage.aclose)

    async def hit_and_stats(key: str) -> object:
        await limits.hit(item, key)
        return await limits.get_window_stats(item, key)

    store: Any = RedisStore(url, {"CONNECTION_POOL_KWARGS": BARE})
    throttled = Throttled(using="sliding_window", quota=f"{limit}/m", store=store)
    stack.push_async_callback(store._backend.get_client().aclose)  # noqa: SLF001  # no other way
    buckets: dict[str, Any] = {
        str(number): await RedisBucket.init([Rate(limit, 60_000)], client, f"pyrate:{number}")
        for number in range(KEYS)
    }
    return {
        "PING": lambda _: client.ping(),
        "PING, timeouts": lambda _: slower.ping(),
        "ours": alone.hit,
        "ours, deadline": guarded.hit,
        "limits hit": lambda key: limits.hit(item, key),
        "limits hit+stats": hit_and_stats,
        "throttled-py": throttled.limit,
        "pyrate-limiter": lambda key: buckets[key].put(RateItem(key, time.time_ns() // 10**6)),
    }


async def compare(server: RedisServer, limit: int) -> dict[str, float]:
    """Microseconds per question, medians over rounds in which all take turns."""
    async with AsyncExitStack() as stack:
        asked = await subjects(server, limit, stack)
        times_us: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(ROUNDS):
            for name, ask in asked.items():
                started = time.perf_counter()
                for number in range(HITS):
                    await ask(str(number % KEYS))
                times_us[name].append((time.perf_counter() - started) / HITS * 1e6)
    return {name: statistics.median(taken) for name, taken in times_us.items()}


async def script_us(server: RedisServer, limit: int) -> float:
    """Microseconds that the server itself spends on one decision."""
    async with RedisStorage(f"redis://127.0.0.1:{server.port}") as storage:
        limiter = RateLimiter(f"{limit}/minute", storage=storage, name="script")
        async with Redis(port=server.port) as client:
            await client.config_resetstat()
            for number in range(2000):
                await limiter.hit(str(number % KEYS))
            stats = await client.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec_per_call"])


async def bytes_per_key(server: RedisServer, limit: int) -> dict[str, int]:
    """What one key costs whose limit was spent evenly over the window."""
    url, spread = f"redis://127.0.0.1:{server.port}", min(limit, 1000)
    async with Redis(port=server.port) as client, RedisStorage(url) as storage:
        await client.flushall()
        theirs: Any = LimitsStorage(f"async+{url}", implementation="redispy", **BARE)
        item, limits = parse(f"{limit}/minute"), MovingWindowRateLimiter(theirs)
        store: Any = RedisStore(url, {"CONNECTION_POOL_KWARGS": BARE})
        throttled = Throttled(using="sliding_window", quota=f"{limit}/m", store=store)
        for number in range(spread):
            now_us = 10**15 + number * 60_000_000 // spread
            await storage.decide_timed(
                "a", "k", [Quota("q", limit, 60.0)], limit // spread, spend=True, now_us=now_us
            )
        for _ in range(limit):
            await limits.hit(item, "k")
            await throttled.limit("k")
        await theirs.bridge.storage.aclose()
        await store._backend.get_client().aclose()  # noqa: SLF001  # no other way
        costs = {"ours": 0, "LIMITS": 0, "throttled": 0}
        keys: Any = await client.keys()
        for key in keys:
            owner = {b"ck": "ours", b"LI": "LIMITS"}.get(key[:2], "throttled")
            costs[owner] += await client.memory_usage(key, samples=0) or 0
    return costs


async def many_keys(server: RedisServer, keys: int) -> None:
    """Print what distinct keys, each hit once, cost in memory and time."""
    async with Redis(port=server.port) as client:
        await client.flushall()
        before = (await client.info("memory"))["used_memory"]
        async with RedisStorage(f"redis://127.0.0.1:{server.port}") as storage:
            limiter = RateLimiter("20/hour", storage=storage)
            started = time.perf_counter()
            for number in range(keys):
                await limiter.hit(f"2001:db8::{number:x}")
            taken_s = time.perf_counter() - started
        grown = (await client.info("memory"))["used_memory"] - before
        expires = (await client.info("keyspace"))["db0"]["expires"]
    print(f"{keys:,} keys: {grown / keys:.0f} B each, {taken_s / keys * 1e6:.0f} µs each,", end=" ")
    print(f"{expires:,} of them expire")


def print_speed(kind: str, server: RedisServer) -> None:
    """Print one table of the comparison for each limit."""
    for limit in LIMITS:
        taken = asyncio.run(compare(server, limit))
        on_server_us = asyncio.run(script_us(server, limit))
        print(f"{kind}, {limit}/minute; the script alone {on_server_us:.1f} µs")
        for name, us in taken.items():
            ratios = f"{us / taken['PING']:6.2f} {us / taken['limits hit+stats']:6.2f}"
            print(f"  {name:18} {us:7.1f} µs {ratios}")
    for limit in LIMITS:
        costs = asyncio.run(bytes_per_key(server, limit))
        print(f"{kind}, {limit}/minute, B a key: {costs}")


def main() -> None:
    """Run on both servers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=0)
    keys = parser.parse_args().keys
    print("columns: time, as a multiple of PING, as a multiple of limits hit+stats")
    for kind in ("redis", "valkey"):
        with (
            tempfile.TemporaryDirectory(prefix="ck-") as folder,
            running_redis(kind, Path(folder), port=free_port()) as server,
        ):
            if keys:
                asyncio.run(many_keys(server, keys))
            else:
                print_speed(kind, server)


if __name__ == "__main__":
    main()
