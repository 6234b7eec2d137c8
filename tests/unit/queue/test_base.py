"""The pure rules of jobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from capturekit.queue.base import (
    Job,
    JobState,
    RetryPolicy,
    checked_progress,
    state_after_failure,
    worker_lost,
)


@given(st.integers(1, 100_000), st.floats(0, 1))
def test_backoff_is_never_longer_than_its_cap(attempt: int, draw: float) -> None:
    policy = RetryPolicy(base_s=1.5, cap_s=60)
    delay_s = policy.delay_s(attempt, lambda: draw)
    assert 0 <= delay_s <= min(60, 1.5 * 2.0 ** min(attempt - 1, 50))


def test_backoff_doubles_up_to_its_cap() -> None:
    policy = RetryPolicy(base_s=1, cap_s=5)
    assert [policy.delay_s(attempt, lambda: 1.0) for attempt in (1, 2, 3, 4)] == [1, 2, 4, 5]


def test_only_three_states_are_final() -> None:
    final = {state for state in JobState if state.is_final}
    assert final == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


@pytest.mark.parametrize(
    ("tries", "is_permanent", "is_cancel_requested", "state"),
    [
        (1, False, False, JobState.SCHEDULED),
        (2, False, False, JobState.FAILED),
        (1, True, False, JobState.FAILED),
        (1, False, True, JobState.CANCELLED),
        (2, True, True, JobState.CANCELLED),
    ],
)
def test_what_a_failure_makes_of_a_job(
    tries: int,
    is_permanent: bool,  # noqa: FBT001  # pytest passes it by name
    is_cancel_requested: bool,  # noqa: FBT001  # the same
    state: JobState,
) -> None:
    found = state_after_failure(
        RetryPolicy(max_attempts=2),
        tries,
        is_permanent=is_permanent,
        is_cancel_requested=is_cancel_requested,
    )
    assert found is state


def test_a_lost_worker_is_named() -> None:
    assert "'w-1'" in worker_lost("w-1", 2).message


@pytest.mark.parametrize("progress", [0, 0.5, 1])
def test_a_fraction_is_progress(progress: float) -> None:
    assert checked_progress(progress) == progress


@pytest.mark.parametrize(
    "fields", [{"id": ""}, {"id": "x" * 201}, {"kind": ""}, {"delay_s": -1}, {"timeout_s": 0}]
)
def test_a_job_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate({"id": "a", "kind": "test", **fields})
