"""One of several processes that hammer one key: python redis_hammer.py URL LIMIT WINDOW_S RUN_S.

Prints the server's time of each admitted hit, in microseconds, and its cost.
"""

import sys
import time

import anyio

from capturekit.ratelimit import Quota
from capturekit.ratelimit.redis import RedisStorage

TASKS = 16


async def hammer(url: str, quota: Quota, run_s: float) -> list[tuple[int, int]]:
    admitted: list[tuple[int, int]] = []
    until = time.monotonic() + run_s

    async def caller(storage: RedisStorage, cost: int) -> None:
        while time.monotonic() < until:
            decision, server_us = await storage.decide_timed(
                "hammered", "key", [quota], cost, spend=True
            )
            if decision.allowed:
                admitted.append((server_us, cost))

    async with RedisStorage(url) as storage, anyio.create_task_group() as group:
        for number in range(TASKS):
            group.start_soon(caller, storage, 1 + number % 3)
    return admitted


if __name__ == "__main__":
    url, limit, window_s, run_s = sys.argv[1:]
    quota = Quota("hammered", int(limit), float(window_s))
    for server_us, cost in anyio.run(hammer, url, quota, float(run_s)):
        print(server_us, cost)
