"""A worker runs what it claims, tells how it ended, and leaves nothing behind."""

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from pydantic import BaseModel, JsonValue

from capturekit.errors import (
    DamagedImage,
    Permanent,
    RateLimited,
    Retryable,
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    UnknownJob,
)
from capturekit.queue.base import (
    NOTICE_S,
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    RetryPolicy,
    WorkerInfo,
)
from capturekit.queue.memory import MemoryQueue
from capturekit.worker import IDLE_S, Handler, JobContext, Worker, typed

pytestmark = pytest.mark.anyio

PROMPT_S = 10.0
LEASE_S = 0.2
QUICK = RetryPolicy(max_attempts=3, base_s=0.001)


class Disk(MemoryQueue):
    """A queue on a disk that fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: dict[str, list[StorageError]] = {}
        self.failed = anyio.Event()
        self.leases: dict[str, Lease] = {}

    def fails(self, method: str, *errors: StorageError) -> None:
        self.trouble[method] = list(errors)

    def _spin(self, method: str) -> None:
        if errors := self.trouble.get(method):
            self.failed.set()
            raise errors.pop(0)

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease_s: float = 15.0,
        queues: Sequence[str] = (),
        job_id: str | None = None,
    ) -> list[Lease]:
        self._spin("claim")
        leases = await super().claim(
            worker, limit=limit, lease_s=lease_s, queues=queues, job_id=job_id
        )
        self.leases |= {lease.job.id: lease for lease in leases}
        return leases

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = 15.0
    ) -> list[Beat]:
        self._spin("heartbeat")
        return await super().heartbeat(worker, leases, lease_s=lease_s)

    async def report(self, lease: Lease, progress: float) -> None:
        self._spin("report")
        await super().report(lease, progress)

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        self._spin("finish")
        await super().finish(lease, result)

    async def release(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        self._spin("release")
        await super().release(lease, delay_s=delay_s)

    async def forget_worker(self, worker_id: str) -> None:
        self._spin("forget_worker")
        await super().forget_worker(worker_id)


@pytest.fixture
def queue() -> Disk:
    return Disk()


def a_job(job_id: str = "a", *, kind: str = "test", timeout_s: float = 300.0) -> Job:
    return Job(id=job_id, kind=kind, retry=QUICK, timeout_s=timeout_s)


def raising(error: Exception) -> Handler:
    async def handler(_context: JobContext) -> JsonValue:
        raise error

    return handler


async def answer(context: JobContext) -> JsonValue:
    return context.job.id


async def forever(_context: JobContext) -> JsonValue:
    await anyio.sleep_forever()
    return None


class Gate:
    """A handler that says when it began and ends when it is let through."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.opened = anyio.Event()
        self.contexts: list[JobContext] = []

    async def __call__(self, context: JobContext) -> JsonValue:
        self.contexts.append(context)
        self.begun.set()
        await self.opened.wait()
        return "through"


@asynccontextmanager
async def working(
    queue: MemoryQueue,
    handler: Handler | Mapping[str, Handler],
    *,
    concurrency: int = 2,
    grace_s: float = 5.0,
    queues: Sequence[str] = (),
    lease_s: float = LEASE_S,
) -> AsyncIterator[Worker]:
    """A worker at work; it is stopped in the end, and all of it in time."""
    handlers = handler if isinstance(handler, Mapping) else {"test": handler}
    worker = Worker(
        queue,
        handlers,
        concurrency=concurrency,
        lease_s=lease_s,
        grace_s=grace_s,
        name="tester",
        queues=queues,
    )
    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            yield worker
            worker.stop()


async def status_when(
    queue: MemoryQueue, is_so: Callable[[JobStatus], bool], job_id: str = "a"
) -> JobStatus:
    """The job's status as soon as it is so."""
    with anyio.fail_after(PROMPT_S):
        while not is_so(status := await queue.status(job_id)):
            await anyio.lowlevel.checkpoint()
    return status


async def ended(queue: MemoryQueue, job_id: str = "a") -> JobStatus:
    return await status_when(queue, lambda status: status.state.is_final, job_id)


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(PROMPT_S):
        while not is_so():
            await anyio.lowlevel.checkpoint()


