"""taskiq, over a queue of ours: what is sent, run, told and stopped, in one process."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import JsonValue
from taskiq import (
    AsyncTaskiqTask,
    Context,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.depends.progress_tracker import ProgressTracker, TaskState
from taskiq.exceptions import NoResultError, ResultIsReadyError, SendTaskError
from taskiq.middlewares import SimpleRetryMiddleware, SmartRetryMiddleware
from taskiq.receiver import Receiver
from taskiq.serializers import PickleSerializer

from capturekit.errors import JobCancelled, Permanent, QueueFull, RateLimited, StorageBusy
from capturekit.queue.base import (
    CancelOutcome,
    Job,
    JobState,
    JobStatus,
    Lease,
    QueueBackend,
    RetryPolicy,
)
from capturekit.queue.broker import QueueBroker, current_delivery
from capturekit.queue.broker.message import job_of, message_of
from capturekit.queue.memory import MemoryQueue
from capturekit.queue.urls import open_queue

pytestmark = pytest.mark.anyio

T = TypeVar("T")

PROMPT_S = 10.0
STOP_S = 1.0
"""Within this time a running job must stop that was cancelled."""
QUICK = RetryPolicy(max_attempts=3, base_s=0.001)


class Disk(MemoryQueue):
    """A queue that is slow to answer a claim, or fails, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.has_claimed = asyncio.Event()
        self.troubles: list[StorageBusy] = []

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease_s: float = 15.0,
        queues: Sequence[str] = (),
        job_id: str | None = None,
    ) -> list[Lease]:
        self._spin()
        leases = await super().claim(
            worker, limit=limit, lease_s=lease_s, queues=queues, job_id=job_id
        )
        if leases:
            self.has_claimed.set()
            await self.may_answer.wait()
        return leases

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        self._spin()
        await super().finish(lease, result)

    def _spin(self) -> None:
        if self.troubles:
            raise self.troubles.pop()


class Hooks(TaskiqMiddleware):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        self.seen.append("pre_send")
        return message

    def post_send(self, message: TaskiqMessage) -> None:
        del message
        self.seen.append("post_send")

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        self.seen.append("pre_execute")
        return message

    def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        del message, result
        self.seen.append(f"on_error {exception!r}")

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        del message, result
        self.seen.append("post_execute")

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        del message, result
        self.seen.append("post_save")


