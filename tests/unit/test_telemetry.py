"""What a process counts: nothing is lost between threads, and nothing is counted twice."""

import itertools
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.errors import DamagedImage, RateLimited, StorageFull
from capturekit.measuring import flush, measured
from capturekit.queue.base import Job, RetryPolicy
from capturekit.queue.memory import MemoryQueue
from capturekit.telemetry import MEASURES, Series, Telemetry
from capturekit.worker import JobContext, Worker

SECONDS = st.lists(st.floats(0, 100), max_size=30)
STEP = "step_duration_seconds"


@given(SECONDS, SECONDS)
def test_every_time_is_in_one_bucket_however_often_it_is_given_back(
    first: Sequence[float], second: Sequence[float]
) -> None:
    telemetry = Telemetry()
    for seconds in first:
        telemetry.time(STEP, seconds, "codes")
    taken = telemetry.take()
    assert telemetry.take() == {}
    telemetry.give_back(taken)
    for seconds in second:
        telemetry.time(STEP, seconds, "codes")
    tally = telemetry.take().get(Series(STEP, ("codes",)))
    times = [*first, *second]
    if not times:
        assert tally is None
        return
    assert tally is not None
    bounds = (-1.0, *MEASURES[STEP].bounds, float("inf"))
    expected = [
        sum(low < seconds <= high for seconds in times) for low, high in itertools.pairwise(bounds)
    ]
    assert list(tally.buckets) == expected
    assert tally.total == pytest.approx(sum(times))


def test_threads_that_count_at_once_lose_nothing() -> None:
    telemetry, taken = Telemetry(), []

    def count() -> None:
        for _ in range(2000):
            telemetry.count("upload_bytes")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.append(telemetry.take())
    taken.append(telemetry.take())
    assert sum(tally.total for one in taken for tally in one.values()) == 8000


def test_a_name_or_labels_that_are_none_are_refused() -> None:
    telemetry = Telemetry()
    with pytest.raises(KeyError):
        telemetry.count("pictures")
    with pytest.raises(ValueError, match="queue"):
        telemetry.count("jobs", "default")


def test_a_clock_that_was_set_back_is_no_time_at_all() -> None:
    telemetry = Telemetry()
    telemetry.time(STEP, -5.0, "codes")
    (tally,) = telemetry.take().values()
    assert tally.total == 0
    assert tally.buckets[0] == 1


@pytest.mark.anyio
async def test_what_cannot_be_written_down_is_kept_for_the_next_time() -> None:
    class Full:
        async def add(self, _counted: object) -> None:
            raise StorageFull("the disk is full")

    telemetry = Telemetry()
    telemetry.count("upload_bytes", amount=7)
    with pytest.raises(StorageFull):
        await flush(telemetry, Full())  # type: ignore[arg-type]
    assert telemetry.take()[Series("upload_bytes")].total == 7


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "succeeded"),
        (DamagedImage("cut off"), "failed"),
        (RateLimited("later", 60), "put_off"),
        (OSError("no"), "erred"),
    ],
)
async def test_each_attempt_is_counted_by_how_it_ended(
    error: Exception | None, outcome: str
) -> None:
    async def work(_context: JobContext) -> None:
        if error is not None:
            raise error

    telemetry = Telemetry()
    async with MemoryQueue() as queue:
        worker = Worker(queue, {"work": measured(work, telemetry)})
        await queue.submit(Job(id="a", kind="work", retry=RetryPolicy(max_attempts=1)))
        await worker.run_job("a", timeout_s=0.2)
    taken = telemetry.take()
    assert taken[Series("jobs", ("default", outcome))].total == 1
    assert sum(taken[Series("job_duration_seconds", ("default",))].buckets) == 1