async def until_listed(queue: MemoryQueue, concurrency: int | None = None) -> None:
    """Until the queue heard of a worker, and of this concurrency if given."""
    with anyio.fail_after(PROMPT_S):
        while not any(
            concurrency in (None, worker.concurrency) for worker in await queue.workers()
        ):
            await anyio.lowlevel.checkpoint()


async def told_to_resize(queue: MemoryQueue, worker: Worker, concurrency: int) -> None:
    await until_listed(queue)
    await queue.resize(worker.id, concurrency)


async def beaten(queue: MemoryQueue) -> None:
    """Until another heartbeat, and so orders too, came in."""
    (before,) = await queue.workers()
    with anyio.fail_after(PROMPT_S):
        while (await queue.workers())[0].heartbeat_at < before.heartbeat_at + 2 * NOTICE_S:
            await anyio.lowlevel.checkpoint()


# Outcomes


async def test_the_handlers_answer_is_the_result(queue: Disk) -> None:
    async def add(context: JobContext) -> JsonValue:
        return [context.job.id, context.attempt]

    await queue.submit(a_job())
    async with working(queue, add):
        status = await ended(queue)
    assert (status.state, status.result) == (JobState.SUCCEEDED, ["a", 1])


async def test_work_that_comes_later_is_done_at_once(queue: Disk) -> None:
    gate = Gate()
    async with working(queue, gate):
        await anyio.wait_all_tasks_blocked()
        await queue.submit(a_job())
        await gate.begun.wait()
        gate.opened.set()
        assert (await ended(queue)).result == "through"


@pytest.mark.parametrize("error", [Retryable("not now"), ValueError("odd"), StorageCorrupt("bad")])
async def test_a_failed_job_is_tried_until_its_attempts_are_used_up(
    queue: Disk, error: Exception
) -> None:
    await queue.submit(a_job())
    async with working(queue, raising(error)):
        status = await ended(queue)
    assert (status.state, len(status.attempts)) == (JobState.FAILED, 3)
    assert status.error == JobError(type=type(error).__name__, message=str(error), attempt=3)


@pytest.mark.parametrize("error", [Permanent("never"), DamagedImage("cut short")])
async def test_what_cannot_work_is_tried_once(queue: Disk, error: Exception) -> None:
    await queue.submit(a_job())
    async with working(queue, raising(error)):
        status = await ended(queue)
    assert (status.state, len(status.attempts)) == (JobState.FAILED, 1)
    assert status.error == JobError(type=type(error).__name__, message=str(error), attempt=1)


async def test_the_error_names_the_step_that_failed(queue: Disk) -> None:
    error = Permanent("no codes")
    error.step = "codes"  # type: ignore[attr-defined]  # as the pipeline's errors have it
    await queue.submit(a_job())
    async with working(queue, raising(error)):
        status = await ended(queue)
    assert status.error is not None
    assert status.error.step == "codes"


async def test_an_error_wrapped_by_a_task_group_is_told_as_itself(queue: Disk) -> None:
    await queue.submit(a_job())
    async with working(queue, raising(ExceptionGroup("", [Permanent("inner")]))):
        status = await ended(queue)
    assert status.error == JobError(type="Permanent", message="inner", attempt=1)


async def test_an_error_message_is_cut_and_fit_for_json(queue: Disk) -> None:
    await queue.submit(a_job())
    async with working(queue, raising(Permanent("\udcff" + "x" * 9999))):
        status = await ended(queue)
    assert status.error is not None
    assert status.error.message == "?" + "x" * 1999


async def test_a_job_of_an_unknown_kind_fails_for_good_and_says_why(queue: Disk) -> None:
    await queue.submit(a_job(kind="paint"))
    async with working(queue, forever):
        status = await ended(queue)
    assert (status.state, len(status.attempts)) == (JobState.FAILED, 1)
    assert status.error is not None
    assert status.error.type == "UnknownKind"
    assert status.error.message == "no handler for jobs of kind 'paint'; this worker knows: test"


async def test_an_answer_that_is_not_json_fails_for_good(queue: Disk) -> None:
    async def handler(_context: JobContext) -> JsonValue:
        return object()  # type: ignore[return-value]  # the mistake of this test

    await queue.submit(a_job())
    async with working(queue, handler):
        status = await ended(queue)
    assert status.error is not None
    assert (status.error.type, status.error.attempt) == ("Permanent", 1)
    assert status.error.message == "the handler returned a object that is not JSON"


