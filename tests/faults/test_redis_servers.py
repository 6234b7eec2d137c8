"""Redis restarted, frozen, emptied, full or cut off, while jobs flow."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from redis import Redis

from capturekit.errors import LeaseLost, StorageFull, StorageUnavailable, UnknownJob
from capturekit.frame import Frame
from capturekit.kit import SWEEP_S, CaptureKit, Upload
from capturekit.pipeline import ProcessingPipeline
from capturekit.queue.base import Job, JobState, RetryPolicy
from capturekit.queue.redis import RedisQueue
from capturekit.queue.urls import open_queue
from capturekit.settings import Settings
from capturekit.steps import default_pipeline
from capturekit.store import CaptureState
from tests.faults.actors import WorkerPlan, job_of
from tests.faults.crew import Crew
from tests.faults.flow import flowing
from tests.faults.looking import ended, go_on, started, until, verdicts
from tests.faults.worlds import World, on_redis
from tests.made_pictures import picture
from tests.proxy import Way, running_proxy
from tests.servers_redis import RedisServer

pytestmark = pytest.mark.anyio

CODE = "4006381333931"
LEASE_S = 0.6
AT_ONCE = RetryPolicy(max_attempts=3, base_s=0.001)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[World]:
    with on_redis(tmp_path) as world:
        yield world


def server_of(world: World) -> RedisServer:
    assert isinstance(world.server, RedisServer)
    return world.server


def command(world: World, *words: str | int) -> None:
    """Have the server do something."""
    with Redis.from_url(world.url) as client:
        client.execute_command(*words)


async def test_redis_may_be_killed_and_come_back_while_jobs_flow(redis: World, crew: Crew) -> None:
    async with flowing(redis, crew) as flow:
        for down_s in (0.0, 1.0):
            server_of(redis).kill()
            await anyio.sleep(down_s)
            server_of(redis).start()
            await flow.goes_on()


async def test_redis_may_be_frozen_for_longer_than_every_deadline(redis: World, crew: Crew) -> None:
    async with flowing(redis, crew) as flow:
        server_of(redis).pause()
        async with RedisQueue(redis.url, deadline_s=0.2) as queue:
            with pytest.raises(StorageUnavailable):
                await queue.stats()
        await anyio.sleep(6.0)
        server_of(redis).resume()
        await flow.goes_on()


async def test_connections_may_be_cut_within_a_message(redis: World, crew: Crew) -> None:
    with running_proxy(server_of(redis).socket) as proxy:
        async with flowing(redis, crew, url=f"redis://127.0.0.1:{proxy.port}") as flow:
            for number in range(30):
                proxy.cut_after(list(Way)[number % 2], 97 * number + 3)
                await flow.goes_on(4)
        assert proxy.cuts > 20


async def test_a_network_that_swallows_all_for_a_while_loses_nothing(
    redis: World, crew: Crew
) -> None:
    with running_proxy(server_of(redis).socket) as proxy:
        async with flowing(redis, crew, url=f"redis://127.0.0.1:{proxy.port}") as flow:
            proxy.delay(0.05)
            await flow.goes_on()
            proxy.delay(0)
            proxy.blackhole()
            await anyio.sleep(2.0)
            proxy.heal()
            await flow.goes_on()


@pytest.mark.parametrize("way", list(Way))
async def test_a_submission_that_is_cut_off_may_be_made_again(redis: World, way: Way) -> None:
    jobs = [Job(id=f"j{number}", kind="k") for number in range(20)]
    with running_proxy(server_of(redis).socket) as proxy:
        async with (
            RedisQueue(f"redis://127.0.0.1:{proxy.port}") as queue,
            RedisQueue(redis.url) as direct,
        ):
            # Known to the server, and the connection is there.
            await queue.submit(Job(id="first", kind="k"))
            proxy.cut_after(way, 1 if way is Way.TO_CLIENT else 1000)
            with pytest.raises(StorageUnavailable):
                await queue.submit(*jobs)
            is_done = way is Way.TO_CLIENT
            known = len(await direct.statuses())
            assert known == (21 if is_done else 1)
            answers = await queue.submit(*jobs)
            assert [one.is_new for one in answers] == [not is_done] * 20
            assert len(await direct.statuses()) == 21


async def test_a_full_redis_refuses_jobs_and_lets_those_it_has_be_done(
    redis: World, crew: Crew
) -> None:
    crew.start(WorkerPlan(redis.url, str(redis.folder), lease_s=LEASE_S, concurrency=1))
    async with open_queue(redis.url) as queue:
        await queue.submit(Job(id="held", kind="hang"), Job(id="waiting", kind="hang"))
        await started(redis.folder, "held")
        command(redis, "CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StorageFull):
            await queue.submit(Job(id="one-more", kind="hang"))
        # Longer than a lease: heartbeats must go on.
        await anyio.sleep(3 * LEASE_S)
        for job_id in ("held", "waiting"):
            go_on(redis.folder, job_id)
            status = await ended(queue, job_id)
            assert status.state is JobState.SUCCEEDED
            assert [one.error for one in status.attempts] == [None]
        with pytest.raises(UnknownJob):
            await queue.status("one-more")
        command(redis, "CONFIG", "SET", "maxmemory", 0)
        go_on(redis.folder, "one-more")
        await queue.submit(Job(id="one-more", kind="hang"))
        assert (await ended(queue, "one-more")).state is JobState.SUCCEEDED


async def test_an_emptied_redis_has_lost_its_jobs_and_serves_new_ones(
    redis: World, crew: Crew
) -> None:
    crew.start(WorkerPlan(redis.url, str(redis.folder), lease_s=LEASE_S, concurrency=1))
    async with open_queue(redis.url) as queue:
        jobs = [Job(id="held", kind="hang"), Job(id="waiting", kind="effect")]
        await queue.submit(*jobs)
        await started(redis.folder, "held")
        command(redis, "FLUSHALL")
        for job in jobs:
            with pytest.raises(UnknownJob):
                await queue.status(job.id)
        # Submitted again it is another job, which whoever works on the old one cannot end.
        new = Job(id="new", kind="effect", payload={"work_s": 0})
        await queue.submit(Job(id="held", kind="hang", delay_s=0.3), new)
        go_on(redis.folder, "held")
        assert (await ended(queue, "new")).state is JobState.SUCCEEDED
        assert (await ended(queue, "held")).state is JobState.SUCCEEDED
    assert verdicts(redis.folder, "waiting") == []


async def test_a_lease_from_before_redis_was_emptied_ends_nothing(redis: World) -> None:
    async with RedisQueue(redis.url) as queue:
        await queue.submit(Job(id="j", kind="k"))
        (old,) = await queue.claim("a worker")
        command(redis, "FLUSHALL")
        await queue.submit(Job(id="j", kind="k"))
        (new,) = await queue.claim("a worker")
        assert new.attempt == old.attempt
        with pytest.raises(LeaseLost):
            await queue.finish(old, "old")
        await queue.finish(new, "new")
        assert (await queue.status("j")).result == "new"


@pytest.mark.parametrize("seed", range(3))
async def test_a_redis_that_evicted_some_keys_serves_what_it_has_and_new_jobs(
    redis: World, crew: Crew, seed: int
) -> None:
    rng = random.Random(seed)
    async with open_queue(redis.url) as queue:
        jobs = [job_of("app", seed, number) for number in range(60)]
        await queue.submit(*jobs)
        for one in await queue.claim("a worker that dies", limit=10, lease_s=0.1):
            await queue.report(one, 0.5)
        evict(redis, rng)
        worker = crew.start(WorkerPlan(redis.url, str(redis.folder), lease_s=LEASE_S))
        new = [Job(id=f"new-{n}", kind="effect", payload={"work_s": 0}) for n in range(10)]
        await queue.submit(*new)
        for job in new:
            assert (await ended(queue, job.id)).state is JobState.SUCCEEDED
        await queue.stats()
        await queue.statuses(limit=1000)
        await queue.prune(older_than_s=0)
        assert crew.stop(worker) == 0, crew.words()


def evict(world: World, rng: random.Random) -> None:
    """Delete a third of the keys, as a server does that is full and may."""
    with Redis.from_url(world.url) as client:
        keys = sorted(client.scan_iter(count=10_000))
        client.delete(*rng.sample(keys, k=len(keys) // 3))


class _Gate:
    """A step that holds the first picture until it may go on."""

    fingerprint = "gate"

    def __init__(self) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, frame: Frame) -> Frame:
        self.has_begun.set()
        assert self.may_go_on.wait(20)
        return frame


async def test_captures_are_swept_up_when_redis_was_emptied(redis: World, tmp_path: Path) -> None:
    gate = _Gate()
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "data", "queue_url": redis.url, "concurrency": 1}
    )
    pipeline = ProcessingPipeline((gate,)) | default_pipeline()
    async with CaptureKit(settings, pipeline=pipeline) as kit:
        await kit.store.devices.add("camera")
        held, _ = await kit.receive(Upload(picture(CODE), "camera"))
        await anyio.to_thread.run_sync(gate.has_begun.wait, 20)
        waiting, _ = await kit.receive(Upload(picture(CODE, CODE), "camera"))
        command(redis, "FLUSHALL")
        await kit.sweep()
        gate.may_go_on.set()

        async def all_done() -> bool:
            captures = [await kit.store.captures.get(one.id) for one in (held, waiting)]
            return all(one.state is CaptureState.COMPLETED for one in captures)

        await until(all_done, "both captures are processed")
        runs = [await kit.store.captures.current_run(one.id) for one in (held, waiting)]
        assert all(runs)
        (row,) = (await kit.store.inventory.stock()).rows
        assert (row.item_id, row.quantity) == (CODE, 2)
        for status in await kit.queue.statuses():
            await ended(kit.queue, status.id)


async def test_a_capture_whose_worker_died_when_redis_was_emptied_is_processed(
    redis: World, tmp_path: Path
) -> None:
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "data", "queue_url": redis.url, "concurrency": 0}
    )
    async with CaptureKit(settings) as kit:
        await kit.store.devices.add("camera")
        capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
        (lease,) = await kit.queue.claim("a worker that dies")
        await kit.store.captures.start(capture.id, capture.series, lease.attempt)
        command(redis, "FLUSHALL")
        await kit.sweep()
        (job,) = await kit.queue.statuses()
        await kit.worker.run_job(job.id, timeout_s=20)
        assert (await kit.store.captures.get(capture.id)).state is CaptureState.COMPLETED


async def test_what_came_while_redis_was_away_is_processed_soon_after(
    redis: World, tmp_path: Path
) -> None:
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "data", "queue_url": redis.url, "concurrency": 1}
    )
    server_of(redis).kill()
    # Far less than the time between two sweeps of a server that misses nothing.
    with anyio.fail_after(SWEEP_S / 2):
        async with CaptureKit(settings) as kit:
            await kit.store.devices.add("camera")
            capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
            await anyio.to_thread.run_sync(server_of(redis).start)

            async def is_done() -> bool:
                state = (await kit.store.captures.get(capture.id)).state
                return state is CaptureState.COMPLETED

            await until(is_done, "the capture is processed")
