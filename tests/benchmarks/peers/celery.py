"""Celery with Redis as broker and result backend; its worker in one process (pool solo)."""

import asyncio
from typing import Any

from celery import Celery

from tests.benchmarks.peers import trial


def made(url: str) -> tuple[Any, Any]:
    """The application and its task."""
    app = Celery("peer", broker=url, backend=url)
    app.conf.update(broker_connection_retry_on_startup=True)
    return app, app.task(name="job")(trial.job)


class CeleryClient:
    def __init__(self, url: str) -> None:
        self._task = made(url)[1]

    async def enqueue(self, sleep_s: float, turns: int) -> None:
        self._task.delay(sleep_s, turns)

    async def enqueue_many(self, count: int) -> None:
        for _ in range(count):
            self._task.delay()

    async def check(self) -> object:
        return await asyncio.to_thread(self._task.delay().get, timeout=20)


async def client(url: str) -> None:
    await trial.drive(CeleryClient(url))


def worker(url: str) -> None:
    # Cheaper than with a child process, and without talk among workers.
    options = ["--pool=solo", "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
    made(url)[0].worker_main(["worker", *options])


if __name__ == "__main__":
    trial.main(client, worker)