async def test_a_rate_limited_job_waits_and_loses_no_attempt(queue: Disk) -> None:
    tries: list[int] = []

    async def handler(context: JobContext) -> JsonValue:
        tries.append(context.attempt)
        if len(tries) < 6:
            raise RateLimited("slow down", retry_after_s=0.002)
        return "at last"

    await queue.submit(a_job())
    async with working(queue, handler):
        status = await ended(queue)
    assert (status.result, len(status.attempts), len(tries)) == ("at last", 1, 6)


async def test_a_job_that_takes_too_long_is_stopped_and_fails(queue: Disk) -> None:
    await queue.submit(a_job(timeout_s=0.01))
    async with working(queue, forever):
        status = await ended(queue)
    assert (status.state, len(status.attempts)) == (JobState.FAILED, 3)
    assert status.error is not None
    assert (status.error.type, status.error.message) == ("JobTimeout", "took longer than 0.01 s")


async def test_work_in_a_thread_is_told_when_its_time_is_over(queue: Disk) -> None:
    stopped = threading.Event()

    async def handler(context: JobContext) -> JsonValue:
        def burn() -> str:
            while not context.should_stop():
                pass
            stopped.set()
            return "half of it"

        return await anyio.to_thread.run_sync(burn)

    await queue.submit(a_job(timeout_s=0.01))
    async with working(queue, handler):
        status = await status_when(queue, lambda status: status.error is not None)
    assert stopped.is_set()
    assert status.error is not None
    assert status.error.type == "JobTimeout"
    assert status.result is None


async def test_progress_is_shown(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate):
        await gate.begun.wait()
        await gate.contexts[0].progress(0.4)
        assert (await queue.status("a")).progress == 0.4
        gate.opened.set()


# Room


