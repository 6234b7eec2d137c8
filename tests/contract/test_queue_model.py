"""The random histories are worth something: they find what is broken on purpose."""

from collections.abc import Callable

import pytest

from capturekit.queue.base import Job, JobState, Lease, QueueBackend, Submission
from capturekit.queue.memory import MemoryQueue, _Record
from tests.contract.queue_model import try_random_histories

FOUND = (AssertionError, pytest.fail.Exception)


class Unfenced(MemoryQueue):
    def _holding(self, lease: Lease) -> _Record | None:
        record = self._records.get(lease.job.id)
        return record if record is not None and record.lease else None


class HandsOutTwice(MemoryQueue):
    def _lease(self, record: _Record, worker: str, lease_s: float) -> Lease:
        lease = super()._lease(record, worker, lease_s)
        self._turns.add(record.turn, record.job)
        return lease


class CountsNoTurns(MemoryQueue):
    async def submit(self, *jobs: Job) -> list[Submission]:
        return await super().submit(*(job.model_copy(update={"max_running": 9}) for job in jobs))


class ForgetsUniqueKeys(MemoryQueue):
    def _lease(self, record: _Record, worker: str, lease_s: float) -> Lease:
        self._holders.pop(record.job.unique_key or "", None)
        return super()._lease(record, worker, lease_s)


class PrunesTooLittle(MemoryQueue):
    def _forget(self, record: _Record) -> None:
        if record.state is not JobState.CANCELLED:
            super()._forget(record)


@pytest.mark.parametrize(
    "broken", [Unfenced, HandsOutTwice, CountsNoTurns, ForgetsUniqueKeys, PrunesTooLittle]
)
def test_random_histories_find_what_is_broken(broken: type[MemoryQueue]) -> None:
    def make_queue(clock: Callable[[], float], *, max_waiting: int | None = None) -> QueueBackend:
        return broken(clock=clock, max_waiting=max_waiting)

    with pytest.raises(FOUND):
        try_random_histories(make_queue, examples=400, is_drill=True)
