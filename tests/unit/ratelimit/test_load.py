"""What each signal makes of what it is shown, and the factor on limits that follows."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.ratelimit import MemoryStorage, RateLimiter
from capturekit.ratelimit.load import (
    DEFAULT_CURVE,
    EventLoopLag,
    MemoryLoad,
    PressureLoad,
    QueueLoad,
    QueueMeter,
    QueueNumbers,
    Scaling,
    ServiceRate,
    machine_share,
    on_curve,
    pressure_percent,
    ramp,
    watch,
)
from capturekit.testing import FakeClock

GIB = 2**30
MEMINFO = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    150 kB\nHugePages_Total: 0\n"
PRESSURE = (
    "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1"
)


def write(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


class Known:
    """A signal that says what it is told to say."""

    def __init__(self, load: float | None, name: str = "known") -> None:
        self.name = name
        self.value = load

    def load(self) -> float | None:
        return self.value


def learnt(per_s: float) -> ServiceRate:
    rate = ServiceRate()
    for _ in range(200):
        rate.learn(per_s / 2, 0.5)
    return rate


# The service rate


def test_a_rate_is_unknown_until_some_jobs_ended() -> None:
    rate = ServiceRate()
    rate.learn(3, 1.5)
    assert rate.per_s is None
    rate.learn(1, 0.5)
    assert rate.per_s == pytest.approx(2.0, rel=0.2)


def test_idle_time_does_not_change_a_rate() -> None:
    rate = learnt(8.0)
    for _ in range(100_000):
        rate.learn(0, 0.0)
    assert rate.per_s == pytest.approx(8.0)


@given(st.floats(0.5, 1000), st.sampled_from([0.1, 0.5, 2.0, 10.0]))
def test_a_rate_that_changed_is_learnt_within_some_jobs(per_s: float, factor: float) -> None:
    rate = learnt(per_s)
    busy_s = max(10.0, 5 * 32 / (per_s * min(factor, 1.0)))
    for _ in range(100):
        rate.learn(per_s * factor * busy_s / 100, busy_s / 100)
    assert rate.per_s == pytest.approx(per_s * factor, rel=0.2)


def test_workers_that_are_stuck_have_a_rate_near_0_and_are_believed_again() -> None:
    rate = learnt(100.0)
    for _ in range(7200):
        rate.learn(0, 0.5)
    assert (rate.per_s or 0.0) < 0.1
    for _ in range(40):
        rate.learn(50, 0.5)
    assert rate.per_s == pytest.approx(100.0, rel=0.1)


def test_slow_workers_that_were_stuck_for_a_day_are_believed_again_after_some_jobs() -> None:
    rate = learnt(0.5)
    for _ in range(8640):
        rate.learn(0, 10.0)
    for _ in range(128):
        rate.learn(1, 2.0)
    assert rate.per_s == pytest.approx(0.5, rel=0.2)


def test_one_odd_moment_does_not_overturn_what_is_known() -> None:
    rate = learnt(1000.0)
    rate.learn(0, 0.5)
    assert rate.per_s == pytest.approx(790, abs=20)
    rate.learn(1000, 0.5)
    assert rate.per_s == pytest.approx(1000, rel=0.2)


def test_jobs_that_should_have_ended_count_as_much_as_those_that_did() -> None:
    rate = learnt(1.0)
    for _ in range(32):
        rate.learn(0, 1.0)
    assert (rate.per_s or 0.0) < 0.45


def test_a_rate_is_finite() -> None:
    rate = ServiceRate()
    rate.learn(1e6, 5e-324)
    assert rate.per_s == 1e9


# Numbers of a queue


def test_the_first_look_at_a_queue_tells_only_its_depth() -> None:
    meter = QueueMeter(FakeClock())
    numbers = meter.read(waiting=3, running=2, ended=100, workers=2, oldest_age_s=1.5)
    assert numbers == QueueNumbers(depth=3, done=0, busy_s=0, oldest_age_s=1.5)


@pytest.mark.parametrize(
    ("waiting", "running", "workers", "busy_s"),
    [
        ((3, 1), (2, 2), 2, 4.0),
        ((3, 1), (2, 2), None, 4.0),
        ((0, 0), (1, 1), 2, 2.0),
        ((0, 5), (0, 2), 2, 2.0),
        ((0, 0), (0, 0), 2, 0.0),
        ((0, 0), (1, 1), None, 0.0),
        ((3, 3), (0, 0), 0, 0.0),
        ((0, 0), (9, 9), 2, 4.0),
    ],
    ids=[
        "work waits",
        "work waits for unknown workers",
        "half of the workers run",
        "it begins within",
        "idle",
        "nothing waits for unknown workers",
        "no workers",
        "more run than there are workers",
    ],
)
def test_time_is_busy_as_far_as_the_workers_have_work(
    waiting: tuple[int, int], running: tuple[int, int], workers: int | None, busy_s: float
) -> None:
    clock = FakeClock()
    meter = QueueMeter(clock)
    meter.read(waiting=waiting[0], running=running[0], ended=10, workers=workers)
    clock.advance(4.0)
    numbers = meter.read(waiting=waiting[1], running=running[1], ended=17, workers=workers)
    assert (numbers.done, numbers.busy_s) == (7, busy_s)


@pytest.mark.parametrize(("seconds", "ended"), [(1.0, 4), (-1.0, 12)])
def test_jobs_that_are_forgotten_and_clocks_set_back_teach_nothing(
    seconds: float, ended: int
) -> None:
    clock = FakeClock()
    meter = QueueMeter(clock)
    meter.read(waiting=1, running=1, ended=10, workers=1)
    clock.advance(seconds)
    numbers = meter.read(waiting=1, running=1, ended=ended, workers=1)
    assert (numbers.done, numbers.busy_s) == (0, 0)


# The load of a queue


def test_a_queue_that_was_never_seen_has_no_load() -> None:
    assert QueueLoad(10.0, clock=FakeClock()).load() is None


def test_the_load_of_a_queue_is_the_wait_beside_its_target() -> None:
    load = QueueLoad(10.0, clock=FakeClock())
    load.observe(QueueNumbers(depth=8, done=8, busy_s=4.0))
    assert load.load() == pytest.approx(0.4)


def test_the_oldest_job_counts_where_the_rate_is_unknown_or_flatters() -> None:
    load = QueueLoad(10.0, clock=FakeClock())
    load.observe(QueueNumbers(depth=8, done=0, busy_s=0.0, oldest_age_s=7.0))
    assert load.load() == 0.7
    load.observe(QueueNumbers(depth=8, done=80, busy_s=1.0, oldest_age_s=25.0))
    assert load.load() == 1.0


def test_waiting_jobs_of_unknown_age_and_rate_are_no_load_of_0() -> None:
    load = QueueLoad(10.0, clock=FakeClock())
    load.observe(QueueNumbers(depth=8, done=0, busy_s=0.0))
    assert load.load() is None
    load.observe(QueueNumbers(depth=0, done=0, busy_s=0.0))
    assert load.load() == 0.0


def test_a_queue_that_is_no_longer_seen_has_no_load() -> None:
    clock = FakeClock()
    load = QueueLoad(10.0, clock=clock)
    load.observe(QueueNumbers(depth=0, done=0, busy_s=0.0, age_s=4.0))
    clock.advance(6.0)
    assert load.load() == 0.0
    clock.advance(0.1)
    assert load.load() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["depth", "done", "busy_s", "age_s", "oldest_age_s"])
def test_numbers_that_are_none_are_dropped(field: str, bad: float) -> None:
    load = QueueLoad(10.0, clock=FakeClock())
    sound = {"depth": 8.0, "done": 8.0, "busy_s": 4.0}
    load.observe(QueueNumbers(**sound))
    load.observe(QueueNumbers(**(sound | {field: bad})))
    assert load.load() == pytest.approx(0.4)


@pytest.mark.parametrize("target_wait_s", [0.0, -1.0, math.nan, math.inf])
def test_a_target_is_a_time(target_wait_s: float) -> None:
    with pytest.raises(ValueError, match="seconds over 0"):
        QueueLoad(target_wait_s)


# The event loop


def tick(lag: EventLoopLag, clock: FakeClock, seconds: float) -> None:
    lag.fell_asleep()
    clock.advance(seconds)
    lag.woke()


def lag_of(clock: FakeClock) -> EventLoopLag:
    return EventLoopLag(full_lag_s=0.2, every_s=0.1, clock=clock)


def test_a_loop_that_is_on_time_has_no_load_and_one_that_is_late_has() -> None:
    clock = FakeClock()
    lag = lag_of(clock)
    assert lag.load() is None
    tick(lag, clock, 0.1)
    assert lag.load() == pytest.approx(0.0, abs=1e-5)
    for _ in range(100):
        tick(lag, clock, 0.2)
    assert lag.load() == pytest.approx(0.5, rel=0.01)
    for _ in range(100):
        tick(lag, clock, 5.0)
    assert lag.load() == 1.0


def test_one_pause_of_a_loop_is_not_yet_a_load() -> None:
    clock = FakeClock()
    lag = lag_of(clock)
    for seconds in (0.1, 0.1, 0.3, 0.1):
        tick(lag, clock, seconds)
    assert (lag.load() or 0.0) < 0.2


def test_a_clock_that_is_set_back_is_no_lag() -> None:
    clock = FakeClock()
    lag = lag_of(clock)
    tick(lag, clock, -3600.0)
    assert lag.load() == 0.0


@pytest.mark.anyio
async def test_a_loop_that_is_no_longer_watched_has_no_load() -> None:
    lag = EventLoopLag(every_s=0.0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lag.run)
            while lag.load() is None:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert lag.load() is None


# Memory


def test_memory_of_the_machine_counts_where_no_limit_is_set(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", MEMINFO)
    write(tmp_path, "proc/self/cgroup", "4:memory:/box\n0::/box")
    write(tmp_path, "sys/fs/cgroup/box/memory.max", "max")
    write(tmp_path, "sys/fs/cgroup/box/memory.current", 5 * GIB)
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", 9223372036854771712)
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.usage_in_bytes", 5 * GIB)
    assert MemoryLoad(span=(0.75, 0.95), root=tmp_path).load() == pytest.approx(0.5)


def test_the_limit_of_a_group_counts_before_the_memory_of_the_machine(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", MEMINFO)
    write(tmp_path, "proc/self/cgroup", "0::/pod/box")
    write(tmp_path, "sys/fs/cgroup/pod/box/memory.max", 10 * GIB)
    write(tmp_path, "sys/fs/cgroup/pod/box/memory.current", 9 * GIB)
    write(tmp_path, "sys/fs/cgroup/pod/box/memory.stat", f"anon 5\ninactive_file {4 * GIB}")
    assert MemoryLoad(span=(0.0, 1.0), root=tmp_path).load() == pytest.approx(0.5)


def test_the_group_that_is_nearest_to_its_limit_speaks(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod/box")
    for group, limit in (("pod/box", 8 * GIB), ("pod", 4 * GIB), ("", 16 * GIB)):
        write(tmp_path, f"sys/fs/cgroup/{group}/memory.max", limit)
        write(tmp_path, f"sys/fs/cgroup/{group}/memory.current", 2 * GIB)
    assert MemoryLoad(span=(0.0, 1.0), root=tmp_path).load() == pytest.approx(0.5)


def test_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:devices:/\n4:memory:/box\n0::/")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 4 * GIB)
    write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", 3 * GIB)
    write(tmp_path, "sys/fs/cgroup/memory/memory.stat", f"total_inactive_file {GIB}")
    assert MemoryLoad(span=(0.0, 1.0), root=tmp_path).load() == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "MemTotal: 0 kB\nMemAvailable: 0 kB", "MemTotal: many\n\n:"])
def test_memory_is_unknown_where_nothing_sound_is_said(tmp_path: Path, text: str) -> None:
    assert machine_share(text) is None
    assert MemoryLoad(root=tmp_path).load() is None
    write(tmp_path, "proc/meminfo", text)
    write(tmp_path, "proc/self/cgroup", "what is this")
    assert MemoryLoad(root=tmp_path).load() is None


def test_files_are_read_at_most_once_a_second(tmp_path: Path) -> None:
    clock = FakeClock()
    memory = MemoryLoad(span=(0.0, 1.0), root=tmp_path, clock=clock)
    assert memory.load() is None
    write(tmp_path, "proc/meminfo", MEMINFO)
    clock.advance(0.9)
    assert memory.load() is None
    clock.advance(0.2)
    assert memory.load() == pytest.approx(0.85)
    write(tmp_path, "proc/meminfo", "")
    clock.advance(-3600.0)
    assert memory.load() is None


# Pressure


def test_pressure_is_the_share_of_ten_seconds_in_which_some_task_waited() -> None:
    assert pressure_percent(PRESSURE.format("25.82")) == 25.82


@pytest.mark.parametrize("text", ["", "\n\n", "some", "some avg60=1.0", PRESSURE.format("much")])
def test_pressure_is_unknown_where_nothing_sound_is_said(text: str) -> None:
    assert pressure_percent(text) is None


def test_the_scarcest_resource_speaks_and_those_left_out_do_not(tmp_path: Path) -> None:
    spans = {"cpu": (50.0, 100.0), "io": (0.0, 100.0), "memory": (0.0, 10.0)}
    assert PressureLoad(spans=spans, root=tmp_path).load() is None
    for resource, percent in (("cpu", 75.0), ("io", 20.0)):
        write(tmp_path, f"proc/pressure/{resource}", PRESSURE.format(percent))
    assert PressureLoad(spans=spans, root=tmp_path).load() == 0.5
    del spans["cpu"]
    assert PressureLoad(spans=spans, root=tmp_path).load() == pytest.approx(0.2)


@pytest.mark.parametrize("span", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_span_rises(span: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="is no span"):
        MemoryLoad(span=span)
    with pytest.raises(ValueError, match="is no span"):
        PressureLoad(spans={"cpu": span})


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_a_ramp_rises_from_0_to_1(one: float, two: float) -> None:
    low, high = sorted((ramp(one, (1.0, 3.0)), ramp(two, (1.0, 3.0))))
    assert 0 <= low <= high <= 1
    assert (one <= two) == (ramp(one, (1.0, 3.0)) <= ramp(two, (1.0, 3.0))) or low == high


# Scaling


@pytest.mark.parametrize(
    ("load", "factor"), [(0.0, 1.0), (0.25, 0.875), (0.5, 0.75), (0.75, 0.625), (1.0, 0.5)]
)
def test_the_curve_is_linear_between_its_points(load: float, factor: float) -> None:
    assert on_curve(DEFAULT_CURVE, load) == pytest.approx(factor)
    assert Scaling([Known(load)], clock=FakeClock())() == pytest.approx(factor, abs=0.05)


def test_a_curve_is_flat_outside_its_points() -> None:
    curve = ((0.3, 0.9), (0.6, 0.2))
    assert [on_curve(curve, load) for load in (0.0, 0.3, 0.6, 1.0)] == [0.9, 0.9, 0.2, 0.2]
    assert on_curve(((0.5, 0.7),), 0.1) == 0.7


@pytest.mark.parametrize(
    "curve",
    [
        (),
        ((0.0, 1.0), (0.0, 0.5)),
        ((0.5, 1.0), (0.2, 0.5)),
        ((0.0, 0.5), (1.0, 1.0)),
        ((0.0, 1.0), (1.0, 0.0)),
        ((0.0, 1.1),),
        ((-0.1, 1.0),),
        ((0.0, math.nan),),
    ],
)
def test_what_is_no_curve_is_refused(curve: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="is no curve"):
        Scaling([], curve=curve)


@st.composite
def curves(draw: st.DrawFn) -> tuple[tuple[float, float], ...]:
    loads = draw(st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True))
    size = len(loads)
    factors = draw(st.lists(st.floats(0.01, 1), min_size=size, max_size=size))
    return tuple(zip(sorted(loads), sorted(factors, reverse=True), strict=True))


@given(curves(), st.floats(0, 1), st.floats(0, 1))
def test_more_load_never_means_a_higher_factor(
    curve: tuple[tuple[float, float], ...], one: float, two: float
) -> None:
    low, high = sorted((one, two))
    factors = [Scaling([Known(load)], curve=curve, clock=FakeClock())() for load in (low, high)]
    assert on_curve(curve, low) >= on_curve(curve, high) - 1e-12
    assert factors[0] >= factors[1] - 0.05
    assert all(0 < factor <= 1 for factor in factors)


def test_the_highest_load_counts_and_the_unknown_makes_no_statement() -> None:
    signals = [Known(None, "a"), Known(0.2, "b"), Known(1.0, "c"), Known(math.nan, "d")]
    stats = Scaling(signals, clock=FakeClock()).describe()
    loads = {"a": None, "b": 0.2, "c": 1.0, "d": None}
    assert stats == {"scale": 0.5, "load": 1.0, "loads": loads}


def test_each_signal_has_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="same name"):
        Scaling([QueueLoad(1.0), QueueLoad(2.0)])
    Scaling([QueueLoad(1.0), QueueLoad(2.0, name="exports")])


def test_limits_are_as_written_while_no_signal_knows() -> None:
    clock = FakeClock()
    signal = Known(1.0)
    scaling = Scaling([signal], clock=clock)
    assert scaling() == 0.5
    signal.value = None
    clock.advance(1.0)
    assert scaling() == 1.0
    assert Scaling([])() == 1.0


def test_a_passing_load_moves_the_factor_little_and_one_that_stays_moves_it_all() -> None:
    clock = FakeClock()
    signal = Known(0.0)
    scaling = Scaling([signal], clock=clock)
    scaling()
    signal.value = 1.0
    clock.advance(0.3)
    assert scaling() > 0.9
    for _ in range(100):
        clock.advance(0.3)
        scaling()
    assert scaling() == pytest.approx(0.5, abs=0.05)


def test_a_factor_does_not_flap_with_its_load() -> None:
    clock = FakeClock()
    signal = Known(0.5)
    scaling = Scaling([signal], clock=clock)
    factors = []
    for turn in range(200):
        signal.value = 0.5 + 0.1 * (-1) ** turn
        clock.advance(0.5)
        factors.append(scaling())
    assert len(set(factors[10:])) == 1


def test_limits_are_whole_again_when_the_load_is_gone() -> None:
    clock = FakeClock()
    signal = Known(1.0)
    scaling = Scaling([signal], clock=clock)
    scaling()
    signal.value = 0.0
    for _ in range(40):
        clock.advance(0.5)
        scaling()
    assert scaling() == 1.0


def test_signals_are_asked_a_few_times_a_second_however_many_requests_come() -> None:
    clock = FakeClock()
    asked = 0

    class Counted(Known):
        def load(self) -> float | None:
            nonlocal asked
            asked += 1
            return super().load()

    scaling = Scaling([Counted(0.0)], clock=clock)
    for _ in range(1000):
        clock.advance(0.001)
        scaling()
    assert asked <= 5


def test_a_load_from_before_a_silence_is_forgotten() -> None:
    clock = FakeClock()
    signal = Known(1.0)
    scaling = Scaling([signal], clock=clock)
    scaling()
    for load in (None, 0.0):
        signal.value = load
        clock.advance(0.3)
        scaling()
    assert scaling() == 1.0


@pytest.mark.anyio
async def test_a_limiter_takes_a_scaling_as_its_scale() -> None:
    clock = FakeClock()
    scaling = Scaling([Known(0.5)], clock=clock)
    limiter = RateLimiter("20/minute", storage=MemoryStorage(clock=clock), scale=scaling)
    assert (await limiter.hit("camera")).limit == 15
    assert limiter.describe()["scale"] == 0.75


# Watching

ASKING_S = 2e-4
"""What a question takes. ``watch`` really sleeps, for four times as long."""


async def watched(
    source: Iterator[QueueNumbers | Exception], clock: FakeClock
) -> list[QueueNumbers]:
    seen: list[QueueNumbers] = []
    with anyio.fail_after(5), anyio.CancelScope() as scope:

        async def ask() -> QueueNumbers:
            clock.advance(ASKING_S)
            answer = next(source, None)
            if answer is None:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            if isinstance(answer, Exception):
                raise answer
            assert answer is not None
            return answer

        await watch(ask, seen.append, every_s=0.0, clock=clock)
    return seen


@pytest.mark.anyio
async def test_observers_hear_numbers_and_how_old_they_are() -> None:
    numbers = QueueNumbers(depth=1, done=2, busy_s=3.0)
    older = QueueNumbers(depth=1, done=2, busy_s=3.0, age_s=1.0)
    seen = await watched(iter([numbers, older]), FakeClock())
    assert [one.age_s for one in seen] == pytest.approx([ASKING_S, 1.0], abs=1e-6)


@pytest.mark.anyio
async def test_a_queue_that_cannot_count_is_asked_again_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = QueueNumbers(depth=1, done=2, busy_s=3.0)
    gone = OSError("gone")
    with caplog.at_level(logging.WARNING):
        seen = await watched(iter([gone, gone, numbers, gone]), FakeClock())
    assert len(seen) == 1
    assert len(caplog.records) == 2
