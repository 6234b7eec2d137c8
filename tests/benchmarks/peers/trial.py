"""What is the same for every library that is measured: its jobs, and how its client is driven.

Only the standard library is imported here, because a peer may live in an environment of its
own. A peer's file is run as ``python -m tests.benchmarks.peers.NAME client|worker URL``.
"""

import asyncio
import functools
import json
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

STAMP = struct.Struct("<q")
"""What a job writes into the pipe when it starts: the monotonic clock, in nanoseconds."""


@functools.cache
def _pipe() -> int:
    return os.open(os.environ["TRIAL_PIPE"], os.O_WRONLY)


def job(sleep_s: float = 0.0, turns: int = 0) -> int:
    """The job of a peer whose handlers are plain functions."""
    os.write(_pipe(), STAMP.pack(time.monotonic_ns()))
    if sleep_s:
        time.sleep(sleep_s)
    return burn(turns)


async def async_job(sleep_s: float = 0.0, turns: int = 0) -> int:
    """The job of a peer whose handlers are coroutines."""
    os.write(_pipe(), STAMP.pack(time.monotonic_ns()))
    if sleep_s:
        await asyncio.sleep(sleep_s)
    return burn(turns)


def burn(turns: int) -> int:
    """So much work for a CPU: 100,000 turns take some 5 ms."""
    total = 1
    for number in range(turns):
        total += number * number % 7
    return total


class Client(Protocol):
    """How a peer takes jobs."""

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        """One job."""
        ...

    async def enqueue_many(self, count: int) -> None:
        """So many jobs that do nothing, in the way that is cheapest for the peer."""
        ...

    async def check(self) -> object:
        """What one more job returned, once the peer says so."""
        ...


async def drive(client: Client) -> None:
    """Do what the lines of standard input ask for; answer each with a line."""
    answers: dict[str, Callable[..., Awaitable[object]]] = {
        "singly": functools.partial(_singly, client),
        "many": functools.partial(_many, client),
        "one": functools.partial(_one, client),
        "check": functools.partial(_check, client),
    }
    _tell("ready")
    # Blocking is right: between two questions a client is idle.
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        _tell(await answers[name](*arguments))


def _tell(what: object) -> None:
    print(json.dumps(what), flush=True)


async def _singly(client: Client, count: int, sleep_s: float, turns: int) -> float:
    """Seconds of CPU for ``count`` jobs, one at a time."""
    before = time.process_time()
    for _ in range(count):
        await client.enqueue(sleep_s, turns)
    return time.process_time() - before


async def _many(client: Client, times: int, size: int) -> float:
    before = time.process_time()
    for _ in range(times):
        await client.enqueue_many(size)
    return time.process_time() - before


async def _one(client: Client) -> int:
    """When it was about to be enqueued, by the monotonic clock, in nanoseconds."""
    asked_at = time.monotonic_ns()
    await client.enqueue(0.0, 0)
    return asked_at


async def _check(client: Client) -> object:
    """So that results are really kept."""
    return await asyncio.wait_for(client.check(), 20)


def main(client: Callable[[str], Awaitable[None]], worker: Callable[[str], object]) -> None:
    """Run the role named on the command line."""
    role, url = _arguments(sys.argv[1:])
    if role == "client":
        asyncio.run(_await(client(url)))
    elif asyncio.iscoroutinefunction(worker):
        asyncio.run(worker(url))
    else:
        worker(url)


def _arguments(given: Sequence[str]) -> tuple[str, str]:
    role, url = given
    return role, url


async def _await(what: Awaitable[None]) -> None:
    await what


def _burn_when_asked() -> None:
    """As a library without any cost would: what the machine itself has to give."""
    _tell("ready")
    turns = int(sys.stdin.readline())
    begun = time.monotonic()
    burn(turns)
    _tell(time.monotonic() - begun)


if __name__ == "__main__":
    _burn_when_asked()
