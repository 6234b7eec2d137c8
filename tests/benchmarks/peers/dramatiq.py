"""Dramatiq with its Redis broker and result backend; one process, one thread for jobs."""

import asyncio
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend

from tests.benchmarks.peers import trial

# Their classes are not typed.
_broker: Any = RedisBroker
_results: Any = Results
_backend: Any = RedisBackend


def made(url: str) -> tuple[dramatiq.Broker, Any]:
    """The broker and its actor."""
    broker = _broker(url=url)
    broker.add_middleware(_results(backend=_backend(url=url), store_results=True))
    dramatiq.set_broker(broker)
    return broker, dramatiq.actor(actor_name="job", broker=broker)(trial.job)


class DramatiqClient:
    def __init__(self, url: str) -> None:
        self._actor = made(url)[1]

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        self._actor.send(sleep_s, turns)

    async def enqueue_many(self, count: int) -> None:
        for _ in range(count):
            self._actor.send()

    async def check(self) -> object:
        message = self._actor.send()
        return await asyncio.to_thread(message.get_result, block=True, timeout=20_000)


async def client(url: str) -> None:
    await trial.drive(DramatiqClient(url))


def worker(url: str) -> None:
    dramatiq.Worker(made(url)[0], worker_threads=1).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    trial.main(client, worker)