async def test_no_more_is_claimed_than_there_is_room_for(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(*(a_job(f"{number}") for number in range(5)))
    async with working(queue, gate, concurrency=2) as worker:
        await gate.begun.wait()
        await anyio.wait_all_tasks_blocked()
        assert worker.active == ("0", "1")
        depth = (await queue.stats()).depth
        assert (depth[JobState.RUNNING], depth[JobState.QUEUED]) == (2, 3)
        gate.opened.set()
        await ended(queue, "4")
    assert (await queue.stats()).depth[JobState.SUCCEEDED] == 5


class Telling(MemoryQueue):
    """A queue that is slow to keep what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = anyio.Event()

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        await self.kept.wait()
        await super().finish(lease, result)


async def test_the_next_job_is_run_while_the_end_of_one_is_told() -> None:
    queue = Telling()
    began: list[str] = []

    async def begin(context: JobContext) -> JsonValue:
        began.append(context.job.id)
        return None

    await queue.submit(*(a_job(f"{number}") for number in range(5)))
    async with working(queue, begin, concurrency=2):
        try:
            await until(lambda: len(began) == 4)
            await anyio.wait_all_tasks_blocked()
            # Should the queue never keep it, a worker does not take all there is.
            assert sorted(began) == ["0", "1", "2", "3"]
        finally:
            queue.kept.set()
        await ended(queue, "4")
    assert (await queue.stats()).depth[JobState.SUCCEEDED] == 5


async def test_only_the_named_queues_are_worked_on(queue: Disk) -> None:
    await queue.submit(a_job("other"), Job(id="mine", kind="test", queue="x"))
    gate = Gate()
    gate.opened.set()
    async with working(queue, gate, queues=["x"]):
        await ended(queue, "mine")
    assert (await queue.status("other")).state is JobState.QUEUED


def test_a_worker_without_room_is_an_error(queue: Disk) -> None:
    with pytest.raises(ValueError, match="give 1 to"):
        Worker(queue, {}, concurrency=0)


@pytest.mark.parametrize("how", ["by its method", "by the queue"])
async def test_a_worker_grows_at_run_time(queue: Disk, how: str) -> None:
    gate = Gate()
    await queue.submit(*(a_job(f"{number}") for number in range(4)))
    async with working(queue, gate, concurrency=1) as worker:
        await gate.begun.wait()
        if how == "by its method":
            worker.resize(3)
        else:
            await told_to_resize(queue, worker, 3)
        await until(lambda: len(worker.active) == 3)
        gate.opened.set()
        await ended(queue, "3")


async def test_a_worker_shrinks_as_its_jobs_end(queue: Disk) -> None:
    gates = [Gate(), Gate()]

    async def handler(context: JobContext) -> JsonValue:
        return await gates[context.job.id != "0"](context)

    await queue.submit(*(a_job(f"{number}") for number in range(4)))
    async with working(queue, handler, concurrency=3) as worker:
        await until(lambda: len(worker.active) == 3)
        await told_to_resize(queue, worker, 1)
        await until(lambda: worker.concurrency == 1)
        gates[0].opened.set()
        assert (await ended(queue, "0")).state is JobState.SUCCEEDED
        await anyio.wait_all_tasks_blocked()
        assert worker.active == ("1", "2")
        gates[1].opened.set()
        await ended(queue, "3")


async def test_a_new_size_is_shown_at_once(queue: Disk) -> None:
    async with working(queue, forever, lease_s=60) as worker:
        await until_listed(queue)
        await told_to_resize(queue, worker, 7)
        await until(lambda: worker.concurrency == 7)
        await until_listed(queue, 7)


async def test_the_workers_own_word_holds_until_the_queue_has_another(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate) as worker:
        # While it holds a job it asks four times a second.
        await gate.begun.wait()
        await told_to_resize(queue, worker, 7)
        await until(lambda: worker.concurrency == 7)
        worker.resize(2)
        await beaten(queue)
        assert worker.concurrency == 2
        gate.opened.set()


@pytest.mark.parametrize("wrong", [0, 1001])
async def test_a_size_that_is_none_is_an_error(queue: Disk, wrong: int) -> None:
    with pytest.raises(ValueError, match="give 1 to 1000"):
        Worker(queue, {}).resize(wrong)


async def test_equal_jobs_split_evenly(queue: Disk) -> None:
    """Each round of jobs ends together; who takes how many of the next is the workers' affair."""
    ran: dict[str, int] = {}
    all_in = anyio.Event()
    left = 12

    async def handler(context: JobContext) -> JsonValue:
        nonlocal left
        status = await queue.status(context.job.id)
        ran[status.attempts[-1].worker] = ran.get(status.attempts[-1].worker, 0) + 1
        await anyio.sleep(0.02)
        left -= 1
        if not left:
            all_in.set()
        return None

    await queue.submit(*(a_job(f"{number}") for number in range(12)))
    async with working(queue, handler, concurrency=1), working(queue, handler, concurrency=1):
        await all_in.wait()
    assert sorted(ran.values()) in ([6, 6], [5, 7])


# Until there is no more


async def test_a_worker_ends_when_nothing_is_due(queue: Disk) -> None:
    async def handler(context: JobContext) -> JsonValue:
        if context.job.id == "a":
            await queue.submit(a_job("made on the way"))
        return context.job.id

    later = Job(id="later", kind="test", delay_s=3600)
    await queue.submit(a_job("a"), a_job("b"), later)
    with anyio.fail_after(PROMPT_S):
        await Worker(queue, {"test": handler}).run(until_empty=True)
    depth = (await queue.stats()).depth
    assert (depth[JobState.SUCCEEDED], depth[JobState.SCHEDULED]) == (3, 1)
    assert await queue.workers() == []


async def test_a_worker_ends_when_its_own_queues_are_empty(queue: Disk) -> None:
    await queue.submit(Job(id="other", kind="test"), Job(id="mine", kind="test", queue="x"))
    with anyio.fail_after(PROMPT_S):
        await Worker(queue, {"test": answer}, queues=["x"]).run(until_empty=True)
    assert (await queue.status("mine")).state is JobState.SUCCEEDED
    assert (await queue.status("other")).state is JobState.QUEUED


class Deaf(Disk):
    """A queue that has no hints to give."""

    async def wait(self, timeout_s: float, *, queues: Sequence[str] = ()) -> None:
        del queues
        await anyio.sleep(timeout_s)


async def test_the_end_of_the_last_job_is_noticed_at_once() -> None:
    queue = Deaf()
    await queue.submit(a_job())
    with anyio.fail_after(IDLE_S / 2):
        await Worker(queue, {"test": answer}).run(until_empty=True)


async def test_a_worker_may_run_until_empty_again(queue: Disk) -> None:
    worker = Worker(queue, {"test": answer})
    with anyio.fail_after(PROMPT_S):
        for job_id in "ab":
            await queue.submit(a_job(job_id))
            await worker.run(until_empty=True)
            assert (await queue.status(job_id)).state is JobState.SUCCEEDED


# Payloads


class Size(BaseModel):
    """What a job of these tests takes."""

    width: int
    height: int = 1


async def area(_context: JobContext, size: Size) -> JsonValue:
    return size.width * size.height


async def test_a_payload_comes_as_its_model(queue: Disk) -> None:
    await queue.submit(Job(id="a", kind="test", payload={"width": 6, "height": 7}))
    assert (await Worker(queue, {"test": typed(Size, area)}).run_job("a")).result == 42


async def test_a_wrong_payload_fails_for_good_and_says_why(queue: Disk) -> None:
    await queue.submit(Job(id="a", kind="test", payload={"height": "tall"}, retry=QUICK))
    status = await Worker(queue, {"test": typed(Size, area)}).run_job("a")
    assert status.error == JobError(
        type="WrongPayload",
        message="the payload is no Size: width: Field required; height: Input should be a valid "
        "integer, unable to parse string as an integer",
        attempt=1,
    )


# Heartbeats


async def test_a_cancel_is_heard_long_before_a_heartbeat(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate, lease_s=600):
        await gate.begun.wait()
        with anyio.fail_after(1.0):
            await queue.cancel("a")
            assert (await ended(queue)).state is JobState.CANCELLED


async def test_a_cancel_is_heard_by_one_job_that_runs_by_name(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue, {"test": gate}, lease_s=600).run_job, "a")
        await gate.begun.wait()
        with anyio.fail_after(1.0):
            await queue.cancel("a")
            assert (await ended(queue)).state is JobState.CANCELLED


