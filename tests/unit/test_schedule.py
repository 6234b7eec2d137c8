"""A schedule makes each of its jobs once, whatever workers and clocks do."""

from datetime import UTC, datetime

import anyio
import pytest
from pydantic import JsonValue

from capturekit.errors import QueueFull
from capturekit.queue.base import Job, JobState, Submission
from capturekit.queue.memory import MemoryQueue
from capturekit.schedule import Schedule, Ticker
from capturekit.testing import FakeClock
from capturekit.worker import JobContext, Worker

pytestmark = pytest.mark.anyio

HOUR_S, DAY_S = 3600.0, 86_400.0
HOURLY = Schedule("sweep", "0 * * * *", "sweep")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-11-25 12:00:00")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON + 60)


@pytest.fixture
def queue(clock: FakeClock) -> MemoryQueue:
    return MemoryQueue(clock=clock)


async def made(queue: MemoryQueue) -> list[str]:
    """Ids of all jobs so far, the oldest first."""
    return [status.id for status in reversed(await queue.statuses())]


async def do_all(queue: MemoryQueue) -> None:
    for lease in await queue.claim("w", limit=1000):
        await queue.finish(lease)


# Cron


@pytest.mark.parametrize(
    ("cron", "before", "after"),
    [
        ("* * * * *", "2026-11-25 12:01:00", "2026-11-25 12:02:00"),
        ("0 * * * *", "2026-11-25 12:00:00", "2026-11-25 13:00:00"),
        ("30 3 * * *", "2026-11-25 03:30:00", "2026-11-26 03:30:00"),
        ("0 0 1 * *", "2026-11-01 00:00:00", "2026-12-01 00:00:00"),
        ("0 0 * * MON", "2026-11-23 00:00:00", "2026-11-30 00:00:00"),
        ("0 0 29 2 *", "2024-02-29 00:00:00", "2028-02-29 00:00:00"),
        ("*/20 * * * * *", "2026-11-25 12:01:00", "2026-11-25 12:01:20"),
    ],
)
def test_the_times_around_one(cron: str, before: str, after: str) -> None:
    schedule = Schedule("a", cron, "a")
    assert schedule.last_at(NOON + 60) == at(before)
    assert schedule.last_at(NOON + 60.5) == at(before)
    assert schedule.next_at(NOON + 60) == at(after)
    assert schedule.next_at(NOON + 60.5) == at(after)


def test_times_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert Schedule("a", "0 12 * * *", "a").last_at(NOON + 60) == NOON


@pytest.mark.parametrize(
    "cron", ["", "hourly", "61 * * * *", "* * *", "0 0 30 2 *", "* * * * * * *"]
)
def test_a_cron_that_is_wrong_is_named(cron: str) -> None:
    with pytest.raises(ValueError, match="schedule 'tidy': ") as caught:
        Schedule("tidy", cron, "a")
    assert repr(cron) in str(caught.value)


def test_a_cron_that_never_comes_is_named() -> None:
    with pytest.raises(ValueError, match="names no time within 50 years"):
        Schedule("tidy", "0 0 */31 * SUN#5", "a")


def test_a_name_that_makes_no_job_is_an_error() -> None:
    with pytest.raises(ValueError, match="id"):
        Schedule("x" * 200, "* * * * *", "a")


def test_two_schedules_of_one_name_are_an_error(queue: MemoryQueue) -> None:
    with pytest.raises(ValueError, match="schedules of one name: sweep"):
        Ticker(queue, [HOURLY, Schedule("sweep", "1 * * * *", "other")])


def test_the_job_is_made_of_the_schedule() -> None:
    schedule = Schedule("tidy", "0 * * * *", "prune", {"days": 3}, timeout_s=9)
    assert schedule.job(NOON) == Job(
        id="tidy@2026-11-25T12:00:00Z",
        kind="prune",
        payload={"days": 3},
        queue="maintenance",
        timeout_s=9,
        unique_key="schedule:tidy",
    )


# Ticks


async def test_each_time_is_submitted_once(queue: MemoryQueue, clock: FakeClock) -> None:
    ticker = Ticker(queue, [HOURLY], clock=clock)
    for _ in range(5):
        await ticker.tick()
        await do_all(queue)
        clock.advance(HOUR_S / 2)
    assert await made(queue) == [
        "sweep@2026-11-25T12:00:00Z",
        "sweep@2026-11-25T13:00:00Z",
        "sweep@2026-11-25T14:00:00Z",
    ]


