"""SAQ, which keeps status and result in the job."""

from redis.asyncio import Redis
from saq import Worker
from saq.queue.redis import RedisQueue

from tests.benchmarks.peers import trial


async def job(_context: object, *, sleep_s: float = 0.0, turns: int = 0) -> int:
    return await trial.async_job(sleep_s, turns)


def made(url: str) -> RedisQueue:
    # redis-py 8 gives up after 5 s by default; a worker that waits longer loses jobs by it.
    return RedisQueue(Redis.from_url(url, socket_timeout=None))


class SaqClient:
    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        await self._queue.enqueue("job", sleep_s=sleep_s, turns=turns)

    async def enqueue_many(self, count: int) -> None:
        for _ in range(count):
            await self._queue.enqueue("job")

    async def check(self) -> object:
        job = await self._queue.enqueue("job")
        assert job is not None
        await job.refresh(until_complete=20)
        return job.result


async def client(url: str) -> None:
    queue = made(url)
    await queue.connect()
    await trial.drive(SaqClient(queue))


async def worker(url: str) -> None:
    queue = made(url)
    await queue.connect()
    await Worker(queue, [("job", job)]).start()


if __name__ == "__main__":
    trial.main(client, worker)
