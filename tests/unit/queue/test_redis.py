"""What a queue in Redis does when its server fails, forgets, is full or is not alone."""

import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from capturekit.errors import (
    LeaseLost,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    UnknownJob,
)
from capturekit.queue.base import Beat, JobState, Lease, RetryPolicy
from capturekit.queue.broker import QueueBroker
from capturekit.queue.redis import RedisQueue
from capturekit.queue.redis.queue import MAX_AT_ONCE
from capturekit.queue.redis.wire import INCOMPLETE, PlainReader, Reader, Refused, new_reader
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract import a_job, a_worker
from tests.contract.queue_model import BOOM
from tests.proxy import Way, running_proxy
from tests.redis_together import fail_over, form_cluster
from tests.servers_redis import (
    RedisServer,
    free_port,
    running_cluster,
    running_redis,
    running_sentinel,
)

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("redis")]

KEEPS_ALL = ("--appendonly", "yes", "--appendfsync", "always")
PROMPT_S = 10.0
BASE = "{capturekit}:"


@contextmanager
def short_folder() -> Iterator[Path]:
    """The path of a unix socket has at most 108 bytes: pytest's own folders can be too long."""
    with tempfile.TemporaryDirectory(prefix="ck-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind; a test must leave it running."""
    with short_folder() as folder, running_redis(request.param, folder) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(server.socket)) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def queue(server: RedisServer, client: Redis, clock: FakeClock) -> AsyncIterator[RedisQueue]:
    del client  # It empties the server.
    async with RedisQueue(server.url, clock=clock) as queue:
        yield queue


async def start(queue: RedisQueue, job_id: str = "a", **more: object) -> Lease:
    await queue.submit(a_job(job_id, **more))
    (lease,) = await queue.claim("w", job_id=job_id)
    return lease


def keys(client: Redis) -> set[bytes]:
    found: Any = client.keys("*")
    return set(found)


# A server that fails


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_server_killed_between_any_two_calls_forgets_nothing(kind: str) -> None:
    """Each call is made right after a kill -9 and a restart on what was on the disk."""
    clock = FakeClock()
    with short_folder() as folder, running_redis(kind, folder, *KEEPS_ALL) as server:

        async def restart() -> None:
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)

        async with RedisQueue(server.url, clock=clock) as queue:
            job = a_job("a", batch="x", unique_key="u", concurrency_key="k", payload={"n": 1})
            await queue.submit(job, a_job("b", concurrency_key="k"))
            await restart()
            (lease,) = await queue.claim("w", limit=9)
            await restart()
            assert await queue.heartbeat(a_worker(), [lease]) == [Beat.HELD]
            await restart()
            assert await queue.fail(lease, BOOM) is JobState.SCHEDULED
            await restart()
            (other,) = await queue.claim("w", limit=9)
            await restart()
            await queue.finish(other, {"done": True})
            clock.advance(60)
            await restart()
            (second,) = await queue.claim("w", limit=9)
            await restart()
            await queue.finish(second, 7)
            await restart()
            status = await queue.status("a")
            stats = await queue.stats()
    assert (other.job.id, second.job, second.attempt) == ("b", job, 2)
    assert (status.state, status.result, len(status.attempts)) == (JobState.SUCCEEDED, 7, 2)
    assert stats.depth[JobState.SUCCEEDED] == 2


async def test_a_frozen_server_holds_up_no_call_beyond_its_deadline(server: RedisServer) -> None:
    async with RedisQueue(server.url, prefix="frozen", deadline_s=0.2) as queue:
        lease = await start(queue)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.submit(a_job("b")),
            lambda: queue.claim("w"),
            lambda: queue.heartbeat(a_worker(), [lease]),
            lambda: queue.orders("w", [lease]),
            lambda: queue.finish(lease),
            lambda: queue.wait(60),
            queue.stats,
        ]
        server.pause()
        try:
            for call in calls:
                with anyio.fail_after(PROMPT_S), pytest.raises(StorageUnavailable):
                    await call()
        finally:
            server.resume()
        with anyio.fail_after(PROMPT_S):
            assert (await queue.status("a")).id == "a"