async def test_a_handler_that_blocks_the_loop_is_named(
    queue: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async def block(_context: JobContext) -> JsonValue:
        time.sleep(NOTICE_S + LEASE_S)  # noqa: ASYNC251  # the mistake of this test
        await anyio.sleep(NOTICE_S)
        return None

    await queue.submit(a_job())
    async with working(queue, block, lease_s=LEASE_S):
        await until(lambda: "no heartbeat for" in caplog.text)
    assert "should a handler have blocked it (one of: test), run it in" in caplog.text


async def test_a_worker_may_be_given_its_own_job_again(queue: Disk) -> None:
    gates = Gate(), Gate()

    async def handler(context: JobContext) -> JsonValue:
        return await gates[context.attempt - 1](context)

    await queue.submit(a_job())
    async with working(queue, handler, lease_s=600) as worker:
        await gates[0].begun.wait()
        # As when the worker stood still for longer than its lease.
        await queue.release(queue.leases["a"])
        await gates[1].begun.wait()
        assert worker.active == ("a", "a")
        await until(lambda: worker.active == ("a",))
        gates[1].opened.set()
        assert (await ended(queue)).result == "through"
        await queue.submit(a_job("b"))
        gates[0].opened.set()
        assert (await ended(queue, "b")).result == "through"


async def test_a_job_longer_than_its_lease_is_kept(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate):
        await gate.begun.wait()
        await status_when(queue, lambda _: time.time() > queue.leases["a"].expires_at)
        await queue.claim("thief")
        assert (await queue.status("a")).attempts[0].finished_at is None
        gate.opened.set()
        assert len((await ended(queue)).attempts) == 1


async def test_a_worker_is_listed_while_it_runs(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate, concurrency=3) as worker:
        await gate.begun.wait()
        await anyio.wait_all_tasks_blocked()
        (listed,) = await queue.workers()
        assert (listed.id, listed.concurrency, listed.jobs) == (worker.id, 3, ("a",))
        assert worker.id.startswith("tester-")
        gate.opened.set()
    assert await queue.workers() == []


async def test_a_cancelled_job_is_stopped(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate):
        await gate.begun.wait()
        assert not gate.contexts[0].should_stop()
        assert await queue.cancel("a") is CancelOutcome.CANCELLING
        assert (await ended(queue)).state is JobState.CANCELLED
    assert gate.contexts[0].should_stop()


async def test_a_job_that_was_given_away_is_stopped_and_says_nothing(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate) as worker:
        await gate.begun.wait()
        await queue.finish(queue.leases["a"], "someone else's")
        with anyio.fail_after(PROMPT_S):
            while worker.active:
                await anyio.lowlevel.checkpoint()
    status = await queue.status("a")
    assert (status.state, status.result) == (JobState.SUCCEEDED, "someone else's")


async def test_an_answer_that_comes_too_late_is_dropped(
    queue: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_context: JobContext) -> JsonValue:
        await queue.fail(
            queue.leases["a"], JobError(type="Taken", message="", attempt=1), is_permanent=True
        )
        return "mine"

    await queue.submit(a_job())
    async with working(queue, handler):
        status = await ended(queue)
    assert (status.state, status.result) == (JobState.FAILED, None)
    assert "job a: the answer came too late" in caplog.text


# Failing storage


@pytest.mark.parametrize("error", [StorageFull("full"), StorageBusy("busy"), StorageReadOnly("ro")])
async def test_a_full_disk_costs_a_job_no_attempt(
    queue: Disk, error: StorageError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capturekit.worker.STORAGE_PAUSE_S", 0.002)
    tries: list[int] = []

    async def handler(context: JobContext) -> JsonValue:
        tries.append(context.attempt)
        if len(tries) < 6:
            raise error
        return "written"

    await queue.submit(a_job())
    async with working(queue, handler):
        status = await ended(queue)
    assert (status.result, len(status.attempts)) == ("written", 1)


async def test_an_outcome_is_told_again_until_it_gets_through(queue: Disk) -> None:
    gate = Gate()
    gate.opened.set()
    queue.fails("finish", *[StorageFull("full")] * 3)
    await queue.submit(a_job())
    async with working(queue, gate):
        status = await ended(queue)
    assert (status.result, len(status.attempts), len(gate.contexts)) == ("through", 1, 1)


async def test_a_lost_lease_ends_the_telling(queue: Disk) -> None:
    gate = Gate()
    gate.opened.set()
    queue.fails("finish", *[StorageFull("full")] * 1_000_000)
    await queue.submit(a_job())
    async with working(queue, gate) as worker:
        await queue.failed.wait()
        await queue.cancelled(queue.leases["a"])
        with anyio.fail_after(PROMPT_S):
            while worker.active:
                await anyio.lowlevel.checkpoint()


async def test_a_worker_that_stops_gives_up_telling_a_full_disk(
    queue: Disk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capturekit.worker.MAX_REPORTS", 2)
    gate = Gate()
    gate.opened.set()
    queue.fails("finish", *[StorageFull("full")] * 1_000_000)
    await queue.submit(a_job())
    async with working(queue, gate):
        await queue.failed.wait()
    assert "job a: gave up reporting; its lease will run out" in caplog.text


async def test_progress_on_a_full_disk_does_not_fail_the_job(queue: Disk) -> None:
    async def handler(context: JobContext) -> JsonValue:
        await context.progress(0.5)
        return "done"

    queue.fails("report", StorageFull("full"))
    await queue.submit(a_job())
    async with working(queue, handler):
        assert (await ended(queue)).result == "done"


@pytest.mark.parametrize("method", ["claim", "heartbeat"])
async def test_the_worker_outlives_a_queue_that_fails(
    queue: Disk, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    gate.opened.set()
    queue.fails(method, StorageBusy("locked"), StorageBusy("locked"))
    async with working(queue, gate):
        await queue.failed.wait()
        await queue.submit(a_job())
        assert (await ended(queue)).result == "through"
    assert caplog.text.count("tries again until it works: locked") == 1


async def test_a_worker_leaves_even_if_the_queue_does_not_hear_it(queue: Disk) -> None:
    queue.fails("forget_worker", StorageFull("full"))
    async with working(queue, forever):
        await anyio.wait_all_tasks_blocked()


# Stopping


async def test_a_stopped_worker_takes_no_more_and_ends_what_it_has(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job("a"), a_job("b"))
    async with working(queue, gate, concurrency=1) as worker:
        await gate.begun.wait()
        worker.stop()
        gate.opened.set()
    assert (await queue.status("a")).state is JobState.SUCCEEDED
    assert (await queue.status("b")).state is JobState.QUEUED


async def test_what_does_not_end_in_time_is_handed_back(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate, grace_s=0.01):
        await gate.begun.wait()
    status = await queue.status("a")
    assert (status.state, status.attempts) == (JobState.QUEUED, ())
    assert gate.contexts[0].should_stop()


async def test_a_worker_that_is_cancelled_hands_everything_back(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(*(a_job(job_id) for job_id in "abc"))
    worker = Worker(queue, {"test": gate}, concurrency=2)
    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await gate.begun.wait()
            tasks.cancel_scope.cancel()
    assert (await queue.stats()).depth[JobState.QUEUED] == 3
    assert (worker.active, await queue.workers()) == ((), [])


async def test_a_worker_that_is_cancelled_as_it_starts_ends(queue: Disk) -> None:
    with anyio.fail_after(PROMPT_S):
        for steps in range(8):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Worker(queue, {}).run)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()


async def test_a_worker_stopped_before_it_ran_ends_at_once(queue: Disk) -> None:
    worker = Worker(queue, {})
    worker.stop()
    with anyio.fail_after(PROMPT_S):
        await worker.run()


# One job by name


async def test_one_job_runs_in_the_callers_task(queue: Disk) -> None:
    tasks: list[int] = []

    async def handler(_context: JobContext) -> JsonValue:
        tasks.append(anyio.get_current_task().id)
        return "inline"

    await queue.submit(a_job("first"), a_job("a"))
    await queue.pause()
    status = await Worker(queue, {"test": handler}).run_job("a")
    assert (status.state, status.result) == (JobState.SUCCEEDED, "inline")
    assert tasks == [anyio.get_current_task().id]
    assert (await queue.status("first")).state is JobState.QUEUED


async def test_one_job_is_tried_as_often_as_any(queue: Disk) -> None:
    await queue.submit(a_job())
    status = await Worker(queue, {"test": raising(Retryable("no"))}).run_job("a")
    assert (status.state, len(status.attempts)) == (JobState.FAILED, 3)


async def test_one_job_keeps_its_lease_without_a_running_worker(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    worker = Worker(queue, {"test": gate}, lease_s=LEASE_S)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run_job, "a")
        await gate.begun.wait()
        assert worker.active == ("a",)
        await status_when(queue, lambda _: time.time() > queue.leases["a"].expires_at)
        await queue.claim("thief")
        gate.opened.set()
    assert len((await queue.status("a")).attempts) == 1


async def test_one_job_that_runs_already_is_waited_for(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate) as worker, anyio.create_task_group() as tasks:
        await gate.begun.wait()
        tasks.start_soon(_opens_when_blocked, gate)
        status = await worker.run_job("a")
    assert (status.result, len(gate.contexts)) == ("through", 1)


async def test_one_job_that_runs_elsewhere_is_waited_for(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with working(queue, gate), anyio.create_task_group() as tasks:
        await gate.begun.wait()
        tasks.start_soon(_opens_when_blocked, gate)
        status = await Worker(queue, {}).run_job("a")
    assert status.result == "through"


async def _opens_when_blocked(gate: Gate) -> None:
    await anyio.wait_all_tasks_blocked()
    gate.opened.set()


async def test_waiting_for_one_job_has_an_end(queue: Disk) -> None:
    await queue.submit(a_job())
    await queue.claim("elsewhere")
    status = await Worker(queue, {}).run_job("a", timeout_s=0.01)
    assert status.state is JobState.RUNNING


async def test_one_job_that_is_unknown_is_an_error(queue: Disk) -> None:
    with pytest.raises(UnknownJob):
        await Worker(queue, {}).run_job("nobody")


async def test_a_caller_that_goes_away_hands_the_job_back(queue: Disk) -> None:
    gate = Gate()
    await queue.submit(a_job())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue, {"test": gate}).run_job, "a")
        await gate.begun.wait()
        tasks.cancel_scope.cancel()
    status = await queue.status("a")
    assert (status.state, status.attempts) == (JobState.QUEUED, ())


# Logs


async def test_an_unexpected_error_is_logged_with_its_traceback(
    queue: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.submit(a_job())
    async with working(queue, raising(ZeroDivisionError("oops"))):
        await ended(queue)
    first = next(each for each in caplog.records if "ZeroDivisionError" in each.getMessage())
    assert (first.levelno, first.exc_info is not None) == (logging.ERROR, True)
    assert first.getMessage() == "job a: attempt 1: ZeroDivisionError: oops"


async def test_an_expected_error_is_logged_without_one(
    queue: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.submit(a_job())
    async with working(queue, raising(Permanent("blurred"))):
        await ended(queue)
    (record,) = [each for each in caplog.records if "Permanent" in each.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
