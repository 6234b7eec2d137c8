"""RQ with the worker that runs jobs in its own process; its usual one forks for each job."""

import asyncio

from redis import Redis
from rq import Queue, SimpleWorker

from tests.benchmarks.peers import trial


class RqClient:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        self._queue.enqueue(trial.job, sleep_s, turns)

    async def enqueue_many(self, count: int) -> None:
        self._queue.enqueue_many([Queue.prepare_data(trial.job) for _ in range(count)])

    async def check(self) -> object:
        job = self._queue.enqueue(trial.job)
        while not await asyncio.to_thread(job.latest_result, timeout=20):
            pass
        result: object = job.return_value()
        return result


async def client(url: str) -> None:
    await trial.drive(RqClient(Queue(connection=Redis.from_url(url))))


def worker(url: str) -> None:
    connection = Redis.from_url(url)
    SimpleWorker([Queue(connection=connection)], connection=connection).work(
        logging_level="ERROR", with_scheduler=False
    )


if __name__ == "__main__":
    trial.main(client, worker)
