"""taskiq as it comes: taskiq-redis' stream broker and result backend."""

from typing import Any

from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from tests.benchmarks.peers import trial


def made(url: str) -> tuple[RedisStreamBroker, Any]:
    """The broker and its task."""
    backend: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(url)
    broker = RedisStreamBroker(url).with_result_backend(backend)
    return broker, broker.register_task(trial.async_job, "job")


class TaskiqClient:
    def __init__(self, url: str) -> None:
        self.broker, self._task = made(url)

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        await self._task.kiq(sleep_s, turns)

    async def enqueue_many(self, count: int) -> None:
        for _ in range(count):
            await self._task.kiq()

    async def check(self) -> object:
        task = await self._task.kiq()
        result: object = (await task.wait_result(timeout=20)).return_value
        return result


async def client(url: str) -> None:
    client = TaskiqClient(url)
    await client.broker.startup()
    await trial.drive(client)


async def worker(url: str) -> None:
    await run_receiver_task(made(url)[0], run_startup=True)


if __name__ == "__main__":
    trial.main(client, worker)
