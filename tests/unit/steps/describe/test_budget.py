import multiprocessing
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capturekit.errors import StorageCorrupt, StorageError
from capturekit.steps.describe import Budget, BudgetExhausted
from capturekit.steps.describe.budget import DAYS_KEPT, Ledger
from capturekit.testing import FakeClock

EVENING = datetime(2026, 11, 24, 23, 59, tzinfo=UTC).timestamp()
DAY_S = 86_400


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(EVENING)


def test_calls_over_the_budget_wait_for_midnight(clock: FakeClock) -> None:
    ledger = Ledger(Budget(max_calls_per_day=2), wall=clock)
    ledger.reserve(0)
    ledger.reserve(0)

    with pytest.raises(BudgetExhausted) as refused:
        ledger.reserve(0)
    clock.advance(refused.value.retry_after_s)
    ledger.reserve(0)

    assert refused.value.retry_after_s == 60
    assert ledger.spent() == (1, 0)


def test_a_cost_is_reserved_before_and_settled_after(clock: FakeClock) -> None:
    ledger = Ledger(Budget(max_cost_per_day=1.0), wall=clock)
    first = ledger.reserve(900_000)

    with pytest.raises(BudgetExhausted):
        ledger.reserve(200_000)
    ledger.settle(first, 100_000)
    ledger.reserve(200_000)

    assert ledger.spent() == (2, 0.3)


def test_what_costs_nothing_goes_on_when_the_money_is_spent(clock: FakeClock) -> None:
    ledger = Ledger(Budget(max_cost_per_day=0), wall=clock)
    ledger.reserve(0)

    with pytest.raises(BudgetExhausted):
        ledger.reserve(1)


def test_a_call_over_midnight_is_settled_on_the_day_it_began(clock: FakeClock) -> None:
    ledger = Ledger(Budget(), wall=clock)
    reserved = ledger.reserve(500_000)
    clock.advance(120)
    ledger.settle(reserved, 100_000)

    assert ledger.spent() == (0, 0)
    clock.advance(-120)
    assert ledger.spent() == (1, 0.1)


@settings(max_examples=50)
@given(st.lists(st.integers(-3 * DAY_S, 3 * DAY_S), max_size=30))
def test_no_jump_of_the_clock_gives_a_day_more_calls(jumps: list[int]) -> None:
    clock = FakeClock(EVENING)
    ledger = Ledger(Budget(max_calls_per_day=2), wall=clock)
    allowed: dict[int, int] = {}
    for jump in jumps:
        clock.now = EVENING + jump
        try:
            ledger.reserve(0)
        except BudgetExhausted:
            continue
        day = int(clock.now // DAY_S)
        allowed[day] = allowed.get(day, 0) + 1

    assert all(calls <= 2 for calls in allowed.values())


def test_days_long_past_are_forgotten(clock: FakeClock, tmp_path: Path) -> None:
    ledger = Ledger(Budget(path=tmp_path / "budget.json"), wall=clock)
    for _ in range(3 * DAYS_KEPT):
        ledger.reserve(1)
        clock.advance(DAY_S)

    assert (tmp_path / "budget.json").read_text().count("calls") == DAYS_KEPT


def test_a_budget_with_a_file_outlives_its_process(clock: FakeClock, tmp_path: Path) -> None:
    budget = Budget(max_calls_per_day=1, path=tmp_path / "budget.json")
    Ledger(budget, wall=clock).reserve(0)

    with pytest.raises(BudgetExhausted):
        Ledger(budget, wall=clock).reserve(0)


def reserve_many(path: Path, calls: int) -> None:
    ledger = Ledger(Budget(path=path), wall=FakeClock(EVENING))
    for _ in range(calls):
        ledger.reserve(10)


def test_processes_and_threads_count_together(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    spawn = multiprocessing.get_context("spawn")
    runners = [spawn.Process(target=reserve_many, args=(path, 20)) for _ in range(2)]
    threads = [threading.Thread(target=reserve_many, args=(path, 20)) for _ in range(3)]
    for process in runners:
        process.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in runners:
        process.join()

    assert Ledger(Budget(path=path), wall=clock).spent() == (100, 0.001)


def test_a_damaged_file_allows_nothing(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    path.write_text('{"2026-11-24": {"calls"')

    with pytest.raises(StorageCorrupt, match="delete it"):
        Ledger(Budget(path=path), wall=clock).reserve(0)


def test_a_folder_that_is_missing_allows_nothing(clock: FakeClock, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be kept"):
        Ledger(Budget(path=tmp_path / "missing" / "budget.json"), wall=clock).reserve(0)


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf")])
def test_a_limit_is_a_number_from_0_up(limit: float) -> None:
    with pytest.raises(ValueError, match="from 0 up"):
        Budget(max_cost_per_day=limit)