async def test_who_waits_learns_that_the_server_died() -> None:
    with short_folder() as folder, running_redis("valkey", folder) as server:
        async with RedisQueue(server.url) as queue:

            async def kill() -> None:
                await anyio.to_thread.run_sync(server.kill)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kill)
                with anyio.fail_after(PROMPT_S), pytest.raises(StorageUnavailable):
                    await queue.wait(60)
            with pytest.raises(StorageUnavailable):
                await queue.submit(a_job())
            server.start()
            assert (await queue.submit(a_job()))[0].is_new
            await queue.wait(60)


async def test_a_cancelled_call_leaves_no_answer_for_the_next(
    server: RedisServer, queue: RedisQueue
) -> None:
    await queue.submit(a_job("a"), a_job("b", payload={"of": "b"}))
    server.pause()
    try:
        with anyio.move_on_after(0.05) as scope:
            await queue.status("a")
    finally:
        server.resume()
    assert scope.cancelled_caught
    assert (await queue.status("b")).payload == {"of": "b"}


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("count", [0, 1, 40, 150, 1000])
async def test_a_connection_cut_within_a_message_does_all_or_nothing(way: Way, count: int) -> None:
    with (
        short_folder() as folder,
        running_redis("valkey", folder) as server,
        running_proxy(server.socket) as proxy,
    ):
        async with RedisQueue(f"redis://127.0.0.1:{proxy.port}") as queue:
            await queue.submit(a_job("before"))
            jobs = [a_job(f"{number}", payload={"n": "x" * 30}) for number in range(9)]
            # So that not all are new, and the answer is a long one.
            jobs.append(a_job("before"))
            proxy.cut_after(way, count)
            try:
                await queue.submit(*jobs)
            except StorageUnavailable:
                known = len(await queue.statuses())
                assert known == (1 if way is Way.TO_SERVER else 10)
            proxy.cut_after(way, 10**9)
            answers = await queue.submit(*jobs)
            assert len(await queue.statuses()) == 10
            assert len(await queue.claim("w", limit=20)) == 10
            assert not answers[-1].is_new


async def test_a_flushed_script_cache_is_filled_again(queue: RedisQueue, client: Redis) -> None:
    await queue.submit(a_job())
    client.script_flush()
    assert len(await queue.claim("w")) == 1


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async with RedisQueue(f"unix://{tmp_path}/nothing") as queue:
        for call in (lambda: queue.submit(a_job()), lambda: queue.wait(1)):
            with pytest.raises(StorageUnavailable):
                await call()


async def test_a_wrong_password_is_unavailable_and_never_shown() -> None:
    options = ("--requirepass", "right")
    with short_folder() as folder, running_redis("redis", folder, *options) as server:
        for userinfo in ("", ":hunter2@"):
            async with RedisQueue(f"unix://{userinfo}{server.socket}") as queue:
                with pytest.raises(StorageUnavailable) as caught:
                    await queue.stats()
            assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{queue!r}"
        async with RedisQueue(f"unix://:right@{server.socket}?db=3") as queue:
            assert (await queue.submit(a_job()))[0].is_new


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_replica_is_read_only(kind: str) -> None:
    with short_folder() as folder, running_redis(kind, folder) as server:
        async with RedisQueue(server.url) as queue:
            await queue.submit(a_job())
            with Redis(unix_socket_path=str(server.socket)) as client:
                client.replicaof("127.0.0.1", str(free_port()))
                with pytest.raises(StorageReadOnly):
                    await queue.submit(a_job("b"))
                client.replicaof("NO", "ONE")
            assert (await queue.submit(a_job("b")))[0].is_new


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_server_that_cannot_save_is_read_only(kind: str) -> None:
    """By default Redis refuses writes when a snapshot failed: here its folder is gone."""
    with short_folder() as folder, running_redis(kind, folder / "r") as server:
        async with RedisQueue(server.url) as queue:
            lease = await start(queue)
            with Redis(unix_socket_path=str(server.socket)) as client:
                client.config_set("save", "3600 1")
                shutil.rmtree(folder / "r")
                client.bgsave()
                with anyio.fail_after(PROMPT_S):
                    while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
                        await anyio.lowlevel.checkpoint()
                with pytest.raises(StorageReadOnly, match="MISCONF"):
                    await queue.submit(a_job("b"))
                assert keys(client) >= {f"{BASE}job:a".encode()}
                assert f"{BASE}job:b".encode() not in keys(client)
                assert (await queue.orders("w", [lease])).beats == (Beat.HELD,)


# A server that is full