class BeforeTask(TaskiqMiddleware):
    """Does something before each task."""

    def __init__(self, what: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._what = what

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        await self._what()
        return message


@pytest.fixture(params=["memory", "sqlite"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueBackend]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/queue.db"}[request.param]
    async with open_queue(url) as queue:
        yield queue


@pytest.fixture
async def broker(queue: QueueBackend) -> QueueBroker:
    return QueueBroker(nullcontext(queue), retry=QUICK, lease_s=0.6)


@asynccontextmanager
async def working(
    broker: QueueBroker,
    *,
    slots: int = 2,
    prefetch: int = 0,
    wait_tasks_timeout: float | None = None,
) -> AsyncIterator[asyncio.Event]:
    """A taskiq worker in this process; the event ends it."""
    finish = asyncio.Event()
    with ThreadPoolExecutor(1) as threads:
        receiver = Receiver(
            broker,
            threads,
            max_async_tasks=slots,
            max_prefetch=prefetch,
            wait_tasks_timeout=wait_tasks_timeout,
        )
        await broker.startup()
        receiver.run_startup = False
        listening = asyncio.create_task(receiver.listen(finish))
        try:
            yield finish
        finally:
            finish.set()
            await asyncio.wait_for(listening, PROMPT_S)
            await asyncio.wait_for(broker.shutdown(), PROMPT_S)


async def ended(queue: QueueBackend, job_id: str) -> JobStatus:
    return await reached(queue, job_id, lambda status: status.state.is_final)


async def reached(
    queue: QueueBackend, job_id: str, is_it: Callable[[JobStatus], bool]
) -> JobStatus:
    async with asyncio.timeout(PROMPT_S):
        while True:
            status = await queue.status(job_id)
            if is_it(status):
                return status
            await asyncio.sleep(0.005)


async def result_of(task: AsyncTaskiqTask[T]) -> TaskiqResult[T]:
    return await task.wait_result(check_interval=0.01, timeout=PROMPT_S)


def lease_of(job: Job) -> Lease:
    return Lease(job=job, attempt=1, worker="w", expires_at=1, started_at=0, tries=1)


# What is sent


async def test_a_job_of_ours_runs_the_task_of_its_kind(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    @broker.task("process-capture")
    async def process(capture_id: str, series: int) -> str:
        return f"{capture_id} {series}"

    async with working(broker):
        payload: dict[str, JsonValue] = {"capture_id": "c1", "series": 2}
        await queue.submit(Job(id="a", kind="process-capture", payload=payload))
        status = await ended(queue, "a")

    assert status.state is JobState.SUCCEEDED
    assert status.result == "c1 2"


async def test_keyword_arguments_are_the_payload(queue: QueueBackend, broker: QueueBroker) -> None:
    task = broker.register_task(lambda name: name, task_name="greet")
    await broker.startup()

    sent = await task.kiq(name="Ada")

    assert (await queue.status(sent.task_id)).payload == {"name": "Ada"}


def test_a_message_comes_back_whole() -> None:
    message = TaskiqMessage(
        task_id="m",
        task_name="t",
        labels={"a": "1", "b": "x", "c": "eA=="},
        labels_types={"a": 2, "b": 3, "c": 6},
        args=[1, [None, {"deep": 1.5}]],
        kwargs={"when": "now"},
    )

    job = job_of(message, QUICK)
    back = message_of(lease_of(Job.model_validate_json(job.model_dump_json())))

    assert back.labels.pop("_attempt") == 1
    assert back.labels.pop("_retries") == 0
    assert back == message


def test_labels_say_what_the_job_is() -> None:
    labels = {
        "queue_name": "slow",
        "priority": "7",
        "delay": "1.5",
        "timeout": "20",
        "batch": "b",
        "unique_key": "u",
        "unique_for_s": "60",
        "concurrency_key": "c",
        "max_running": "4",
        "max_retries": "6",
        "retry_base_s": "2",
        "retry_cap_s": "9",
    }

    job = job_of(
        TaskiqMessage(task_id="m", task_name="t", labels=labels, args=[], kwargs={}), QUICK
    )

    assert (job.queue, job.priority, job.delay_s, job.timeout_s) == ("slow", 7, 1.5, 20)
    assert (job.batch, job.unique_key, job.unique_for_s) == ("b", "u", 60)
    assert (job.concurrency_key, job.max_running) == ("c", 4)
    assert job.retry == RetryPolicy(max_attempts=6, base_s=2, cap_s=9)


def test_who_wants_no_retry_gets_none() -> None:
    labels = {"retry_on_error": "False"}

    job = job_of(
        TaskiqMessage(task_id="m", task_name="t", labels=labels, args=[], kwargs={}), QUICK
    )

    assert job.retry.max_attempts == 1


@pytest.mark.parametrize("labels", [{"priority": "high"}, {"timeout": 0}, {"unique_for_s": 5}])
async def test_labels_that_make_no_sense_are_refused(
    broker: QueueBroker, labels: dict[str, Any]
) -> None:
    task = broker.register_task(lambda: None, task_name="t")
    await broker.startup()

    with pytest.raises(SendTaskError) as caught:
        await task.kicker().with_labels(**labels).kiq()

    assert isinstance(caught.value.__cause__, ValueError)


async def test_our_word_is_no_argument(broker: QueueBroker) -> None:
    task = broker.register_task(lambda _taskiq: None, task_name="t")
    await broker.startup()

    with pytest.raises(SendTaskError):
        await task.kiq(_taskiq=1)


async def test_a_full_queue_refuses() -> None:
    queue = MemoryQueue(max_waiting=1)
    broker = QueueBroker(queue)
    task = broker.register_task(lambda: None, task_name="t")
    await broker.startup()
    await task.kiq()

    with pytest.raises(SendTaskError) as caught:
        await task.kiq()

    assert isinstance(caught.value.__cause__, QueueFull)


async def test_a_broker_that_is_not_open_says_so(broker: QueueBroker) -> None:
    task = broker.register_task(lambda: None, task_name="t")

    with pytest.raises(SendTaskError) as caught:
        await task.kiq()

    assert "startup" in str(caught.value.__cause__)


async def test_nothing_is_pickled_whatever_the_serializer(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    broker.with_serializer(PickleSerializer())

    @broker.task("echo")
    async def echo(*words: str) -> list[str]:
        return list(words)

    async with working(broker):
        sent = await echo.kiq("a", "b")
        result = await result_of(sent)

    assert result.return_value == ["a", "b"]
    payload = (await queue.status(sent.task_id)).payload
    assert payload == {"_taskiq": {"args": ["a", "b"], "labels": {}, "labels_types": {}}}


async def test_of_one_unique_key_one_runs_and_both_get_its_result(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    @broker.task("count", unique_key="only")
    async def count(number: int) -> int:
        return number

    await broker.startup()
    first, second = await count.kiq(1), await count.kiq(2)
    async with working(broker):
        results = [(await result_of(task)).return_value for task in (first, second)]

    assert results == [1, 1]
    assert len(await queue.statuses()) == 1


async def test_a_delayed_task_waits(queue: QueueBackend, broker: QueueBroker) -> None:
    task = broker.register_task(lambda: None, task_name="t")
    async with working(broker):
        sent = await task.kicker().with_labels(delay=0.3).kiq()
        assert (await queue.status(sent.task_id)).state is JobState.SCHEDULED
        status = await ended(queue, sent.task_id)

    assert status.started_at is not None
    assert 0.3 <= status.started_at - status.queued_at < 0.8


# What is run


async def test_hooks_are_called_in_order(broker: QueueBroker) -> None:
    hooks = Hooks()
    broker.add_middlewares(hooks)
    task = broker.register_task(lambda: 1, task_name="t")

    async with working(broker):
        await result_of(await task.kiq())

    sent = ["pre_send", "post_send"]
    assert [name for name in hooks.seen if name in sent] == sent
    assert hooks.seen[0] == "pre_send"
    ran = [name for name in hooks.seen if name not in sent]
    assert ran == ["pre_execute", "post_execute", "post_save"]


async def test_the_hook_for_errors_comes_between(broker: QueueBroker) -> None:
    hooks = Hooks()
    broker.add_middlewares(hooks)

    @broker.task("t", max_attempts=1)
    async def fails() -> None:
        raise ValueError("bad")

    async with working(broker):
        await result_of(await fails.kiq())

    ran = [name for name in hooks.seen if name not in ("pre_send", "post_send")]
    assert ran == ["pre_execute", "on_error ValueError('bad')", "post_execute", "post_save"]


async def test_a_task_learns_its_job(broker: QueueBroker) -> None:
    @broker.task("t")
    async def look(context: Context = TaskiqDepends()) -> list[object]:
        job = current_delivery().lease.job
        return [job.id == context.message.task_id, context.message.labels["_attempt"]]

    @broker.task("in-thread")
    def look_in_thread() -> str:
        return current_delivery().lease.job.kind

    async with working(broker):
        assert (await result_of(await look.kiq())).return_value == [True, 1]
        assert (await result_of(await look_in_thread.kiq())).return_value == "in-thread"


async def test_values_of_python_become_json(broker: QueueBroker) -> None:
    @broker.task("t")
    async def when(day: datetime) -> datetime:
        return day

    async with working(broker):
        result = await result_of(await when.kiq(datetime(2026, 1, 2, tzinfo=UTC)))

    assert result.return_value == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "value", [object(), {"deep": float("nan")}, "\ud800"], ids=["object", "nan", "half"]
)
async def test_what_is_not_json_fails_for_good(
    queue: QueueBackend, broker: QueueBroker, value: object
) -> None:
    @broker.task("t")
    async def give_back_anything() -> object:
        return value

    async with working(broker):
        sent = await give_back_anything.kiq()
        result = await result_of(sent)

    assert isinstance(result.error, Permanent)
    assert len((await queue.status(sent.task_id)).attempts) == 1


async def test_an_error_is_tried_again_and_not_ready_before(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    ready: list[bool] = []

    @broker.task("t")
    async def fail_twice(context: Context = TaskiqDepends()) -> int:
        attempt = int(context.message.labels["_attempt"])
        ready.append(await broker.result_backend.is_result_ready(context.message.task_id))
        if attempt < 3:
            raise OSError("not yet")
        return attempt

    async with working(broker):
        sent = await fail_twice.kiq()
        result = await result_of(sent)

    assert result.return_value == 3
    assert ready == [False, False, False]
    attempts = (await queue.status(sent.task_id)).attempts
    assert [attempt.error and attempt.error.type for attempt in attempts] == [
        "OSError",
        "OSError",
        None,
    ]


async def test_a_permanent_error_ends_it(queue: QueueBackend, broker: QueueBroker) -> None:
    @broker.task("t")
    async def refuse() -> None:
        raise Permanent("never")

    async with working(broker):
        sent = await refuse.kiq()
        result = await result_of(sent)

    assert result.is_err
    with pytest.raises(Permanent, match="never"):
        result.raise_for_error()
    assert len((await queue.status(sent.task_id)).attempts) == 1


async def test_a_rate_limited_task_is_put_off_and_loses_no_attempt(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    runs: list[int] = []

    @broker.task("t", max_attempts=1)
    async def limited() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RateLimited("slowly", 0.01)

    async with working(broker):
        sent = await limited.kiq()
        await result_of(sent)

    status = await queue.status(sent.task_id)
    assert status.state is JobState.SUCCEEDED
    assert len(status.attempts) == 1


async def test_errors_come_back_by_their_class(broker: QueueBroker) -> None:
    class OfTheTask(Exception):
        pass

    @broker.task("t", max_attempts=1)
    async def fails(which: str) -> None:
        raise {"key": KeyError("k"), "own": OfTheTask("o")}[which]

    async with working(broker):
        known = (await result_of(await fails.kiq("key"))).error
        own = (await result_of(await fails.kiq("own"))).error

    assert type(known) is KeyError
    assert (type(own).__name__, str(own)) == ("OfTheTask", "o")


async def test_no_result_is_a_success_without_one(queue: QueueBackend, broker: QueueBroker) -> None:
    @broker.task("t")
    async def no_result() -> None:
        raise NoResultError

    async with working(broker):
        sent = await no_result.kiq()
        status = await ended(queue, sent.task_id)

    assert (status.state, status.result) == (JobState.SUCCEEDED, None)


async def test_a_task_may_requeue_itself_and_loses_no_attempt(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    runs: list[int] = []

    @broker.task("t", max_attempts=1)
    async def again(context: Context = TaskiqDepends()) -> int:
        runs.append(1)
        if len(runs) < 3:
            await context.requeue()
        return len(runs)

    async with working(broker):
        sent = await again.kiq()
        result = await result_of(sent)

    assert result.return_value == 3
    assert len((await queue.status(sent.task_id)).attempts) == 1


@pytest.mark.parametrize("middleware", [SimpleRetryMiddleware, SmartRetryMiddleware])
async def test_a_retry_middleware_does_not_retry_twice(
    queue: QueueBackend,
    broker: QueueBroker,
    middleware: type[SimpleRetryMiddleware | SmartRetryMiddleware],
) -> None:
    broker.add_middlewares(middleware(default_retry_label=True))
    runs: list[int] = []

    @broker.task("t", max_retries=4)
    async def fails() -> None:
        runs.append(1)
        raise ValueError("bad")

    async with working(broker):
        sent = await fails.kiq()
        status = await ended(queue, sent.task_id)

    assert len(runs) == 4
    assert status.error is not None
    assert status.error.type == "ValueError"
    assert len(await queue.statuses()) == 1


async def test_another_result_backend_does_not_hide_the_end(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    broker.with_result_backend(InmemoryResultBackend[Any]())
    task = broker.register_task(lambda: 5, task_name="t")

    async with working(broker):
        sent = await task.kiq()
        status = await ended(queue, sent.task_id)
        result = await result_of(sent)

    assert status.result == result.return_value == 5


async def test_progress_is_shown(queue: QueueBackend, broker: QueueBroker) -> None:
    go_on = asyncio.Event()

    @broker.task("t")
    async def slow(tracker: ProgressTracker[float] = TaskiqDepends()) -> None:
        await tracker.set_progress(TaskState.STARTED, 0.5)
        await go_on.wait()

    async with working(broker):
        sent = await slow.kiq()
        await reached(queue, sent.task_id, lambda status: status.progress > 0)
        shown = await sent.get_progress()
        go_on.set()
        await result_of(sent)
        at_end = await sent.get_progress()

    assert shown is not None
    assert (shown.state, shown.meta) == (TaskState.STARTED, 0.5)
    assert at_end is not None
    assert at_end.state == TaskState.SUCCESS


async def test_an_unknown_task_is_an_error_and_never_pending(broker: QueueBroker) -> None:
    task = broker.register_task(lambda: None, task_name="t")
    await broker.startup()
    sent = await task.kiq()
    sent.task_id = "other"

    with pytest.raises(ResultIsReadyError):
        await sent.is_ready()


# What cannot be run


async def test_a_kind_without_a_task_fails_for_good(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    async with working(broker):
        await queue.submit(Job(id="a", kind="nobody"))
        status = await ended(queue, "a")

    assert status.error is not None
    assert status.error.type == "UnknownKind"


async def test_a_job_that_is_no_message_is_set_aside_and_the_worker_goes_on(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    task = broker.register_task(lambda: 1, task_name="t")
    async with working(broker, slots=1):
        await queue.submit(Job(id="a", kind="t", payload={"_taskiq": {"args": "text"}}))
        status = await ended(queue, "a")
        after = await result_of(await task.kiq())

    assert status.state is JobState.FAILED
    assert status.error is not None
    assert status.error.type == "UnreadableJob"
    assert after.return_value == 1


async def test_a_label_that_taskiq_cannot_read_sets_the_job_aside(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    broker.register_task(lambda: 1, task_name="t")
    payload: dict[str, JsonValue] = {"_taskiq": {"labels": {"x": "text"}, "labels_types": {"x": 2}}}
    async with working(broker):
        await queue.submit(Job(id="a", kind="t", payload=payload))
        status = await ended(queue, "a")

    assert status.error is not None
    assert status.error.type == "UnreadableJob"


async def test_a_hook_that_raises_fails_the_job(queue: QueueBackend, broker: QueueBroker) -> None:
    async def fail() -> None:
        raise LookupError("no such hook")

    broker.add_middlewares(BeforeTask(fail))
    task = broker.register_task(lambda: 1, task_name="t")
    async with working(broker):
        sent = await task.kicker().with_labels(max_attempts=1).kiq()
        status = await ended(queue, sent.task_id)

    assert status.error is not None
    assert status.error.type == "LookupError"


# What is stopped


async def test_a_cancelled_task_stops_at_once(queue: QueueBackend, broker: QueueBroker) -> None:
    loop = asyncio.get_running_loop()

    @broker.task("t")
    async def hang() -> None:
        await asyncio.sleep(120)

    async with working(broker):
        sent = await hang.kiq()
        await reached(queue, sent.task_id, lambda status: status.state is JobState.RUNNING)
        asked_at = loop.time()
        assert await queue.cancel(sent.task_id) is CancelOutcome.CANCELLING
        status = await ended(queue, sent.task_id)
        took_s = loop.time() - asked_at
        result = await result_of(sent)

    assert status.state is JobState.CANCELLED
    assert took_s < STOP_S
    assert isinstance(result.error, JobCancelled)


async def test_a_cancel_stops_a_hook_too(queue: QueueBackend, broker: QueueBroker) -> None:
    broker.add_middlewares(BeforeTask(lambda: asyncio.sleep(120)))
    ran: list[int] = []
    task = broker.register_task(lambda: ran.append(1), task_name="t")

    async with working(broker):
        sent = await task.kiq()
        await reached(queue, sent.task_id, lambda status: status.state is JobState.RUNNING)
        await queue.cancel(sent.task_id)
        status = await ended(queue, sent.task_id)

    assert status.state is JobState.CANCELLED
    assert ran == []


async def test_work_in_a_thread_is_told_to_stop(queue: QueueBackend, broker: QueueBroker) -> None:
    told = threading.Event()

    @broker.task("t")
    def hang() -> None:
        if current_delivery().stop.wait(PROMPT_S):
            told.set()

    async with working(broker):
        sent = await hang.kiq()
        await reached(queue, sent.task_id, lambda status: status.state is JobState.RUNNING)
        await queue.cancel(sent.task_id)
        status = await ended(queue, sent.task_id)
        assert await asyncio.to_thread(told.wait, PROMPT_S)

    assert status.state is JobState.CANCELLED


async def test_a_prefetched_job_that_is_cancelled_never_begins(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    go_on = asyncio.Event()
    ran: list[str] = []

    @broker.task("t")
    async def wait(name: str) -> None:
        ran.append(name)
        await go_on.wait()

    async with working(broker, slots=1, prefetch=1):
        first, second = await wait.kiq("first"), await wait.kiq("second")
        await reached(queue, second.task_id, lambda status: status.state is JobState.RUNNING)
        await queue.cancel(second.task_id)
        status = await ended(queue, second.task_id)
        go_on.set()
        await result_of(first)
        third = await wait.kiq("third")
        await result_of(third)

    assert status.state is JobState.CANCELLED
    assert ran == ["first", "third"]


async def test_a_task_has_the_time_of_its_job(queue: QueueBackend, broker: QueueBroker) -> None:
    @broker.task("t")
    async def hang() -> None:
        await asyncio.sleep(120)

    async with working(broker):
        sent = await hang.kicker().with_labels(timeout=0.05, max_attempts=2).kiq()
        result = await result_of(sent)

    status = await queue.status(sent.task_id)
    assert status.error is not None
    assert status.error.type == type(result.error).__name__ == "JobTimeout"
    assert len(status.attempts) == 2


async def test_a_lost_lease_stops_the_task_and_its_answer_has_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1000.0]
    queue = MemoryQueue(clock=lambda: now[0])
    broker = QueueBroker(nullcontext(queue), lease_s=0.6)
    stopped = asyncio.Event()

    @broker.task("t")
    async def stubborn() -> str:
        try:
            await asyncio.sleep(120)
        except asyncio.CancelledError:
            stopped.set()
        return "too late"

    async with working(broker, slots=1):
        sent = await stubborn.kicker().with_labels(retry_base_s=1e-6).kiq()
        await reached(queue, sent.task_id, lambda status: status.state is JobState.RUNNING)
        await queue.pause()
        now[0] += 60
        await queue.claim("other", queues=("none",))
        now[0] += 60
        (lease,) = await queue.claim("other", job_id=sent.task_id, lease_s=100)
        async with asyncio.timeout(PROMPT_S):
            await stopped.wait()
        await queue.finish(lease, "of the other")
        result = await result_of(sent)

    assert result.return_value == "of the other"
    assert "Can't set result" in caplog.text


async def test_a_task_may_take_longer_than_a_lease(queue: QueueBackend) -> None:
    brokers = [QueueBroker(nullcontext(queue), lease_s=0.3) for _ in range(2)]

    async def nap() -> None:
        await asyncio.sleep(1)

    task, _ = [broker.register_task(nap, task_name="t") for broker in brokers]
    async with working(brokers[0]), working(brokers[1]):
        sent = await task.kiq()
        await result_of(sent)

    assert len((await queue.status(sent.task_id)).attempts) == 1


# How it ends


async def test_what_still_runs_at_the_end_is_handed_back(
    queue: QueueBackend, broker: QueueBroker
) -> None:
    @broker.task("t")
    async def hang() -> None:
        await asyncio.sleep(120)

    async with working(broker, wait_tasks_timeout=0.05):
        sent = await hang.kiq()
        await reached(queue, sent.task_id, lambda status: status.state is JobState.RUNNING)

    status = await queue.status(sent.task_id)
    assert status.state is JobState.QUEUED
    assert status.attempts == ()
    assert await queue.workers() == []


async def test_a_claim_that_is_cut_off_strands_nothing() -> None:
    queue = Disk()
    broker = QueueBroker(nullcontext(queue))
    task = broker.register_task(lambda: 1, task_name="t")
    async with working(broker) as finish:
        queue.may_answer.clear()
        sent = await task.kiq()
        async with asyncio.timeout(PROMPT_S):
            await queue.has_claimed.wait()
        finish.set()
        await asyncio.sleep(0)  # taskiq cuts the claim off, which answers only afterwards
        asyncio.get_running_loop().call_later(0.05, queue.may_answer.set)

    assert (await queue.status(sent.task_id)).state is JobState.QUEUED


async def test_a_queue_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    queue = Disk()
    broker = QueueBroker(nullcontext(queue))

    @broker.task("t")
    async def spoil() -> int:
        queue.troubles = [StorageBusy("locked"), StorageBusy("locked")]
        return 1

    with caplog.at_level(logging.ERROR, "capturekit"):
        async with working(broker, slots=1):
            queue.troubles = [StorageBusy("locked")]
            result = await result_of(await spoil.kiq())

    assert result.return_value == 1
    assert "tries again" in caplog.text


async def test_the_queue_may_be_closed_by_another_task_than_opened_it() -> None:
    tasks: list[asyncio.Task[object] | None] = []

    @asynccontextmanager
    async def opening() -> AsyncIterator[MemoryQueue]:
        tasks.append(asyncio.current_task())
        yield MemoryQueue()
        tasks.append(asyncio.current_task())

    broker = QueueBroker(opening())
    await asyncio.create_task(broker.startup())
    await asyncio.create_task(broker.shutdown())

    assert len(tasks) == 2
    assert tasks[0] is tasks[1]


async def test_a_queue_that_does_not_open_says_why() -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[MemoryQueue]:
        raise StorageBusy("locked")
        yield MemoryQueue()

    broker = QueueBroker(opening())

    with pytest.raises(StorageBusy):
        await broker.startup()
    await broker.shutdown()


async def test_what_follows_a_failure_is_told(queue: QueueBackend) -> None:
    told: list[JobState] = []

    async def follow(status: JobStatus) -> None:
        told.append(status.state)

    broker = QueueBroker(nullcontext(queue), retry=QUICK, after_failure=follow)

    @broker.task("t")
    async def fails() -> None:
        raise ValueError("bad")

    async with working(broker):
        await result_of(await fails.kicker().with_labels(max_attempts=2).kiq())

    assert len(told) == 2
    assert not told[0].is_final
    assert told[1] is JobState.FAILED


async def test_a_worker_holds_as_many_as_it_was_told(
    queue: QueueBackend,
) -> None:
    broker = QueueBroker(nullcontext(queue), concurrency=1, lease_s=0.6)
    go_on = asyncio.Event()

    @broker.task("t")
    async def task() -> None:
        await go_on.wait()

    async with working(broker, slots=4):
        sent = [await task.kiq() for _ in range(4)]
        await reached(queue, sent[0].task_id, lambda status: status.state is JobState.RUNNING)
        running = (await queue.stats()).depth[JobState.RUNNING]
        (worker,) = await queue.workers()
        await queue.resize(worker.id, 3)
        try:
            await reached(queue, sent[2].task_id, lambda status: status.state is JobState.RUNNING)
            after = (await queue.stats()).depth[JobState.RUNNING]
        finally:
            go_on.set()
        for each in sent:
            await result_of(each)

    assert (running, after) == (1, 3)