async def test_of_several_workers_one_is_heard(queue: MemoryQueue, clock: FakeClock) -> None:
    tickers = [Ticker(queue, [HOURLY], clock=clock) for _ in range(3)]
    for _ in range(2):
        for ticker in tickers:
            await ticker.tick()
            await do_all(queue)
        clock.advance(HOUR_S)
    assert len(await made(queue)) == 2


async def test_what_was_missed_is_made_up_for_once(queue: MemoryQueue, clock: FakeClock) -> None:
    await Ticker(queue, [HOURLY], clock=clock).tick()
    await do_all(queue)
    clock.advance(10 * HOUR_S)
    await Ticker(queue, [HOURLY], clock=clock).tick()
    assert await made(queue) == ["sweep@2026-11-25T12:00:00Z", "sweep@2026-11-25T22:00:00Z"]


async def test_a_clock_set_back_repeats_nothing(queue: MemoryQueue, clock: FakeClock) -> None:
    ticker = Ticker(queue, [HOURLY], clock=clock)
    await ticker.tick()
    await do_all(queue)
    clock.advance(HOUR_S)
    await ticker.tick()
    await do_all(queue)
    clock.advance(-HOUR_S)
    for _ in range(4):
        await ticker.tick()
        await do_all(queue)
        clock.advance(HOUR_S / 4)
    assert len(await made(queue)) == 2


async def test_a_clock_that_ran_far_ahead_does_not_silence_it(
    queue: MemoryQueue, clock: FakeClock
) -> None:
    ticker = Ticker(queue, [HOURLY], clock=clock)
    clock.advance(400 * DAY_S)
    await ticker.tick()
    await do_all(queue)
    clock.advance(-400 * DAY_S)
    await ticker.tick()
    assert "sweep@2026-11-25T12:00:00Z" in await made(queue)


async def test_a_clock_set_forward_fires_once(queue: MemoryQueue, clock: FakeClock) -> None:
    ticker = Ticker(queue, [Schedule("often", "* * * * *", "a")], clock=clock)
    await ticker.tick()
    await do_all(queue)
    clock.advance(365 * DAY_S)
    await ticker.tick()
    assert len(await made(queue)) == 2


async def test_a_time_is_passed_over_while_the_job_of_another_runs(
    queue: MemoryQueue, clock: FakeClock
) -> None:
    ticker = Ticker(queue, [HOURLY], clock=clock)
    await ticker.tick()
    clock.advance(HOUR_S)
    await ticker.tick()
    assert await made(queue) == ["sweep@2026-11-25T12:00:00Z"]


class Full(MemoryQueue):
    """A queue without room, until it is told otherwise."""

    is_full = True

    async def submit(self, *jobs: Job) -> list[Submission]:
        if self.is_full:
            raise QueueFull(0)
        return await super().submit(*jobs)


async def test_what_could_not_be_submitted_is_tried_again(clock: FakeClock) -> None:
    queue = Full(clock=clock)
    ticker = Ticker(queue, [HOURLY], clock=clock)
    with pytest.raises(QueueFull):
        await ticker.tick()
    queue.is_full = False
    await ticker.tick()
    assert len(await made(queue)) == 1


# Workers


async def test_workers_run_what_comes_due_once() -> None:
    ran: list[str] = []
    done = anyio.Event()

    async def handler(context: JobContext) -> JsonValue:
        ran.append(context.job.id)
        if len(set(ran)) == 2:
            done.set()
        return None

    queue = MemoryQueue()
    every_second = Schedule("often", "* * * * * *", "test", queue="default")
    workers = [Worker(queue, {"test": handler}, schedules=[every_second]) for _ in range(2)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for worker in workers:
                tasks.start_soon(worker.run)
            await done.wait()
            for worker in workers:
                worker.stop()
    assert len(ran) == len(set(ran))
    assert (await queue.stats()).depth[JobState.FAILED] == 0


async def test_a_worker_outlives_a_full_queue() -> None:
    queue = Full()
    complaints: list[Exception] = []
    ticker = Ticker(queue, [HOURLY])
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ticker.run, complaints.append)
            await anyio.wait_all_tasks_blocked()
            queue.is_full = False
            while not await made(queue):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert [type(each) for each in complaints] == [QueueFull]