async def test_a_full_server_takes_no_job_and_works_off_what_it_has(
    queue: RedisQueue, client: Redis, clock: FakeClock
) -> None:
    lease = await start(queue, "held", concurrency_key="k", batch="x")
    failing, released = await start(queue, "failing"), await start(queue, "released")
    await queue.submit(a_job("next", concurrency_key="k"), a_job("later", delay_s=1))
    await queue.submit(a_job("doomed", batch="x"))
    before = keys(client)
    client.config_set("maxmemory", 1)
    with pytest.raises(StorageFull):
        await queue.submit(a_job("b", queue="new", unique_key="u", batch="y"), a_job("c"))
    assert keys(client) == before
    assert await queue.heartbeat(a_worker(), [lease]) == [Beat.HELD]
    await queue.resize("w", 3)
    await queue.report(lease, 0.5)
    await queue.pause("x")
    await queue.resume()
    await queue.cancel("doomed")
    await queue.finish(lease, {"large": "x" * 1000})
    await queue.release(released)
    assert await queue.fail(failing, BOOM) is JobState.SCHEDULED
    clock.advance(1)
    found = await queue.claim("w", limit=9)
    assert {each.job.id for each in found} >= {"next", "later", "released"}
    for each in found:
        await queue.finish(each)
    clock.advance(1)
    assert await queue.prune(older_than_s=0) >= 5
    with pytest.raises(StorageFull):
        await queue.submit(a_job("b"))
    client.config_set("maxmemory", 0)
    assert (await queue.submit(a_job("b", unique_key="u")))[0].is_new


# A server that forgets


async def test_what_is_held_is_lost_when_redis_forgets_everything(
    queue: RedisQueue, client: Redis, clock: FakeClock
) -> None:
    lease = await start(queue)
    client.flushall()
    assert await queue.heartbeat(a_worker(), [lease]) == [Beat.LOST]
    assert (await queue.orders("w", [lease])).beats == (Beat.LOST,)
    with pytest.raises(LeaseLost):
        await queue.finish(lease)
    clock.advance(1)
    new = await start(queue)
    assert new.attempt == lease.attempt
    assert await queue.heartbeat(a_worker(), [lease, new]) == [Beat.LOST, Beat.HELD]
    assert (await queue.orders("w", [lease, new])).beats == (Beat.LOST, Beat.HELD)
    with pytest.raises(LeaseLost):
        await queue.finish(lease, "of an attempt with the same number")
    await queue.finish(new, "new")
    assert (await queue.status("a")).result == "new"


@pytest.mark.parametrize("state", ["queued", "turn", "scheduled", "running", "ended"])
async def test_a_job_that_was_evicted_is_cleared_away(
    queue: RedisQueue, client: Redis, clock: FakeClock, state: str
) -> None:
    more: dict[str, object] = {"concurrency_key": "k", "batch": "x", "unique_key": "u"}
    if state == "queued":
        await queue.submit(a_job("gone"))
    elif state == "turn":
        await queue.submit(a_job("gone", **more))
    elif state == "scheduled":
        await queue.submit(a_job("gone", delay_s=1, **more))
    else:
        lease = await start(queue, "gone", **more)
        if state == "ended":
            await queue.finish(lease)
    client.delete(f"{BASE}job:gone")
    await queue.submit(a_job("next", concurrency_key="k"))
    clock.advance(60)
    (lease,) = await queue.claim("w", limit=9)
    assert lease.job.id == "next"
    await queue.finish(lease)
    clock.advance(60)
    with pytest.raises(UnknownJob):
        await queue.status("gone")
    assert await queue.prune(older_than_s=0) in (1, 2)
    assert (await queue.stats()).by_queue == {}
    names = ("queued", "scheduled", "running", "ended", "open", "heads", "busy", "turns")
    assert keys(client).isdisjoint(f"{BASE}{name}".encode() for name in names)
    (answer,) = await queue.submit(a_job("new", unique_key="u"))
    assert answer.is_new


async def test_something_else_under_our_keys_is_told_as_corrupt(
    queue: RedisQueue, client: Redis
) -> None:
    client.set(f"{BASE}job:a", "not ours")
    with pytest.raises(StorageCorrupt):
        await queue.submit(a_job("b"), a_job("a"))
    with pytest.raises(UnknownJob):
        await queue.status("b")
    assert (await queue.submit(a_job("b")))[0].is_new
    client.set(f"{BASE}open", "not ours", keepttl=False)
    with pytest.raises(StorageCorrupt):
        await queue.claim("w")
    client.delete(f"{BASE}open", f"{BASE}job:a")
    assert (await queue.submit(a_job("a")))[0].is_new


