"""The queue in memory keeps the promises, also in an installation without extras."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from capturekit.queue.base import QueueBackend
from capturekit.queue.memory import MemoryQueue
from capturekit.testing.queue_contract import QueueContract
from tests.contract.queue_model import try_random_histories


class TestMemoryQueue(QueueContract):
    def make_queue(
        self, clock: Callable[[], float], *, max_waiting: int | None = None
    ) -> AbstractAsyncContextManager[QueueBackend]:
        return MemoryQueue(clock=clock, max_waiting=max_waiting)


def test_random_histories_keep_the_promises() -> None:
    try_random_histories(TestMemoryQueue().make_queue, examples=80)
