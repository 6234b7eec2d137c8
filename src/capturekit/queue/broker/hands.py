"""The jobs that a taskiq worker holds: claimed, kept by heartbeats, and let go.

Each runs in one asyncio task, which is taskiq's. That task is cancelled when the job must stop,
and when it ends without having told a result, the queue is told what became of it.
"""

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from taskiq import TaskiqMessage, TaskiqResult
from taskiq.exceptions import NoResultError

from capturekit.errors import CaptureKitError, LeaseLost, StorageError
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    NOTICE_S,
    Beat,
    JobStatus,
    Lease,
    QueueBackend,
    RetryPolicy,
    WorkerInfo,
)
from capturekit.queue.broker.answers import (
    STORAGE_PAUSE_S,
    Answers,
    Delivery,
    Reason,
    Report,
    say_nothing,
)
from capturekit.queue.broker.message import ATTEMPT

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S: Final = 1.0
"""How long an idle worker goes without looking for work by itself."""

MAX_REPORTS: Final = 10
"""Tries to report an outcome; after that the lease runs out."""

_STORAGE_RETRY: Final = RetryPolicy(base_s=0.1, cap_s=STORAGE_PAUSE_S)

_current: Final[ContextVar[Delivery]] = ContextVar("capturekit_delivery")


def current_delivery() -> Delivery:
    """The job that this code works for; also a taskiq dependency. Raises LookupError."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class Terms:
    """How a worker works: as the arguments of ``QueueBroker``."""

    queues: Sequence[str] = ()
    concurrency: int = 100
    lease_s: float = DEFAULT_LEASE_S
    name: str = "taskiq"
    clock: Callable[[], float] = time.time
    after_failure: Callable[[JobStatus], Awaitable[None]] | None = None


class Hands:
    """What this process holds of one queue. Use it in one event loop."""

    def __init__(self, queue: QueueBackend, terms: Terms) -> None:
        self._queue = queue
        self._terms = terms
        self._answers = Answers(queue)
        self._concurrency = terms.concurrency
        self._held: dict[tuple[str, int], Delivery] = {}
        self._freed = asyncio.Event()
        self._side_tasks: set[asyncio.Task[Any]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._troubles = 0
        host, pid = socket.gethostname(), os.getpid()
        self._worker = WorkerInfo(
            id=f"{terms.name}-{host}-{pid}-{secrets.token_hex(3)}",
            host=host,
            pid=pid,
            concurrency=terms.concurrency,
            started_at=terms.clock(),
            heartbeat_at=terms.clock(),
        )

    def start(self) -> None:
        """Become one of the queue's workers."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watch())

    async def take(self) -> Delivery:
        """Claim one job, however long it takes until there is one."""
        while True:
            try:
                await self._until_room()
                lease = await self._claim()
                if lease is None:
                    await self._queue.wait(POLL_S, queues=self._terms.queues)
            except Exception as error:  # noqa: BLE001  # the loop must live on
                self._complain(error)
                await self._pause()
                continue
            self._troubles = 0
            if lease is not None:
                delivery = self._held[lease.job.id, lease.attempt] = Delivery(lease)
                return delivery

    def begin(self, message: TaskiqMessage) -> None:
        """The task of this message begins, in the asyncio task that calls.

        Raises CancelledError when its job was ended while it waited to begin.
        """
        delivery = self._held.get((message.task_id, int(message.labels.get(ATTEMPT, 0))))
        task = asyncio.current_task()
        if task is None or delivery is None or delivery.ending is not None:
            raise asyncio.CancelledError
        delivery.task = task
        _current.set(delivery)
        timer = asyncio.get_running_loop().call_later(
            delivery.lease.job.timeout_s, self._interrupt, delivery, Reason.TIMEOUT
        )
        task.add_done_callback(partial(self._done, delivery, timer))

    def acknowledge(self, delivery: Delivery) -> None:
        """Matters only where no task began: taskiq acknowledges what it cannot read, too."""
        if delivery.task is None:
            self.set_aside(delivery, "taskiq's formatter cannot read it")

    def set_aside(self, delivery: Delivery, why: str) -> None:
        """Fail a job that is no task."""
        self._end(delivery, self._answers.unreadable(delivery, why))

    def refuse(self, delivery: Delivery, error: CaptureKitError) -> None:
        """End a job that this worker cannot run."""
        self._end(delivery, self._answers.raised(delivery, error))

    async def settle(self, result: TaskiqResult[Any]) -> None:
        """Tell how the current task ended. Raises LeaseLost when that has no effect."""
        delivery = current_delivery()
        report = self._answers.ended(delivery, result.error, result.return_value)
        if not await asyncio.shield(self._end(delivery, report)):
            raise LeaseLost(f"job {delivery.id}: the answer had no effect")

    async def progress(self, fraction: float) -> None:
        """Show how far the current task is, 0 to 1."""
        await self._queue.report(current_delivery().lease, fraction)

    async def let_go(self) -> None:
        """Stop what still runs, hand it back and leave the queue's list of workers."""
        if self._watch is None:
            return
        for delivery in list(self._held.values()):
            self._interrupt(delivery, Reason.STOP)
        while self._held:
            await self._freed.wait()
        while self._side_tasks:
            await asyncio.wait(self._side_tasks)
        self._watch.cancel()
        try:
            await self._queue.forget_worker(self._worker.id)
        except StorageError as error:
            log.warning("worker %s stays on the list for a while: %s", self._worker.id, error)

    async def _until_room(self) -> None:
        while len(self._held) >= self._concurrency:
            await self._freed.wait()

    async def _claim(self) -> Lease | None:
        terms = self._terms
        claim = self._aside(
            self._queue.claim(self._worker.id, lease_s=terms.lease_s, queues=terms.queues)
        )
        try:
            leases = await asyncio.shield(claim)
        except asyncio.CancelledError:
            # taskiq stops, and the claim may have taken a job that nobody would run.
            claim.add_done_callback(self._give_back)
            raise
        return leases[0] if leases else None

    def _give_back(self, claim: asyncio.Task[list[Lease]]) -> None:
        if claim.cancelled() or claim.exception() is not None:
            return
        for lease in claim.result():
            self._end(Delivery(lease), self._answers.release(lease))

    async def _keep_watch(self) -> None:
        """Beat for what is held, and do what the queue asks."""
        loop = asyncio.get_running_loop()
        beat_every_s = self._terms.lease_s / 3
        beat_at = loop.time()
        while True:
            try:
                if loop.time() >= beat_at:
                    await self._beat()
                    beat_at = loop.time() + beat_every_s
                if self._held:
                    await self._look()
            except Exception as error:  # noqa: BLE001  # the loop must live on
                self._complain(error)
            # Even when idle: a signal is noticed when the loop turns.
            await asyncio.sleep(min(NOTICE_S, beat_every_s))

    async def _beat(self) -> None:
        held = list(self._held.values())
        news = {"heartbeat_at": self._terms.clock(), "concurrency": self._concurrency}
        beats = await self._queue.heartbeat(
            self._worker.model_copy(update=news),
            [delivery.lease for delivery in held],
            lease_s=self._terms.lease_s,
        )
        self._obey(held, beats)

    async def _look(self) -> None:
        held = list(self._held.values())
        orders = await self._queue.orders(self._worker.id, [each.lease for each in held])
        self._obey(held, orders.beats)
        if orders.concurrency not in (None, self._concurrency):
            self._concurrency = orders.concurrency
            self._ring()

    def _obey(self, held: Sequence[Delivery], beats: Sequence[Beat]) -> None:
        for delivery, beat in zip(held, beats, strict=True):
            if beat is Beat.CANCEL and delivery.reason is None:
                self._interrupt(delivery, Reason.CANCEL)
            elif beat is Beat.LOST and delivery.reason is not Reason.LOST:
                self._interrupt(delivery, Reason.LOST)

    def _interrupt(self, delivery: Delivery, reason: Reason) -> None:
        """Stop the task. The first reason stands, except that a lost lease trumps all."""
        if delivery.ending is not None:
            return
        if delivery.reason is None or reason is Reason.LOST:
            delivery.reason = reason
        log.info("job %s: attempt %d stopped: %s", delivery.id, delivery.lease.attempt, reason)
        delivery.stop.set()
        if delivery.task is None:
            self._end_with(delivery, asyncio.CancelledError())
        else:
            delivery.task.cancel()

    def _done(
        self, delivery: Delivery, timer: asyncio.TimerHandle, task: asyncio.Task[object]
    ) -> None:
        """The asyncio task ended. Where it told no result, say what became of the job."""
        timer.cancel()
        error = None if task.cancelled() else task.exception()
        result = delivery.result
        if delivery.ending is not None:
            return
        if task.cancelled():
            self._end_with(delivery, asyncio.CancelledError())
        elif error is not None:
            self._end_with(delivery, error)
        elif result is not None and not isinstance(result.error, NoResultError):
            # Another result backend was told; the queue must know as well.
            self._end_with(delivery, result.error, result.return_value)
        else:
            self._end_with(delivery, delivery.error or NoResultError())

    def _end_with(
        self, delivery: Delivery, error: BaseException | None, value: object = None
    ) -> None:
        self._end(delivery, self._answers.ended(delivery, error, value))

    def _end(self, delivery: Delivery, report: Report) -> asyncio.Task[bool]:
        """Tell the queue, then hold the job no longer. The first to call decides."""
        if delivery.ending is None:
            delivery.ending = self._aside(self._tell(delivery, report))
        return delivery.ending

    async def _tell(self, delivery: Delivery, report: Report) -> bool:
        """Whether the queue took the report."""
        try:
            is_told = await self._is_told(delivery, report)
            if not delivery.has_succeeded:
                await self._follow_up(delivery)
        finally:
            self._held.pop((delivery.id, delivery.lease.attempt), None)
            self._ring()
        return is_told

    def _ring(self) -> None:
        """There may be room for another job."""
        self._freed.set()
        self._freed = asyncio.Event()

    async def _is_told(self, delivery: Delivery, report: Report) -> bool:
        try:
            for _ in range(MAX_REPORTS):
                try:
                    await report()
                except StorageError as error:
                    self._complain(error)
                    await self._pause()
                else:
                    return report is not say_nothing
            log.error("job %s: gave up reporting; its lease will run out", delivery.id)
        except LeaseLost as error:
            log.warning("job %s: the answer came too late: %s", delivery.id, error)
        except Exception:
            log.exception("job %s: its outcome cannot be told", delivery.id)
        return False

    async def _follow_up(self, delivery: Delivery) -> None:
        if self._terms.after_failure is None:
            return
        try:
            await self._terms.after_failure(await self._queue.status(delivery.id))
        except Exception:
            log.exception("job %s: what should follow its end failed", delivery.id)

    def _aside(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)
        return task

    def _complain(self, error: Exception) -> None:
        self._troubles += 1
        if self._troubles == 1:
            is_ours = isinstance(error, CaptureKitError)
            log.error(
                "the queue fails; worker %s tries again until it works: %s",
                self._worker.id,
                error,
                exc_info=None if is_ours else error,
            )

    async def _pause(self) -> None:
        await asyncio.sleep(_STORAGE_RETRY.delay_s(self._troubles, random.random))