@pytest.mark.parametrize(
    "field",
    ["job", "payload", "v", "worker", "log", "priority", "due", "at", "attempt", "error", "state"],
)
async def test_no_broken_field_ends_a_worker(
    queue: RedisQueue, client: Redis, clock: FakeClock, field: str
) -> None:
    await start(queue, "bad", retry=RetryPolicy(max_attempts=2))
    client.hset(f"{BASE}job:bad", field, "\x00{")
    await queue.submit(a_job("good"))
    for _ in range(4):
        clock.advance(400)
        for lease in await queue.claim("w", limit=9):
            if lease.job.id == "good":
                await queue.finish(lease)
    assert (await queue.status("good")).state is JobState.SUCCEEDED
    assert "good" in {status.id for status in await queue.statuses()}
    await queue.stats()


ODD = ("", "x", "-1", "1.5", "nan", "inf", "1e999", "0x1F", "{", "[]", '{"retry":{"base_s":[]}}')
FIELDS = (
    *("job", "payload", "seq", "queue", "batch", "priority", "due", "at", "unique_for", "lane"),
    *("max", "attempt", "tries", "started", "worker", "log", "state", "error", "v"),
)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_in_a_jobs_fields_no_call_fails_half_way(
    queue: RedisQueue, client: Redis, clock: FakeClock, seed: int
) -> None:
    rng = random.Random(seed)
    keyed = {"concurrency_key": "k", "unique_key": "u", "unique_for_s": 5, "batch": "x"}
    for number in range(40):
        await queue.submit(
            a_job(f"{number}", delay_s=number % 3, **(keyed if number % 2 else {})),
            a_job(f"{number} more", concurrency_key=f"{number % 4}"),
        )
        for lease in await queue.claim("w", limit=2):
            if rng.random() < 0.5:
                await queue.finish(lease) if rng.random() < 0.5 else await queue.fail(lease, BOOM)
        name = rng.choice(sorted(key for key in keys(client) if b":job:" in key))
        client.hset(name.decode(), rng.choice(FIELDS), rng.choice(ODD))
        clock.advance(rng.choice([0, 1, 20]))
        await queue.stats()
        await queue.statuses()
        await queue.retry_failed()
        await queue.wait(0)
    await queue.prune(older_than_s=5, keep=3)


# Time


async def test_a_clock_that_steps_back_holds_nothing_up(
    queue: RedisQueue, clock: FakeClock
) -> None:
    await queue.submit(a_job("early"))
    held = await start(queue, "held")
    clock.advance(-3600)
    assert [lease.job.id for lease in await queue.claim("w")] == ["early"]
    assert await queue.heartbeat(a_worker(), [held]) == [Beat.HELD]
    await queue.submit(a_job("late"))
    assert [lease.job.id for lease in await queue.claim("w")] == ["late"]
    await queue.finish(held)
    assert (await queue.stats()).depth[JobState.RUNNING] == 2


async def test_without_a_clock_time_is_the_servers(server: RedisServer, client: Redis) -> None:
    async with RedisQueue(server.url, prefix="own time") as queue:
        seconds: Any = client.time()
        lease = await start(queue)
        await queue.submit(a_job("soon", delay_s=0.1))
        with anyio.fail_after(PROMPT_S):
            await queue.wait(60)
        assert abs(lease.started_at - seconds[0]) < PROMPT_S
        assert [each.job.id for each in await queue.claim("w")] == ["soon"]


# Bounds


