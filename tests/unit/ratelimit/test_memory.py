"""What the log promises, for any sequence of hits, against a list that forgets nothing."""

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capturekit.ratelimit import Decision, MemoryStorage, Quota, RateLimiter

WINDOW_S = 64
SUB_BUCKET_S = WINDOW_S / 64
TICK_S = 1 / 16
"""Times in these tests are whole ticks, so that sums of them are exact."""

T = TypeVar("T")


def now(coroutine: Coroutine[object, None, T]) -> T:
    """Run a coroutine that must not suspend: a decision in memory is one atomic step."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    raise AssertionError("it suspended")


def grown_bytes(act: Callable[[], None]) -> int:
    """Memory that is held after an act and was not before it."""
    tracemalloc.start()
    try:
        act()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@dataclass
class Clock:
    reading_s: float = 1000.0

    def __call__(self) -> float:
        return self.reading_s


@dataclass
class Oracle:
    """Every cost that was ever admitted, and when."""

    elapsed_s: float = 0.0
    spent: list[tuple[float, str, int]] = field(default_factory=list)

    def used(self, key: str, window_s: float) -> int:
        since = self.elapsed_s - window_s
        return sum(cost for at, who, cost in self.spent if who == key and at > since)

    def wait_s(self, key: str, limit: int, cost: int) -> float:
        """Seconds until the cost fits into the window; it must not be over the limit."""
        missing = self.used(key, WINDOW_S) + cost - limit
        wait_s = 0.0
        for at, who, spent in self.spent:
            if missing > 0 and who == key and at > self.elapsed_s - WINDOW_S:
                missing -= spent
                wait_s = at + WINDOW_S - self.elapsed_s
        return wait_s

    def note(self, key: str, decision: Decision) -> None:
        if decision.allowed:
            self.spent.append((self.elapsed_s, key, decision.cost))


class World:
    """A storage, a clock and an oracle that sees the same."""

    def __init__(self, max_keys: int = 1000) -> None:
        self.clock = Clock()
        self.storage = MemoryStorage(clock=self.clock, max_keys=max_keys)
        self.oracle = Oracle()

    def limiter(self, rules: str) -> RateLimiter:
        return RateLimiter(rules, storage=self.storage)

    def advance(self, step_s: float) -> None:
        self.clock.reading_s += step_s
        self.oracle.elapsed_s += max(0.0, step_s)

    def hit(self, limit: int, key: str, cost: int) -> Decision:
        decision = now(self.limiter(f"{limit} per {WINDOW_S} seconds").hit(key, cost))
        self.oracle.note(key, decision)
        return decision


# Steps end before, on and after the bounds of sub-buckets and windows; a handful of limits
# and of costs makes it likely that a window is just full.
ticks = st.sampled_from([0, 1, 1, 8, 15, 16, 17, 500, 1000, 1008, 1022, 1023, 1024])
small_limits = st.sampled_from([0, 1, 2, 3, 3, 10, 63, 64])
any_limits = st.one_of(small_limits, st.sampled_from([65, 90, 100]))
costs = st.sampled_from([1, 1, 1, 2, 3, 21, 30, 32])
keys = st.sampled_from("ab")
calls = st.lists(st.tuples(ticks, any_limits, keys, costs), max_size=60)


@given(calls)
@settings(max_examples=400)
def test_no_window_ever_holds_more_than_the_limit_in_force(
    calls: list[tuple[int, int, str, int]],
) -> None:
    world = World()
    for step, limit, key, cost in calls:
        world.advance(step * TICK_S)
        if world.hit(limit, key, cost).allowed:
            assert world.oracle.used(key, WINDOW_S) <= limit


@given(st.lists(st.tuples(ticks, any_limits, st.sampled_from("abcd"), costs), max_size=60))
@settings(max_examples=400)
def test_a_crowd_of_keys_gets_no_quota_from_eviction_or_the_common_log(
    calls: list[tuple[int, int, str, int]],
) -> None:
    world = World(max_keys=2)
    for step, limit, key, cost in calls:
        world.advance(step * TICK_S)
        if world.hit(limit, key, cost).allowed:
            assert world.oracle.used(key, WINDOW_S) <= limit
    assert world.storage.count("default") <= 2


@given(st.lists(st.tuples(st.integers(-2000, 1200), any_limits, costs), max_size=80))
@settings(max_examples=100)
def test_a_clock_that_steps_back_grants_nothing(calls: list[tuple[int, int, int]]) -> None:
    world = World()
    for step, limit, cost in calls:
        world.advance(step * TICK_S)
        if world.hit(limit, "a", cost).allowed:
            assert world.oracle.used("a", WINDOW_S) <= limit


@given(st.lists(st.tuples(ticks, small_limits, keys, costs), max_size=80))
@example([(0, 1, "a", 1), (WINDOW_S * 16, 1, "a", 1)])
@settings(max_examples=200)
def test_small_limits_admit_exactly_what_fits(calls: list[tuple[int, int, str, int]]) -> None:
    world = World()
    for step, limit, key, cost in calls:
        world.advance(step * TICK_S)
        used = world.oracle.used(key, WINDOW_S)
        decision = world.hit(limit, key, cost)
        assert decision.allowed == (used + cost <= limit)
        left = limit - used - (cost if decision.allowed else 0)
        assert decision.remaining == max(0, left)


@given(st.lists(st.tuples(ticks, any_limits, costs), max_size=60), any_limits, costs)
@settings(max_examples=200)
def test_retry_after_is_enough_and_at_most_a_sub_bucket_late(
    calls: list[tuple[int, int, int]], limit: int, cost: int
) -> None:
    world = World()
    for step, some_limit, some_cost in calls:
        world.advance(step * TICK_S)
        world.hit(some_limit, "a", some_cost)
    least_s = world.oracle.wait_s("a", limit, cost) if cost <= limit else WINDOW_S
    limiter = world.limiter(f"{limit} per {WINDOW_S} seconds")
    decision = now(limiter.peek("a", cost))
    world.advance(decision.retry_after_s)
    if cost > limit:
        assert not decision.allowed
        assert decision.retry_after_s >= WINDOW_S
    else:
        assert least_s <= decision.retry_after_s < least_s + SUB_BUCKET_S
        assert now(limiter.peek("a", cost)).allowed


@given(st.lists(st.tuples(ticks, small_limits, costs), max_size=60), small_limits, costs)
def test_retry_after_of_a_small_limit_is_exact(
    calls: list[tuple[int, int, int]], limit: int, cost: int
) -> None:
    world = World()
    for step, some_limit, some_cost in calls:
        world.advance(step * TICK_S)
        world.hit(some_limit, "a", some_cost)
    decision = now(world.limiter(f"{limit} per {WINDOW_S} seconds").peek("a", cost))
    if cost <= limit:
        assert decision.retry_after_s == world.oracle.wait_s("a", limit, cost)


@given(st.floats(0, 1e9), st.floats(0, 100), st.integers(1, 10**6))
@example(73522.1804156936, 79.45722220851718, 846117)
@settings(max_examples=200)
def test_retry_after_is_enough_at_any_time_of_any_clock(
    start_s: float, later_s: float, window_s: int
) -> None:
    clock = Clock(start_s)
    limiter = RateLimiter(f"1 per {window_s} seconds", storage=MemoryStorage(clock=clock))
    now(limiter.hit("a"))
    clock.reading_s += later_s
    clock.reading_s += now(limiter.peek("a")).retry_after_s
    assert now(limiter.hit("a")).allowed


two_rules = st.sampled_from(
    ["5 per 16 seconds", "9 per 64 seconds", "5 per 16 seconds; 9 per 64 seconds"]
)


@given(st.lists(st.tuples(ticks, two_rules, st.integers(1, 4)), max_size=80))
@settings(max_examples=200)
def test_rules_that_change_forget_nothing_in_any_of_their_windows(
    calls: list[tuple[int, str, int]],
) -> None:
    world = World()
    now(world.limiter("9 per 64 seconds").peek("a"))
    for step, rules, cost in calls:
        world.advance(step * TICK_S)
        used = {5: world.oracle.used("a", 16), 9: world.oracle.used("a", 64)}
        decision = now(world.limiter(rules).hit("a", cost))
        world.oracle.note("a", decision)
        in_force = [limit for limit in used if f"{limit} per" in rules]
        if decision.allowed:
            assert all(used[limit] + cost <= limit for limit in in_force)


@given(st.lists(st.tuples(ticks, st.integers(1, 10)), max_size=80))
@settings(max_examples=200)
def test_of_two_rules_all_are_spent_or_none(calls: list[tuple[int, int]]) -> None:
    world = World()
    limiter = world.limiter("5 per 16 seconds; 9 per 64 seconds")
    for step, cost in calls:
        world.advance(step * TICK_S)
        short, long = world.oracle.used("a", 16), world.oracle.used("a", 64)
        decision = now(limiter.hit("a", cost))
        world.oracle.note("a", decision)
        assert decision.allowed == (short + cost <= 5 and long + cost <= 9)


def test_the_window_really_slides_and_199_of_100_never_pass() -> None:
    world = World()
    limiter = world.limiter("100/minute")
    world.advance(59)
    before = sum(now(limiter.hit("a")).allowed for _ in range(99))
    world.advance(2)
    after = sum(now(limiter.hit("a")).allowed for _ in range(100))
    assert before + after == 100


def test_times_are_exact_up_to_a_limit_of_64() -> None:
    world = World()
    world.advance(TICK_S)
    assert world.hit(64, "a", 64).reset_s == WINDOW_S
    assert world.hit(65, "b", 65).reset_s == WINDOW_S + SUB_BUCKET_S - TICK_S


def test_a_clock_that_steps_back_an_hour_locks_nobody_out_for_an_hour() -> None:
    world = World()
    world.hit(1, "a", 1)
    world.advance(-3600)
    retry_after_s = world.hit(1, "a", 1).retry_after_s
    world.advance(retry_after_s)
    assert retry_after_s == WINDOW_S
    assert world.hit(1, "a", 1).allowed


def test_what_a_key_spent_in_the_common_log_follows_it_into_its_own() -> None:
    world = World(max_keys=1)
    world.hit(2, "first", 1)
    world.advance(WINDOW_S / 2)
    world.hit(2, "second", 1)
    world.advance(WINDOW_S / 2)
    assert [world.hit(2, "second", 1).allowed for _ in range(2)] == [True, False]


def test_a_steady_stream_gets_97_percent_of_a_large_limit() -> None:
    world = World()
    limiter = world.limiter(f"1000 per {WINDOW_S} seconds")
    admitted = 0
    for _ in range(10 * WINDOW_S * 32):
        world.advance(1 / 32)
        admitted += now(limiter.hit("a")).allowed
    assert 0.97 * 10_000 <= admitted <= 10_000


@pytest.mark.parametrize("limit", [64, 65, 300, 10**6, 10**9])
def test_a_key_takes_at_most_1200_bytes_at_any_limit(limit: int) -> None:
    world = World()
    limiter = world.limiter(f"{limit} per {WINDOW_S} seconds")

    def spend_in_every_sub_bucket(callers: int) -> None:
        for _ in range(70 * 4):
            world.advance(SUB_BUCKET_S / 4)
            for number in range(callers):
                now(limiter.hit(f"ip:203.0.113.{number}", max(1, limit // 300)))

    assert grown_bytes(lambda: spend_in_every_sub_bucket(30)) / 30 <= 1200


def test_costs_larger_than_four_billion_are_counted() -> None:
    world = World()
    limiter = world.limiter("10000000000/day")
    decisions = [now(limiter.hit("a", 3_000_000_000)) for _ in range(4)]
    assert [one.allowed for one in decisions] == [True, True, True, False]
    assert decisions[-1].remaining == 1_000_000_000


def test_idle_keys_are_forgotten_when_they_have_left_their_window() -> None:
    world = World()
    limiter = world.limiter("20/minute")
    for number in range(1000):
        now(limiter.hit(f"early {number}"))
    world.advance(61)
    for number in range(600):
        now(limiter.hit(f"late {number}"))
    assert world.storage.count("default") == 600


def test_idle_keys_are_forgotten_also_when_nobody_new_comes() -> None:
    world = World()
    limiter = world.limiter("20000/minute")
    for number in range(1000):
        now(limiter.hit(f"early {number}"))
    for _ in range(1700):
        world.advance(0.1)
        now(limiter.hit("early 0"))
    assert world.storage.count("default") == 1


def test_a_key_that_is_evicted_by_its_own_hit_starts_anew() -> None:
    world = World()
    decisions = []
    for _ in range(3):
        decisions += [world.hit(1, "a", 1), world.hit(1, "a", 1)]
        world.advance(WINDOW_S)
    assert [one.allowed for one in decisions] == [True, False] * 3


def test_live_keys_are_not_forgotten_for_newcomers() -> None:
    world = World()
    limiter = world.limiter("1/minute")
    for number in range(1000):
        now(limiter.hit(f"early {number}"))
    world.advance(59)
    assert not any(now(limiter.hit(f"early {number}")).allowed for number in range(1000))


def test_when_full_newcomers_share_one_quota() -> None:
    storage = MemoryStorage(clock=Clock(), max_keys=1)
    limiter = RateLimiter("2/minute", storage=storage)
    callers = ["first", "second", "third", "fourth", "first"]
    answers = [now(limiter.hit(caller)).allowed for caller in callers]
    assert answers == [True, True, True, False, True]


def test_after_the_crowd_left_a_newcomer_has_its_own_quota_again() -> None:
    world = World(max_keys=1)
    limiter = world.limiter("1/minute")
    for caller in ("first", "second"):
        now(limiter.hit(caller))
    world.advance(60)
    assert [now(limiter.hit(caller)).allowed for caller in ("third", "third")] == [True, False]


def test_resetting_again_and_again_takes_no_memory() -> None:
    limiter = World().limiter("20/minute")

    def reset_and_hit() -> None:
        for _ in range(2000):
            now(limiter.reset("a"))
            now(limiter.hit("a"))

    assert grown_bytes(reset_and_hit) < 4000


def test_a_storage_without_room_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="max_keys is 0"):
        MemoryStorage(max_keys=0)


def test_threads_together_get_no_more_than_one_alone() -> None:
    limiter = RateLimiter("4000/hour", storage=MemoryStorage(clock=Clock()))
    admitted: list[bool] = []

    def burst() -> None:
        admitted.extend([now(limiter.hit("a")).allowed for _ in range(2000)])

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=burst) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    stats = limiter.describe()
    assert sum(admitted) == 4000 == stats["allowed"] == stats["refused"]


@pytest.mark.anyio
async def test_keys_that_spent_are_told_by_account() -> None:
    storage = MemoryStorage()
    for key in ("a", "b", "c"):
        await storage.decide("one", key, [Quota("minute", 3, 60.0)], 1, spend=True)

    assert sorted(await storage.keys("one", 10)) == ["a", "b", "c"]
    assert len(await storage.keys("one", 2)) == 2
    assert await storage.keys("other", 10) == []


@pytest.mark.anyio
async def test_the_keys_that_spent_most_are_told_first() -> None:
    storage = MemoryStorage()
    for number in range(50):
        await storage.decide("one", f"k{number}", [Quota("minute", 99, 60.0)], 1, spend=True)
    await storage.decide("one", "hog", [Quota("minute", 99, 60.0)], 7, spend=True)

    assert (await storage.keys("one", 3))[0] == "hog"
