"""One worker or app that dies, freezes or loses its clock, on every backend."""

import time
from dataclasses import replace

import anyio
import pytest

from capturekit.queue.base import Job, JobState, JobStatus, RetryPolicy
from capturekit.queue.urls import open_queue
from tests.faults.actors import Point, SubmitterPlan, WorkerPlan
from tests.faults.crew import Crew
from tests.faults.effects import Verdict
from tests.faults.inquest import held
from tests.faults.looking import ended, go_on, started, until, verdicts
from tests.faults.worlds import World
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.anyio

LEASE_S = 0.6
AT_ONCE = RetryPolicy(max_attempts=3, base_s=0.001)


def causes(status: JobStatus) -> list[str | None]:
    """Of each attempt's failure, in their order."""
    return [attempt.error.type if attempt.error else None for attempt in status.attempts]


def a_worker(world: World, die_at: str = "") -> WorkerPlan:
    return WorkerPlan(world.url, str(world.folder), lease_s=LEASE_S, die_at=die_at)


@pytest.mark.parametrize(
    ("point", "effects", "attempts"),
    [
        (Point.CLAIMED, [(2, Verdict.ACCEPTED)], ["WorkerLost", None]),
        (Point.STARTED, [(2, Verdict.ACCEPTED)], ["WorkerLost", None]),
        (Point.EFFECTED, [(1, Verdict.ACCEPTED), (2, Verdict.KNOWN)], ["WorkerLost", None]),
        (Point.FINISHED, [(1, Verdict.ACCEPTED)], [None]),
    ],
)
async def test_a_worker_killed_at_any_point_leaves_one_effect(
    world: World,
    crew: Crew,
    point: Point,
    effects: list[tuple[int, Verdict]],
    attempts: list[str | None],
) -> None:
    async with open_queue(world.url) as queue:
        await queue.submit(Job(id="j", kind="effect", payload={"work_s": 0}, retry=AT_ONCE))
        doomed = crew.start(a_worker(world, point))

        async def is_gone() -> bool:
            return crew.gone() == [doomed]

        await until(is_gone, "it dies")
        crew.start(a_worker(world))
        status = await ended(queue, "j")
    assert status.state is JobState.SUCCEEDED
    assert causes(status) == attempts
    assert verdicts(world.folder, "j") == effects


@pytest.mark.parametrize("point", [Point.INTENDED, Point.SUBMITTED])
async def test_an_app_killed_while_it_submits_asks_again_and_gets_one_job(
    world: World, crew: Crew, point: Point
) -> None:
    plan = SubmitterPlan(world.url, str(world.folder), "app", 1, total=20, pause_s=0)
    for die_at in (point, ""):
        app = crew.start(replace(plan, die_at=die_at))

        async def is_gone(pid: int = app) -> bool:
            return crew.gone() == [pid]

        await until(is_gone, "it ends")
    crew.start(a_worker(world))
    async with open_queue(world.url) as queue:
        findings = await held(queue, world.folder, [plan])
    assert (findings.jobs, findings.wrong) == (20, [])


async def test_many_may_open_a_new_queue_at_once(world: World) -> None:
    if isinstance(world.server, PostgresServer):
        world = replace(world, url=world.server.new_database())

    async def open_it() -> None:
        async with open_queue(world.url) as queue:
            await queue.stats()

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(open_it)


async def test_a_frozen_workers_late_answer_is_fenced_off(world: World, crew: Crew) -> None:
    async with open_queue(world.url) as queue:
        await queue.submit(Job(id="j", kind="hang", retry=AT_ONCE))
        frozen = crew.start(a_worker(world))
        await started(world.folder, "j")
        crew.freeze(frozen)
        crew.start(a_worker(world))
        await started(world.folder, "j", attempt=2)
        # Both may end it now: the old one is thawed, and the file is what it waits for.
        go_on(world.folder, "j")
        crew.thaw(frozen)
        status = await ended(queue, "j")
        assert crew.stop(frozen) == 0
        after = await queue.status("j")
    assert status == after
    assert (status.state, causes(status)) == (JobState.SUCCEEDED, ["WorkerLost", None])
    accepted = [one for one in verdicts(world.folder, "j") if one[1] is Verdict.ACCEPTED]
    assert accepted == [(2, Verdict.ACCEPTED)]


async def test_a_job_that_kills_its_workers_fails_and_says_why(world: World, crew: Crew) -> None:
    async with open_queue(world.url) as queue:
        await queue.submit(Job(id="poison", kind="kill-worker", retry=AT_ONCE))
        crew.start(a_worker(world))

        async def has_ended() -> bool:
            for _ in crew.gone():
                crew.start(a_worker(world))
            return (await queue.status("poison")).state.is_final

        await until(has_ended, "it fails")
        status = await queue.status("poison")
        assert (status.state, causes(status)) == (JobState.FAILED, ["WorkerLost"] * 3)
        assert status.error is not None
        assert "died or hung" in status.error.message
        assert (await queue.retry("poison")).state is JobState.QUEUED


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
async def test_a_worker_whose_clock_is_set_wrong_and_right_again_does_no_harm(
    world: World, crew: Crew, step_s: float
) -> None:
    app = SubmitterPlan(world.url, str(world.folder), "app", 1, total=150, pause_s=0.03)
    # Jobs flow for more than a second; it is wrong for half of one.
    wrong = WorkerPlan(
        world.url, str(world.folder), lease_s=LEASE_S, steps=((0.6, step_s), (1.1, -step_s))
    )
    crew.start(app)
    for plan in (wrong, a_worker(world)):
        crew.start(plan)
    async with open_queue(world.url) as queue:

        async def all_submitted() -> bool:
            return bool(crew.gone())

        await until(all_submitted, "the app is done")
        findings = await held(queue, world.folder, [app], within_s=8)
        late = [one for one in await queue.statuses(limit=1000) if not one.state.is_final]
    assert findings.jobs == 150
    assert (findings.lost, findings.doubled) == (len(late), 0), findings
    # What such a worker put off waits an hour too long where its own clock is the queue's.
    assert not late or (step_s > 0 and not world.url.startswith("unix:"))
    for status in late:
        assert status.state is JobState.SCHEDULED
        assert status.next_retry_at is not None
        assert status.next_retry_at < time.time() + step_s + 1