async def test_after_a_drain_and_a_prune_nothing_is_left(
    queue: RedisQueue, client: Redis, clock: FakeClock
) -> None:
    async def work(rounds: int) -> tuple[set[bytes], int]:
        for number in range(rounds):
            jobs = [
                a_job(f"{number}-plain", queue=f"q{number % 3}"),
                a_job(f"{number}-key", concurrency_key=f"k{number}", batch=f"b{number}"),
                a_job(f"{number}-unique", unique_key=f"u{number}", unique_for_s=5, priority=number),
                a_job(f"{number}-later", delay_s=1, retry=RetryPolicy(max_attempts=1)),
                a_job(f"{number}-never", delay_s=100),
            ]
            await queue.submit(*jobs)
            await queue.cancel(f"{number}-never")
            clock.advance(1)
            for lease in await queue.claim("w", limit=9):
                await queue.heartbeat(a_worker(), [lease])
                if "later" in lease.job.id:
                    await queue.fail(lease, BOOM)
                else:
                    await queue.finish(lease, "x" * 100)
        await queue.forget_worker("w")
        clock.advance(1000)
        await queue.prune(older_than_s=0)
        # Marks end by themselves within a second.
        found = {key for key in keys(client) if b":wake" not in key}
        return found, sum(int(str(client.memory_usage(key) or 0)) for key in found)

    first = await work(1)
    assert await work(200) == first
    assert first[0] == {f"{BASE}seq".encode()}


async def test_marks_that_wake_are_few_and_do_not_last(queue: RedisQueue, client: Redis) -> None:
    for many in range(3):
        await queue.submit(*(a_job(f"{many} {number}") for number in range(25)))
    length: Any = client.llen(f"{BASE}wake")
    left_ms: Any = client.pttl(f"{BASE}wake")
    assert 0 < length <= 32
    assert 0 < left_ms <= 1000


async def test_who_takes_what_came_due_wakes_nobody_else(
    queue: RedisQueue, client: Redis, clock: FakeClock
) -> None:
    await queue.submit(a_job("a", delay_s=1), a_job("b", delay_s=1))
    clock.advance(1)
    client.delete(f"{BASE}wake")
    assert len(await queue.claim("w", limit=2)) == 2
    assert client.llen(f"{BASE}wake") == 0


async def test_a_mark_from_before_wakes_nobody(queue: RedisQueue) -> None:
    await queue.wait(0.01)
    lease = await start(queue)
    for _ in range(9):
        # Meanwhile the mark is heard, though nobody waits.
        await queue.report(lease, 0.5)
    with anyio.move_on_after(0.1) as patience:
        await queue.wait(60)
    assert patience.cancelled_caught


async def test_many_that_come_due_at_once_are_all_handed_out_and_counted(
    queue: RedisQueue, clock: FakeClock
) -> None:
    await queue.submit(*(a_job(f"{number}", delay_s=1) for number in range(2500)))
    clock.advance(1)
    assert len(await queue.claim("w", limit=10)) == 10
    assert (await queue.stats()).depth[JobState.QUEUED] == 2490


async def test_more_jobs_than_one_submission_takes_are_refused(queue: RedisQueue) -> None:
    with pytest.raises(ValueError, match="at most"):
        await queue.submit(*[a_job()] * (MAX_AT_ONCE + 1))


async def test_more_jobs_than_one_script_prunes_are_pruned(
    queue: RedisQueue, clock: FakeClock
) -> None:
    await queue.submit(*(a_job(f"{number}", batch="x") for number in range(2500)))
    await queue.cancel_batch("x")
    clock.advance(1)
    assert await queue.prune(older_than_s=0, keep=100) == 2500


async def test_extreme_priorities_and_delays_are_kept_in_order(queue: RedisQueue) -> None:
    most = 2**31 - 1
    priorities = [0, most, -most, 1, -1, most - 1]
    await queue.submit(
        *(a_job(f"{each}", priority=each) for each in priorities), a_job("never", delay_s=1e300)
    )
    order = [int(lease.job.id) for lease in await queue.claim("w", limit=9)]
    assert order == sorted(priorities, reverse=True)
    assert (await queue.status("never")).state is JobState.SCHEDULED


async def test_of_many_that_idle_one_job_wakes_few(server: RedisServer) -> None:
    woken: list[int] = []

    async def idle(queue: RedisQueue, number: int) -> None:
        await queue.wait(0.2)
        woken.extend([number] if await queue.claim(f"{number}") else [])

    async with RedisQueue(server.url, prefix="idle") as queue, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(partial(idle, queue, number))
        await anyio.wait_all_tasks_blocked()
        await queue.submit(a_job())
    assert len(woken) == 1


# More than one server


