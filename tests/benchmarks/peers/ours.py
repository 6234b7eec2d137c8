"""RedisQueue and Worker of this library; any URL of a queue will do."""

import itertools
import os

from pydantic import JsonValue

from capturekit.executors import ProcessExecutor, in_executor
from capturekit.queue.base import Job, JobState, QueueBackend
from capturekit.queue.urls import open_queue
from capturekit.worker import JobContext, Worker
from tests.benchmarks.peers import trial


def burn(payload: dict[str, JsonValue]) -> JsonValue:
    return trial.job(0.0, int(str(payload["turns"])))


async def job(context: JobContext) -> JsonValue:
    payload = context.job.payload
    return await trial.async_job(float(str(payload["sleep_s"])), int(str(payload["turns"])))


class OurClient:
    def __init__(self, queue: QueueBackend) -> None:
        self._queue = queue
        self._names = (f"{os.getpid()}-{number}" for number in itertools.count())

    def _job(self, sleep_s: float = 0.0, turns: int = 0) -> Job:
        kind = "burn" if turns else "job"
        payload: dict[str, JsonValue] = {"sleep_s": sleep_s, "turns": turns}
        return Job(id=next(self._names), kind=kind, payload=payload)

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        await self._queue.submit(self._job(sleep_s, turns))

    async def enqueue_many(self, count: int) -> None:
        await self._queue.submit(*[self._job() for _ in range(count)])

    async def check(self) -> object:
        job = self._job()
        await self._queue.submit(job)
        while (status := await self._queue.status(job.id)).state is not JobState.SUCCEEDED:
            await self._queue.wait(0.01)
        return status.result


async def client(url: str) -> None:
    async with open_queue(url) as queue:
        await trial.drive(OurClient(queue))


async def worker(url: str) -> None:
    concurrency = int(os.environ.get("TRIAL_CONCURRENCY", "10"))
    async with open_queue(url) as queue, ProcessExecutor(1) as executor:
        handlers = {"job": job, "burn": in_executor(executor, burn)}
        await Worker(queue, handlers, concurrency=concurrency).run()


if __name__ == "__main__":
    trial.main(client, worker)
