"""The broker itself, as taskiq calls it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

from taskiq import (
    AckableMessage,
    AsyncBroker,
    BrokerMessage,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)

from capturekit.errors import UnknownKind
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    JobStatus,
    QueueBackend,
    RetryPolicy,
    checked_concurrency,
)
from capturekit.queue.broker.answers import Delivery, Wish
from capturekit.queue.broker.hands import Hands, Terms, current_delivery
from capturekit.queue.broker.message import RETRIES, job_of, message_of
from capturekit.queue.broker.results import QueueResults

MAX_STAND_INS: Final = 1000
"""Tasks remembered for which another job stands, because it holds their unique key."""


class QueueBroker(AsyncBroker):
    """A taskiq broker whose messages are the jobs of a queue.

    ``opening`` gives the queue when it is entered: a queue does so itself, and so does
    ``open_queue(url)``, once; ``contextlib.nullcontext(queue)`` is for one that is open already.
    It is entered by ``startup`` and left by ``shutdown``. ``concurrency`` bounds the jobs held at
    once, beside taskiq's ``--max-async-tasks``, and can be changed by ``queue.resize``.
    ``retry`` is for tasks whose labels do not say otherwise. ``after_failure`` gets the status
    of a job whose attempt did not succeed, once the queue knows of it.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[QueueBackend],
        *,
        queues: Sequence[str] = (),
        concurrency: int = 100,
        lease_s: float = DEFAULT_LEASE_S,
        retry: RetryPolicy = RetryPolicy(),
        name: str = "taskiq",
        clock: Callable[[], float] = time.time,
        after_failure: Callable[[JobStatus], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self._opening = opening
        self._retry = retry
        self._terms = Terms(
            queues, checked_concurrency(concurrency), lease_s, name, clock, after_failure
        )
        self._queue: QueueBackend | None = None
        self._hands: Hands | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._stand_ins: dict[str, str] = {}
        self.result_backend = QueueResults(self.status, self._our_hands)
        self.add_middlewares(_Witness(self._our_hands))

    @property
    def queue(self) -> QueueBackend:
        """The queue. Raises RuntimeError before ``startup`` and after ``shutdown``."""
        if self._queue is None:
            raise RuntimeError("the broker is not open: await broker.startup() first")
        return self._queue

    async def startup(self) -> None:
        """Open the queue, then do what taskiq does at this point."""
        if self._queue is None:
            opened: asyncio.Future[QueueBackend] = asyncio.get_running_loop().create_future()
            self._closing.clear()
            self._keeper = asyncio.create_task(self._keep_open(opened))
            self._queue = await opened
        await super().startup()

    async def shutdown(self) -> None:
        """Stop and hand back what still runs, then close the queue.

        A taskiq worker calls this when its wait for running tasks (``--wait-tasks-timeout``)
        is over.
        """
        try:
            if self._hands is not None:
                await self._hands.let_go()
        finally:
            try:
                await super().shutdown()
            finally:
                await self._close()

    async def kick(self, message: BrokerMessage) -> None:
        """Submit the message as a job.

        From within the task of the same id it asks for another attempt of it, as taskiq's
        retry middlewares and ``Context.requeue`` do. Raises ValueError for what is not JSON or
        labels that make no sense, QueueFull and StorageError; ``kiq`` wraps them.
        """
        sent = self.formatter.loads(message.message)
        if self._is_wish(sent):
            return
        (submission,) = await self.queue.submit(job_of(sent, self._retry))
        if submission.id != sent.task_id:
            self._stand_ins[sent.task_id] = submission.id
            if len(self._stand_ins) > MAX_STAND_INS:
                del self._stand_ins[next(iter(self._stand_ins))]

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Claim a job whenever taskiq has a free slot; hold it until its result is told."""
        # Not before: taskiq imports a broker in one process and may work in another.
        hands = self._hands = self._hands or Hands(self.queue, self._terms)
        hands.start()
        while True:
            delivery = await hands.take()
            if message := self._message(hands, delivery):
                yield message

    async def status(self, task_id: str) -> JobStatus:
        """How the task's job stands, or the one that holds its unique key. Raises UnknownJob."""
        return await self.queue.status(self._stand_ins.get(task_id, task_id))

    def _message(self, hands: Hands, delivery: Delivery) -> AckableMessage | None:
        """What taskiq runs; None when it cannot, and then the job has failed for good."""
        kind = delivery.lease.job.kind
        if self.find_task(kind) is None:
            hands.refuse(delivery, UnknownKind(kind, sorted(self.get_all_tasks())))
            return None
        try:
            data = self.formatter.dumps(message_of(delivery.lease)).message
        except ValueError as error:
            hands.set_aside(delivery, str(error))
            return None
        return AckableMessage(data=data, ack=partial(hands.acknowledge, delivery))

    def _is_wish(self, sent: TaskiqMessage) -> bool:
        try:
            delivery = current_delivery()
        except LookupError:
            return False
        if delivery.id != sent.task_id:
            return False
        is_counted = int(sent.labels.get(RETRIES, 0)) >= delivery.lease.tries
        delivery.wish = Wish.RETRY if is_counted else Wish.REQUEUE
        return True

    def _our_hands(self) -> Hands:
        if self._hands is None:
            raise RuntimeError("the broker does not listen")
        return self._hands

    async def _keep_open(self, opened: asyncio.Future[QueueBackend]) -> None:
        """Hold the queue open, all in one task: taskiq starts and ends brokers in two."""
        try:
            async with self._opening as queue:
                opened.set_result(queue)
                await self._closing.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    async def _close(self) -> None:
        self._closing.set()
        self._queue = self._hands = None
        if self._keeper is not None:
            await self._keeper


class _Witness(TaskiqMiddleware):
    """The first of all middlewares, so that it sees a task begin, and how it ended."""

    def __init__(self, hands: Callable[[], Hands]) -> None:
        super().__init__()
        self._hands = hands

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Called by the asyncio task that runs the task, and with its context."""
        self._hands().begin(message)
        return message

    def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        """Keep what was raised: a middleware that retries takes it out of the result."""
        del message, result
        current_delivery().error = exception

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Keep the result, should another result backend get it."""
        del message
        current_delivery().result = result
