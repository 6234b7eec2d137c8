"""The admission law: what it takes, what it refuses, and what it keeps under too much work."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from capturekit.ratelimit.admission import Admission
from capturekit.ratelimit.load import Clock, QueueNumbers
from capturekit.testing import FakeClock
from tests.traffic import (
    GREEDY,
    QUIET,
    SCENARIOS,
    Ours,
    Outcome,
    Scenario,
    Simulation,
    Snapshot,
    answer,
)

STEP = SCENARIOS[0]
RATE = 10.0
"""Jobs a second of the workers in most tests; the target wait is 4 s: 40 jobs."""


NAMES = itertools.count()


def taught(clock: FakeClock, *, processes: int = 1, **numbers: float) -> Admission:
    """An admission that knows the rate, and that the queue is empty if not told otherwise."""
    admission = Admission(4.0, processes=processes, clock=clock)
    admission.observe(QueueNumbers(**({"depth": 0, "done": 10 * RATE, "busy_s": 10.0} | numbers)))
    return admission


def admit(admission: Admission, key: str = "camera", cost: int = 1) -> float | None:
    return answer(admission.admit(key, cost))


def fill(admission: Admission) -> int:
    """Admit until refused, each from another key; how many were admitted."""
    for number in range(10_000):
        if admit(admission, f"camera-{next(NAMES)}") is not None:
            return number
    raise AssertionError("it admits everything")


# The law


def test_what_waits_less_than_the_target_is_admitted_and_no_more() -> None:
    assert fill(taught(FakeClock(), depth=30)) == 10
    assert fill(taught(FakeClock(), depth=40)) == 0
    assert fill(taught(FakeClock(), depth=400)) == 0


def test_what_was_admitted_since_the_last_numbers_counts() -> None:
    assert fill(taught(FakeClock())) == 40


def test_what_the_workers_did_since_the_last_numbers_counts() -> None:
    clock = FakeClock()
    admission = taught(clock, depth=40)
    clock.advance(0.5)
    assert fill(admission) == 5


def test_it_goes_on_at_the_known_rate_when_no_numbers_come() -> None:
    clock = FakeClock()
    admission = taught(clock)
    admitted = 0
    for _ in range(600):
        clock.advance(0.1)
        admitted += fill(admission)
    assert admitted == pytest.approx(40 + 60 * RATE, abs=2)


def test_numbers_that_arrive_late_are_carried_on_to_now() -> None:
    clock = FakeClock()
    admission = taught(clock)
    clock.advance(1.0)
    for _ in range(6):
        admit(admission)
    clock.advance(0.5)
    admission.observe(QueueNumbers(depth=20, done=0, busy_s=0, age_s=1.0))
    # 20 half a second before the six came, and ten were done in the second.
    assert admission.describe()["depth"] == pytest.approx(16)


def test_time_in_which_nothing_waited_takes_nothing_off_later_jobs() -> None:
    clock = FakeClock()
    admission = taught(clock)
    clock.advance(1.0)
    for _ in range(6):
        admit(admission)
    clock.advance(0.5)
    admission.observe(QueueNumbers(depth=0, done=0, busy_s=0, age_s=1.0))
    assert admission.describe()["depth"] == pytest.approx(1)


def test_newer_numbers_replace_what_was_thought() -> None:
    clock = FakeClock()
    admission = taught(clock)
    assert fill(admission) == 40
    clock.advance(0.5)
    admission.observe(QueueNumbers(depth=39, done=0, busy_s=0))
    assert fill(admission) == 1


def test_a_refused_caller_that_waits_as_told_is_admitted() -> None:
    clock = FakeClock()
    admission = taught(clock, depth=100)
    retry_after_s = admit(admission)
    assert retry_after_s == pytest.approx(6.0)
    clock.advance((retry_after_s or 0.0) + 1e-6)
    assert admit(admission) is None


def test_a_refused_caller_is_told_a_time_that_makes_sense() -> None:
    assert admit(taught(FakeClock(), depth=40)) == 0.1
    assert admit(taught(FakeClock(), depth=1e9)) == 300.0


def test_jobs_that_come_together_are_admitted_together_or_not_at_all() -> None:
    admission = taught(FakeClock(), depth=30)
    assert admit(admission, cost=11) is not None
    assert admission.describe()["depth"] == 30
    assert admit(admission, "other", cost=10) is None
    assert admission.describe()["depth"] == 40


def test_more_jobs_than_the_queue_may_hold_are_admitted_when_it_is_empty() -> None:
    admission = taught(FakeClock())
    assert admit(admission, cost=100) is None
    assert admit(admission, "other") == pytest.approx(6.0)


def test_a_look_takes_nothing() -> None:
    admission = taught(FakeClock(), depth=39)
    before = admission.describe()
    assert [admission.peek(f"camera-{number}") for number in range(5)] == [None] * 5
    assert admission.describe() == before
    admit(admission)
    assert admission.peek("another") is not None


# When little is known


def test_until_the_rate_is_known_a_depth_bounds_the_queue() -> None:
    admission = Admission(4.0, cold_depth=7, clock=FakeClock())
    assert fill(admission) == 7
    assert admit(admission) == 4.0
    assert admission.describe()["wait_s"] is None


def test_without_workers_the_queue_fills_to_what_it_may_hold() -> None:
    clock = FakeClock()
    admission = taught(clock)
    depth = 0
    for _ in range(1000):
        admission.observe(QueueNumbers(depth=depth, done=0, busy_s=0.0))
        clock.advance(0.5)
        depth += fill(admission)
    # The target's jobs, and what the workers would have done between two looks.
    assert 40 <= depth <= 40 + 0.5 * RATE + 1


def test_workers_that_were_stuck_get_work_again() -> None:
    clock = FakeClock()
    admission = taught(clock, depth=5)
    for _ in range(7200):
        clock.advance(0.5)
        admission.observe(QueueNumbers(depth=5, done=0, busy_s=0.5))
    assert admit(admission) == 300.0
    admission.observe(QueueNumbers(depth=0, done=0, busy_s=0.0))
    assert admit(admission) is None
    assert admit(admission) is not None


def test_a_quiet_night_does_not_lower_what_the_morning_may_bring() -> None:
    clock = FakeClock()
    admission = taught(clock)
    for _ in range(8 * 7200):
        clock.advance(0.5)
        admission.observe(QueueNumbers(depth=0, done=0, busy_s=0.0))
    assert fill(admission) == 40


@pytest.mark.parametrize("field", ["depth", "done", "busy_s", "age_s"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_numbers_that_are_none_are_dropped(field: str, bad: float) -> None:
    admission = taught(FakeClock(), depth=30)
    admission.observe(QueueNumbers(**({"depth": 0.0, "done": 0.0, "busy_s": 0.0} | {field: bad})))
    assert fill(admission) == 10


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_is_stepped_costs_no_more_than_one_target(seconds: float) -> None:
    clock = FakeClock()
    admission = taught(clock, depth=40)
    clock.advance(seconds)
    assert fill(admission) <= 40
    clock.advance(0.1)
    admission.observe(QueueNumbers(depth=35, done=0, busy_s=0.0))
    assert fill(admission) == 5


@pytest.mark.parametrize("target_wait_s", [0.0, -1.0, math.nan, math.inf])
def test_a_target_is_a_time(target_wait_s: float) -> None:
    with pytest.raises(ValueError, match="seconds over 0"):
        Admission(target_wait_s)


@pytest.mark.parametrize("name", ["processes", "cold_depth", "max_keys"])
def test_counts_start_at_1(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Admission(1.0, **{name: 0})  # type: ignore[arg-type]  # the name is one of the three


def test_a_cost_is_at_least_1() -> None:
    for cost in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            admit(taught(FakeClock()), cost=cost)


# Several processes


def test_until_more_is_known_all_processes_are_thought_to_admit_alike() -> None:
    assert fill(taught(FakeClock(), processes=4)) == 10


@pytest.mark.parametrize(("others", "inflation"), [(0, 1.0), (1, 2.0), (3, 4.0), (20, 4.0)])
def test_what_other_processes_admit_is_measured(others: int, inflation: float) -> None:
    clock = FakeClock()
    admission = taught(clock, processes=4)
    for _ in range(50):
        for _ in range(2):
            assert admit(admission) is None
        clock.advance(0.5)
        admission.observe(QueueNumbers(depth=0, done=2 + 2 * others, busy_s=0.1))
    assert admission.describe()["inflation"] == pytest.approx(inflation)


def test_jobs_that_came_and_still_wait_are_measured_too() -> None:
    clock = FakeClock()
    admission = taught(clock, processes=4, done=1000)
    for turn in range(1, 21):
        for _ in range(2):
            assert admit(admission) is None
        clock.advance(0.5)
        admission.observe(QueueNumbers(depth=4 * turn, done=0, busy_s=0))
    assert admission.describe()["inflation"] == pytest.approx(2.0)


def test_admissions_that_late_numbers_leave_out_stand_for_those_of_others_too() -> None:
    clock = FakeClock()
    admission = taught(clock, processes=4)
    clock.advance(0.5)
    for _ in range(3):
        admit(admission)
    admission.observe(QueueNumbers(depth=0, done=0, busy_s=0, age_s=0.1))
    assert admission.describe()["depth"] == pytest.approx(12)


# Fairness


def test_above_half_the_target_a_key_with_more_than_its_share_waits_for_the_others() -> None:
    clock = FakeClock()
    admission = taught(clock)
    assert admit(admission, "modest") is None
    greedy = sum(admit(admission, "greedy") is None for _ in range(100))
    assert greedy == 19
    assert [admit(admission, "modest") for _ in range(9)] == [None] * 9
    assert admit(admission, "new") is None
    assert admit(admission, "greedy") == pytest.approx(1.0)
    assert admission.describe()["refused_for_fairness"] == 82


def test_one_key_alone_gets_all_there_is() -> None:
    admission = taught(FakeClock())
    assert sum(admit(admission) is None for _ in range(100)) == 40


def test_what_a_key_was_given_is_forgotten_after_a_time() -> None:
    clock = FakeClock()
    admission = taught(clock)
    admit(admission, "modest")
    while admit(admission, "greedy") is None:
        pass
    clock.advance(17.0)
    assert admit(admission, "greedy") is None
    assert admission.describe()["keys"] == 1


def test_memory_does_not_grow_with_keys() -> None:
    clock = FakeClock()
    admission = Admission(4.0, max_keys=100, clock=clock)
    admission.observe(QueueNumbers(depth=0, done=1000, busy_s=0.01))
    for number in range(10_000):
        admit(admission, f"camera-{number}")
        clock.advance(0.001)
    assert admission.describe()["keys"] <= 2 * 101


@settings(max_examples=30, deadline=None)
@given(
    keys=st.integers(1, 8),
    greed=st.integers(1, 20),
    per_s=st.floats(2, 200),
    target_wait_s=st.floats(1, 10),
)
def test_no_key_starves(keys: int, greed: int, per_s: float, target_wait_s: float) -> None:
    """Whoever asks for no more than half of an equal share gets nearly all of it."""
    clock = FakeClock()
    admission = Admission(target_wait_s, clock=clock)
    admission.observe(QueueNumbers(depth=0, done=10 * per_s, busy_s=10.0))
    share_per_s = per_s / (keys + 1)
    if share_per_s * target_wait_s < 2:
        return
    step_s = 1 / (share_per_s / 2)
    asked = got = 0
    for turn in range(100):
        for _ in range(greed * (keys + 1)):
            admit(admission, "greedy")
        for key in range(keys):
            is_admitted = admit(admission, f"modest-{key}") is None
            if turn > 20:
                asked, got = asked + 1, got + is_admitted
        clock.advance(step_s)
    assert got >= 0.95 * asked


class AnyTraffic(RuleBasedStateMachine):
    """Whatever is asked, told and done in between."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.admission = Admission(2.0, processes=3, max_keys=4, clock=self.clock)
        self.asked = 0

    @rule(
        depth=st.floats(-1, 1e6) | st.just(math.nan),
        done=st.floats(0, 1e4),
        busy_s=st.floats(0, 100),
        age_s=st.floats(0, 20),
    )
    def hear(self, depth: float, done: float, busy_s: float, age_s: float) -> None:
        self.admission.observe(QueueNumbers(depth, done, busy_s, age_s=age_s))

    @rule(key=st.sampled_from("abcdefgh"), cost=st.integers(1, 20))
    def ask(self, key: str, cost: int) -> None:
        before = self.admission.describe()
        looked = self.admission.peek(key, cost)
        answered = admit(self.admission, key, cost)
        self.asked += 1
        wait_s, depth = before["wait_s"], before["depth"]
        if wait_s is not None and wait_s >= 2.0:
            assert answered is not None
        if depth == 0:
            assert answered is None
        if answered is None:
            assert self.admission.describe()["depth"] >= depth + cost
        else:
            assert 0.1 <= answered <= 300
            assert self.admission.describe()["depth"] == depth
            assert looked is None or looked <= answered + 1.0

    @rule(seconds=st.floats(0, 30) | st.sampled_from([-3600.0, 3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def what_it_says_of_itself_is_consistent(self) -> None:
        told = self.admission.describe()
        assert told["admitted"] + told["refused"] == self.asked
        assert told["refused_for_fairness"] <= told["refused"]
        assert 1 <= told["inflation"] <= 3
        assert told["keys"] <= 2 * 5
        assert told["depth"] >= 0
        rate, wait_s = told["service_rate_per_s"], told["wait_s"]
        if told["depth"] == 0:
            assert wait_s == 0
        elif rate is None:
            assert wait_s is None
        else:
            assert wait_s == (told["depth"] / rate if rate else math.inf)


AnyTraffic.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase


# What it keeps, in the simulation that the benchmark prints


def run(scenario: Scenario, policy: Callable[[Simulation], Ours] = Ours) -> Outcome:
    return Simulation(scenario, policy).run()


@pytest.mark.parametrize(
    "scenario",
    [one for one in SCENARIOS if "storm" not in one.name] + [QUIET],
    ids=lambda scenario: scenario.name,
)
def test_capacity_goes_into_work_that_is_done_in_time(scenario: Scenario) -> None:
    outcome = run(scenario)
    assert outcome.goodput >= 0.97
    assert outcome.p99_wait_s < scenario.deadline_s


def test_one_greedy_client_costs_the_others_nothing_and_no_capacity() -> None:
    outcome = run(GREEDY)
    got = {key: outcome.done_by_key[key] / asked for key, asked in outcome.asked_by_key.items()}
    assert got.pop("client-0") > 0.5
    assert min(got.values()) > 0.9
    assert outcome.goodput >= 0.97


class ForgetsAdmissions(Ours):
    """A planted fault: what was admitted since the last numbers is not counted."""

    def admission(self, scenario: Scenario, clock: Clock) -> Admission:
        return Forgetful(scenario.target_wait_s, clock=clock)


class Forgetful(Admission):
    async def admit(self, key: str, cost: int = 1) -> float | None:
        return self.peek(key, cost)


class LearnsFromIdleTime(Ours):
    """A planted fault: the rate is learnt by the clock on the wall, idle or not."""

    def see(self, snapshot: Snapshot) -> None:
        numbers = snapshot.numbers
        wrong = QueueNumbers(numbers.depth, numbers.done, 0.5, numbers.oldest_age_s)
        super().see(Snapshot(wrong, snapshot.busy))


class ForgetsOtherProcesses(Ours):
    """A planted fault: each process takes itself for the only one."""

    def admission(self, scenario: Scenario, clock: Clock) -> Admission:
        return Admission(scenario.target_wait_s, clock=clock)


@pytest.mark.parametrize(
    ("policy", "scenario"),
    [
        (ForgetsAdmissions, STEP),
        (LearnsFromIdleTime, QUIET),
        (ForgetsOtherProcesses, replace(STEP, processes=8)),
    ],
)
def test_the_simulation_sees_a_law_that_is_wrong(
    policy: Callable[[Simulation], Ours], scenario: Scenario
) -> None:
    assert run(scenario, policy).goodput < 0.95
