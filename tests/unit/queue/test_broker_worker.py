"""``taskiq worker`` on our queues, in processes of its own."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq.kicker import AsyncKicker

from capturekit.errors import JobCancelled, Permanent
from capturekit.queue.base import JobState
from capturekit.queue.broker import QueueBroker
from capturekit.queue.urls import open_queue
from tests.servers_redis import running_redis
from tests.taskiq_workers import PATIENCE_S, taskiq_worker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

STOP_S = 1.0
"""Within this time a running job must stop that was cancelled."""

KINDS = ["sqlite", *(["redis"] if find_spec("capturekit.queue.redis") else [])]

T = TypeVar("T")


class Site:
    """A queue, a folder where tasks leave their marks, and workers to start."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        folder.mkdir()

    @contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker of taskiq, ended with all of its processes when the block is left."""
        environment = os.environ | {
            "TASKIQ_APP_QUEUE": self.url,
            "TASKIQ_APP_FOLDER": str(self.folder),
        }
        with taskiq_worker("tests.taskiq_app:broker", environment, *options) as process:
            yield process

    def marks(self, what: str) -> list[Path]:
        return sorted(self.folder.glob(f"{what}.*"))

    async def marked(self, what: str, times: int = 1) -> list[Path]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                marks = self.marks(what)
                if len(marks) >= times:
                    return marks
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[QueueBroker]:
        """The application's side: the same tasks by name."""
        broker = QueueBroker(open_queue(self.url))
        await broker.startup()
        try:
            yield broker
        finally:
            await broker.shutdown()


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    marks = tmp_path / "marks"
    if request.param == "sqlite":
        yield Site(f"sqlite:///{tmp_path}/queue.db", marks)
        return
    with TemporaryDirectory() as short, running_redis("valkey", Path(short)) as server:
        yield Site(server.url, marks)


async def result_of(task: AsyncTaskiqTask[T]) -> TaskiqResult[T]:
    return await task.wait_result(check_interval=0.02, timeout=PATIENCE_S)


async def send(
    broker: QueueBroker, name: str, *args: object, **labels: float | str
) -> AsyncTaskiqTask[object]:
    kicker: AsyncKicker[..., object] = AsyncKicker(name, broker, dict(labels))
    task: AsyncTaskiqTask[object] = await kicker.kiq(*args)
    return task


async def test_a_worker_runs_what_was_sent(site: Site) -> None:
    async with site.sender() as broker:
        with site.worker("--max-async-tasks", "2"):
            added = await result_of(await send(broker, "add", 1, 2))
            where = await result_of(await send(broker, "where", "here", mine="own", delay=0.2))
            retried = await result_of(await send(broker, "fail-twice", retry_base_s=0.01))
            refused = await result_of(await send(broker, "refuse"))

    assert added.return_value == 3
    assert isinstance(where.return_value, dict)
    assert where.return_value["name"] == "here"
    assert where.return_value["labels"]["mine"] == "own"
    assert retried.return_value == 3
    assert isinstance(refused.error, Permanent)
    assert len(site.marks("pre_execute-fail-twice")) == 3
    assert len(site.marks("on_error-fail-twice-OSError")) == 2
    assert len(site.marks("post_execute-refuse-True")) == 1


async def test_a_running_task_is_cancelled_from_another_process(site: Site) -> None:
    loop = asyncio.get_running_loop()
    async with site.sender() as broker:
        with site.worker():
            task = await send(broker, "hang", "a")
            await site.marked("hang-a")
            asked_at = loop.time()
            await broker.queue.cancel(task.task_id)
            result = await result_of(task)
            took_s = loop.time() - asked_at

    assert isinstance(result.error, JobCancelled)
    assert site.marks("stopped-a")
    assert took_s < STOP_S


async def test_what_a_killed_worker_held_is_finished_by_another(site: Site) -> None:
    async with site.sender() as broker:
        with site.worker():
            task = await send(broker, "hang-once", "a", retry_base_s=0.01)
            await site.marked("hang-once-a-1")
        with site.worker():
            result = await result_of(task)
            status = await broker.queue.status(task.task_id)

    assert result.return_value == 2
    assert [attempt.error and attempt.error.type for attempt in status.attempts] == [
        "WorkerLost",
        None,
    ]


async def test_a_worker_that_is_told_to_end_strands_nothing(site: Site) -> None:
    async with site.sender() as broker:
        for _ in range(100):  # more than a slow machine does before it hears the signal
            await send(broker, "nap", 0.3)
        with site.worker("--max-async-tasks", "4") as process:
            await site.marked("nap", times=5)
            process.terminate()
            await asyncio.to_thread(process.wait, PATIENCE_S)
            depth = (await broker.queue.stats()).depth
            workers = await broker.queue.workers()

    assert depth[JobState.RUNNING] == 0
    assert depth[JobState.SUCCEEDED] == len(site.marks("nap"))
    assert depth[JobState.SUCCEEDED] + depth[JobState.QUEUED] == 100
    assert depth[JobState.QUEUED] > 0
    assert workers == []


async def test_what_does_not_end_in_time_is_handed_back(site: Site) -> None:
    async with site.sender() as broker:
        task = await send(broker, "hang", "a")
        with site.worker("--wait-tasks-timeout", "0.2") as process:
            await site.marked("hang-a")
            process.terminate()
            await asyncio.to_thread(process.wait, PATIENCE_S)
            status = await broker.queue.status(task.task_id)

    assert site.marks("stopped-a")
    assert status.state is JobState.QUEUED
    assert status.attempts == ()


async def test_two_workers_share_equal_jobs(site: Site) -> None:
    async with site.sender() as broker:
        await broker.queue.pause()
        tasks = [await send(broker, "nap", 0.4) for _ in range(12)]
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(site.worker("--max-async-tasks", "2"))
            async with asyncio.timeout(PATIENCE_S):
                while len(await broker.queue.workers()) < 2:  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.02)
            await broker.queue.resume()
            who = [(await result_of(task)).return_value for task in tasks]

    shares = sorted(who.count(one) for one in set(who))
    assert shares in ([5, 7], [6, 6])
