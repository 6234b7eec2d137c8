"""arq, which keeps results by itself."""

from typing import Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from tests.benchmarks.peers import trial


async def job(_context: dict[Any, Any], sleep_s: float = 0.0, turns: int = 0) -> int:
    return await trial.async_job(sleep_s, turns)


class ArqClient:
    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        await self._pool.enqueue_job("job", sleep_s, turns)

    async def enqueue_many(self, count: int) -> None:
        for _ in range(count):
            await self._pool.enqueue_job("job")

    async def check(self) -> object:
        job = await self._pool.enqueue_job("job")
        result: object = await job.result(timeout=20)
        return result


async def client(url: str) -> None:
    await trial.drive(ArqClient(await create_pool(RedisSettings.from_dsn(url))))


async def worker(url: str) -> None:
    settings = RedisSettings.from_dsn(url)
    await Worker([func(job, name="job")], redis_settings=settings, handle_signals=False).main()


if __name__ == "__main__":
    trial.main(client, worker)
