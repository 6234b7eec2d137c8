"""What a call of the queue in Redis costs while 0 to 1,000,000 jobs wait in it.

Run it: ``python -m tests.benchmarks.bench_queue_redis [--most N]``. Microseconds of the
server's CPU, and of the client's, for each call; the best of some rounds.
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis import Redis

from capturekit.queue.base import Job, JobState
from capturekit.queue.redis import RedisQueue
from tests.servers_redis import RedisServer, running_redis

DEPTHS = (0, 1_000, 10_000, 100_000, 300_000, 1_000_000)
AT_ONCE = 1_000
CALLS = 200
ROUNDS = 3

_numbers = itertools.count()


def jobs(count: int) -> list[Job]:
    """Of three priorities."""
    return [
        Job(id=f"{number}", kind="test", priority=number % 3, payload={"capture": f"{number}"})
        for number in itertools.islice(_numbers, count)
    ]


def server_cpu_s(server: RedisServer) -> float:
    """What the server has used."""
    return time.clock_gettime((~server.process.pid << 3) | 2)


async def submit(queue: RedisQueue) -> None:
    await queue.submit(*jobs(1))


async def submit_100(queue: RedisQueue) -> None:
    await queue.submit(*jobs(100))


async def run_one(queue: RedisQueue) -> None:
    (lease,) = await queue.claim("w")
    await queue.finish(lease, {"done": True})


async def stats(queue: RedisQueue) -> None:
    await queue.stats()


OPERATIONS: dict[str, tuple[Callable[[RedisQueue], Awaitable[None]], int]] = {
    "submit": (submit, CALLS),
    "submit of 100, each": (submit_100, 10),
    "claim and finish": (run_one, CALLS),
    "stats": (stats, CALLS),
}


async def measure(queue: RedisQueue, server: RedisServer) -> dict[str, tuple[float, float]]:
    """Microseconds of server and client for each operation."""
    found: dict[str, tuple[float, float]] = {}
    for name, (operation, calls) in OPERATIONS.items():
        rounds = []
        for _ in range(ROUNDS):
            before = server_cpu_s(server), time.process_time()
            for _ in range(calls):
                await operation(queue)
            spent = server_cpu_s(server) - before[0], time.process_time() - before[1]
            rounds.append(spent)
        each = calls * (100 if "100" in name else 1)
        server_s, client_s = (min(column) for column in zip(*rounds, strict=True))
        found[name] = server_s / each * 1e6, client_s / each * 1e6
    await queue.prune(older_than_s=0)
    return found


async def main(most: int) -> None:
    """Measure at each depth, and print."""
    with (
        tempfile.TemporaryDirectory(prefix="ck-") as folder,
        running_redis("valkey", Path(folder)) as server,
    ):
        async with RedisQueue(server.url) as queue:
            print(f"{'at least':>10}" + "".join(f"{name:>22}" for name in OPERATIONS))
            for depth in (each for each in DEPTHS if each <= most):
                while (await queue.stats()).depth[JobState.QUEUED] < depth:
                    await queue.submit(*jobs(AT_ONCE))
                row = await measure(queue, server)
                cells = "".join(f"{there:12.1f} + {here:6.1f} " for there, here in row.values())
                print(f"{depth:10,} {cells}", flush=True)
            with Redis(unix_socket_path=str(server.socket)) as client:
                print(f"memory: {client.info('memory')['used_memory_human']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=DEPTHS[-1])
    asyncio.run(main(parser.parse_args().most))