async def test_in_a_cluster_the_queue_is_on_one_node_and_found_there() -> None:
    with short_folder() as folder, running_cluster(folder) as nodes:
        form_cluster(nodes)
        for number, node in enumerate(nodes):
            url = f"redis+cluster://127.0.0.1:{node.port}"
            async with RedisQueue(url, prefix="far") as queue:
                await queue.wait(0.01)
                await queue.submit(a_job(f"{number}", unique_key="u", concurrency_key="k"))
                with anyio.fail_after(PROMPT_S):
                    await queue.wait(60)
                (lease,) = await queue.claim("w")
                await queue.finish(lease)
                assert (await queue.stats()).depth[JobState.SUCCEEDED] == number + 1


async def test_after_a_failover_the_new_master_has_the_jobs() -> None:
    at_once = ("--repl-diskless-sync-delay", "0")
    with (
        short_folder() as folder,
        running_redis("valkey", folder / "master", *at_once, port=free_port()) as master,
        running_redis("valkey", folder / "replica", port=free_port()) as replica,
        running_sentinel(folder / "sentinel", master, replica) as sentinel,
        Redis(port=replica.port) as replicated,
        Redis(port=sentinel.port) as watcher,
    ):
        replicated.replicaof("127.0.0.1", str(master.port))
        async with RedisQueue(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as queue:
            lease = await start(queue)
            fail_over(watcher, replica)
            with Redis(port=master.port) as old:
                # Old clients are not told; they find a server that may not write.
                old.replicaof("127.0.0.1", str(replica.port))
            with pytest.raises((StorageReadOnly, StorageUnavailable)):
                await queue.finish(lease)
            await queue.finish(lease, "on the new one")
            assert (await queue.status("a")).result == "on the new one"


def test_it_makes_a_taskiq_broker() -> None:
    queue = RedisQueue("redis://localhost")
    assert isinstance(queue.broker, QueueBroker)
    assert queue.broker is queue.broker


@pytest.mark.parametrize("url", ["redis+sentinel://:hunter2@host", "http://:hunter2@host"])
def test_a_url_that_cannot_be_read_is_a_value_error_and_never_shown(url: str) -> None:
    with pytest.raises(ValueError, match="RedisQueue") as caught:
        RedisQueue(url)
    assert "hunter2" not in str(caught.value)


# How Redis speaks

Answer: TypeAlias = tuple[object, bytes]
"""What it means, and how Redis says it."""

leaves: st.SearchStrategy[Answer] = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (number, b":%d\r\n" % number)),
    st.binary(max_size=20).map(lambda raw: (raw, b"$%d\r\n%b\r\n" % (len(raw), raw))),
    st.sampled_from(
        [
            *((b"OK", b"+OK\r\n"), (None, b"$-1\r\n"), (None, b"*-1\r\n"), ([], b"*0\r\n")),
            (Refused("ERR no"), b"-ERR no\r\n"),
        ]
    ),
)


def as_list(parts: list[Answer]) -> Answer:
    said = b"".join(said for _, said in parts)
    return [meant for meant, _ in parts], b"*%d\r\n%b" % (len(parts), said)


answers = st.recursive(leaves, lambda some: st.lists(some, max_size=4).map(as_list))


@pytest.mark.parametrize("make", [PlainReader, new_reader])
@given(parts=st.lists(answers, max_size=5), cuts=st.lists(st.integers(0, 60), max_size=4))
@example(parts=[(b"abc", b"$3\r\nabc\r\n"), (1, b":1\r\n")], cuts=[7, 8])
def test_what_the_server_says_is_heard_with_hiredis_and_without(
    make: Callable[[], Reader], parts: list[Answer], cuts: list[int]
) -> None:
    said = b"".join(each for _, each in parts)
    cuts = sorted(min(cut, len(said)) for cut in cuts)
    reader, heard = make(), []
    for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
        reader.feed(said[begin:end])
        while (reply := reader.gets()) is not INCOMPLETE:
            heard.append(reply)
    assert repr(heard) == repr([meant for meant, _ in parts])


@pytest.mark.parametrize("said", [b"?what\r\n", b"*1\r\n!x\r\n", b":abc\r\n"])
def test_without_hiredis_nonsense_is_told_as_such(said: bytes) -> None:
    reader = PlainReader()
    reader.feed(said)
    with pytest.raises(ValueError, match=r"RESP|invalid literal"):
        reader.gets()


async def test_every_error_is_a_storage_error(queue: RedisQueue, client: Redis) -> None:
    await queue.submit(a_job())
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(StorageError):
            await queue.submit(a_job("b"))
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert (await queue.submit(a_job("b")))[0].is_new
