"""How busy this place is, and the factor on its limits that follows.

A signal says 0 (idle) to 1 (full), or None when it does not know: no statement, never a zero.
"""

import logging
import math
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final, Protocol, TypedDict

import anyio

log = logging.getLogger(__name__)

Clock = Callable[[], float]

DEFAULT_CURVE: Final = ((0.0, 1.0), (0.5, 0.75), (1.0, 0.5))
"""Load to factor, linear in between."""

LEARNED_JOBS: Final = 4
"""Jobs that must have ended before a service rate is believed."""

MEMORY_JOBS: Final = 32
"""Jobs that a service rate remembers: fewer, and it is noise; more, and it is late when workers
slow down. ``python tests/benchmarks/bench_admission.py --memory`` compares."""

SHORTEST_MEMORY_S: Final = 2.0
LONGEST_MEMORY_S: Final = 600.0
"""Bounds on that memory in busy seconds."""

HIGHEST_PER_S: Final = 1e9
"""No rate is over this, so that none is infinite."""

STALE_S: Final = 10.0
"""Numbers of a queue that are older say nothing about its load."""

READ_EVERY_S: Final = 1.0
"""Files of the kernel are read no oftener."""

MAX_FILE_BYTES: Final = 2**16

UNLIMITED: Final = 2**60
"""Version 1 of cgroups writes a limit over this for none."""

SCALE_EVERY_S: Final = 0.25
"""A scale asks its signals no oftener; it may itself be asked at every request."""

SCALE_MEMORY_S: Final = 2.0
"""Load is averaged over about this long. With ``SCALE_STEP`` it keeps a limit, which clients
see in the headers, from flapping: ``python tests/benchmarks/bench_admission.py --scale``."""

SCALE_STEP: Final = 0.05
"""A factor stays as it is until it would move by this much, or all but reaches an end."""

MEMORY_SPAN: Final = (0.75, 0.95)
"""Shares of memory in use that count as idle and as full: caches fill most of it anyway."""

PRESSURE_SPANS: Final = {"cpu": (50.0, 100.0), "memory": (5.0, 30.0), "io": (30.0, 90.0)}
"""Percent of ten seconds in which some task waited, that count as idle and as full. Workers
that use all cores make half of the time wait for a CPU when all is well."""


class Signal(Protocol):
    """One sign of load."""

    @property
    def name(self) -> str:
        """Names it in stats."""
        ...

    def load(self) -> float | None:
        """From 0 (idle) to 1 (full); None when it does not know. Cheap, and never raises."""
        ...


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """A queue at one moment, and what it did since the moment before."""

    depth: float
    """Jobs that wait and could run."""
    done: float
    """Jobs that ended since the last numbers."""
    busy_s: float
    """Seconds since the last numbers in which the workers had work.

    A second in which half of them had counts half, one without workers not at all: an idle
    queue says nothing about how fast it could be.
    """
    oldest_age_s: float | None = None
    """How long the oldest of the waiting has waited; None when none waits or nobody knows."""
    age_s: float = 0.0
    """How long ago the depth was counted."""

    @property
    def are_sound(self) -> bool:
        """Whether they are all finite and not negative; others are best dropped."""
        numbers = (self.depth, self.done, self.busy_s, self.age_s, self.oldest_age_s or 0.0)
        return all(math.isfinite(number) and number >= 0 for number in numbers)


class QueueMeter:
    """Makes QueueNumbers of what a queue counts: call ``read`` about twice a second."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, float, float, float] | None = None

    def read(
        self,
        *,
        waiting: float,
        running: float,
        ended: float,
        workers: float | None = None,
        oldest_age_s: float | None = None,
    ) -> QueueNumbers:
        """The numbers since the call before; the first call only knows the depth.

        Args:
            waiting: Jobs that could run now.
            running: Jobs that run now.
            ended: All jobs that ever succeeded or failed. When it falls, because jobs were
                forgotten, nothing is said about this interval.
            workers: Jobs that can run at once; 0 when the queue is paused, None when unknown.
            oldest_age_s: As in QueueNumbers.
        """
        now = self._clock()
        last, self._last = self._last, (now, waiting, running, ended)
        done = busy_s = 0.0
        if last is not None and ended >= last[3] and now > last[0]:
            done = ended - last[3]
            busy_s = (now - last[0]) * _busy_share(last[1:3], (waiting, running), workers)
        return QueueNumbers(waiting, done, busy_s, oldest_age_s)


def _busy_share(
    before: tuple[float, float], after: tuple[float, float], workers: float | None
) -> float:
    """Of an interval, by (waiting, running) at both its ends."""
    if workers == 0:
        return 0.0
    if before[0] > 0 and after[0] > 0:
        return 1.0
    return min(1.0, (before[1] + after[1]) / 2 / workers) if workers else 0.0


class ServiceRate:
    """Jobs that end in a busy second, learnt from what is done.

    The law is ``rate += a * (done / busy_s - rate)``, where ``a`` is the share that these busy
    seconds have in all that is remembered. Idle time changes nothing.
    """

    def __init__(self) -> None:
        self._done = self._busy_s = 0.0
        self._seen = 0.0

    @property
    def per_s(self) -> float | None:
        """The rate; None until enough was seen. 0.0 for workers that are stuck."""
        is_known = self._seen >= LEARNED_JOBS and self._busy_s > 0
        return min(self._done / self._busy_s, HIGHEST_PER_S) if is_known else None

    def learn(self, done: float, busy_s: float) -> None:
        """Take in what was done in some busy seconds; without any, nothing is learnt."""
        if busy_s <= 0:
            return
        kept = math.exp(-self._forgotten(done, busy_s))
        self._done = self._done * kept + done
        self._busy_s = self._busy_s * kept + busy_s
        self._seen += done

    def _forgotten(self, done: float, busy_s: float) -> float:
        """Parts of the memory that are written over: by jobs that ended or should have."""
        parts = max(done, busy_s * (self.per_s or 0.0)) / MEMORY_JOBS
        return min(max(parts, busy_s / LONGEST_MEMORY_S), busy_s / SHORTEST_MEMORY_S)


class QueueLoad:
    """Load by how long a new job would wait, and how long the oldest has, beside a target."""

    def __init__(
        self, target_wait_s: float, *, name: str = "queue", clock: Clock = time.monotonic
    ) -> None:
        self.name = name
        self._target_wait_s = checked_target(target_wait_s)
        self._clock = clock
        self._rate = ServiceRate()
        self._last: QueueNumbers | None = None
        self._seen_at = 0.0

    def observe(self, numbers: QueueNumbers) -> None:
        """Take the newest numbers; unsound ones are dropped."""
        if not numbers.are_sound:
            return
        self._rate.learn(numbers.done, numbers.busy_s)
        self._last, self._seen_at = numbers, self._clock() - numbers.age_s

    def load(self) -> float | None:
        """The longer of the two waits in targets, up to 1; None without fresh numbers."""
        last = self._last
        if last is None or self._clock() - self._seen_at > STALE_S:
            return None
        waits_s = [last.oldest_age_s, wait_s(last.depth, self._rate.per_s)]
        known = [wait for wait in waits_s if wait is not None]
        return min(1.0, max(known) / self._target_wait_s) if known else None


def wait_s(jobs_ahead: float, per_s: float | None) -> float | None:
    """Seconds until those ahead are done; None for an unknown rate, unless there are none."""
    if not jobs_ahead:
        return 0.0
    if per_s is None:
        return None
    return jobs_ahead / per_s if per_s else math.inf


def checked_target(target_wait_s: float) -> float:
    """The target, if it is one. Raises ValueError unless it is finite and over 0."""
    if not 0 < target_wait_s < math.inf:
        raise ValueError(f"the target wait is {target_wait_s}; give seconds over 0")
    return target_wait_s


class _Average:
    """Of values that stood for some seconds each, the older the less."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self.value: float | None = None

    def take(self, value: float, seconds: float) -> None:
        kept = math.exp(-seconds / self._memory_s)
        self.value = value if self.value is None else self.value * kept + value * (1 - kept)

    def forget(self) -> None:
        self.value = None


class EventLoopLag:
    """Load by how late the event loop runs what is due: run ``run`` in a task of it.

    Lateness is averaged over about two seconds, so that one pause is not yet a load.

    Args:
        full_lag_s: Lateness that counts as full.
        every_s: Seconds between ticks.
        clock: A clock that no one sets.
    """

    name = "event_loop"
    _MEMORY_S = 2.0

    def __init__(
        self, *, full_lag_s: float = 0.25, every_s: float = 0.1, clock: Clock = time.monotonic
    ) -> None:
        self._full_lag_s, self._every_s = full_lag_s, every_s
        self._clock = clock
        self._asleep_since: float | None = None
        self._lag_s = _Average(self._MEMORY_S)

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            while True:
                self.fell_asleep()
                await anyio.sleep(self._every_s)
                self.woke()
        finally:
            self._asleep_since = None
            self._lag_s.forget()

    def fell_asleep(self) -> None:
        """A tick begins; it is due ``every_s`` later."""
        self._asleep_since = self._clock()

    def woke(self) -> None:
        """The tick ends."""
        if self._asleep_since is not None:
            slept_s = max(0.0, self._clock() - self._asleep_since)
            late_s = max(0.0, slept_s - self._every_s)
            self._lag_s.take(late_s, slept_s)

    def load(self) -> float | None:
        """The lateness in full ones, up to 1; None while nothing ticks."""
        lag_s = self._lag_s.value
        return None if lag_s is None else min(1.0, lag_s / self._full_lag_s)


class _Cached:
    """A load that is read from files: seldom, and unknown when they cannot be read."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root, self._clock = root, clock
        self._read_at = -math.inf
        self._load: float | None = None

    def load(self) -> float | None:
        """As it was read at most a second ago; None where the kernel does not tell."""
        now = self._clock()
        if not 0 <= now - self._read_at < READ_EVERY_S:
            self._read_at = now
            self._load = self._read()
        return self._load

    def _read(self) -> float | None:
        raise NotImplementedError


class MemoryLoad(_Cached):
    """Load by memory in use beside the limit of the control group, or else of the machine.

    File cache that the kernel drops first does not count. Of nested groups, the one nearest
    to its limit speaks.

    Args:
        span: Shares in use that count as idle and as full.
        root: Where ``/proc`` and ``/sys`` are.
        clock: A clock that no one sets.
    """

    name = "memory"

    def __init__(
        self,
        *,
        span: tuple[float, float] = MEMORY_SPAN,
        root: Path = Path("/"),
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(root, clock)
        self._span = _checked_span(span)

    def _read(self) -> float | None:
        share = self._share()
        return None if share is None else ramp(share, self._span)

    def _share(self) -> float | None:
        shares = [share for folder in self._groups() if (share := _group_share(folder)) is not None]
        if shares:
            return max(shares)
        return machine_share(_text(self._root / "proc/meminfo") or "")

    def _groups(self) -> Iterator[Path]:
        """Folders of this process's groups, innermost first; they may not exist."""
        for line in (_text(self._root / "proc/self/cgroup") or "").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if controllers in ("", "memory"):
                inner = PurePosixPath(path.lstrip("/"))
                for part in (inner, *inner.parents) if path != "/" else (inner,):
                    yield self._root / "sys/fs/cgroup" / controllers / part


def machine_share(meminfo: str) -> float | None:
    """The share of memory in use by the text of ``/proc/meminfo``; None if it does not say."""
    sizes = _pairs(meminfo.replace(":", " "))
    total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
    return 1 - available / total if total and available is not None else None


def _group_share(folder: Path) -> float | None:
    for limit_file, usage_file, cache in _GROUP_FILES:
        limit = _number(_text(folder / limit_file))
        usage = _number(_text(folder / usage_file))
        if limit and limit < UNLIMITED and usage is not None:
            cached = _pairs(_text(folder / "memory.stat") or "").get(cache, 0.0)
            return max(0.0, usage - cached) / limit
    return None


_GROUP_FILES: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage and the line of droppable cache, in versions 2 and 1 of cgroups."""


class PressureLoad(_Cached):
    """Load by the kernel's pressure stall information: time in which tasks had to wait.

    Args:
        spans: For ``cpu``, ``memory`` and ``io``: percent that count as idle and as full.
            One that is left out is not looked at.
        root: Where ``/proc`` is.
        clock: A clock that no one sets.
    """

    name = "pressure"

    def __init__(
        self,
        *,
        spans: Mapping[str, tuple[float, float]] = PRESSURE_SPANS,
        root: Path = Path("/"),
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(root, clock)
        self._spans = {resource: _checked_span(span) for resource, span in spans.items()}

    def _read(self) -> float | None:
        loads = []
        for resource, span in self._spans.items():
            percent = pressure_percent(_text(self._root / "proc/pressure" / resource) or "")
            if percent is not None:
                loads.append(ramp(percent, span))
        return max(loads, default=None)


def pressure_percent(text: str) -> float | None:
    """``some avg10`` of a file in ``/proc/pressure``, 0 to 100; None if it does not say."""
    for line in text.splitlines():
        if line.startswith("some "):
            fields = dict(field.partition("=")[::2] for field in line.split())
            return _number(fields.get("avg10"))
    return None


def ramp(value: float, span: tuple[float, float]) -> float:
    """0 at and below the first of the span, 1 at and above the second, linear in between."""
    low, high = span
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _checked_span(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{span} is no span; give the value for idle and a higher one for full")
    return span


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("ascii", "replace")
    except OSError:
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _pairs(text: str) -> dict[str, float]:
    """Names and numbers, one pair to a line; what is none is left out."""
    fields = (line.split() for line in text.splitlines())
    pairs = ((field[0], _number(field[1])) for field in fields if len(field) > 1)
    return {name: number for name, number in pairs if number is not None}


class ScalingStats(TypedDict):
    """A scaling at one moment, ready for JSON."""

    scale: float
    load: float | None
    """The highest of the loads now; None when no signal knows."""
    loads: dict[str, float | None]
    """By signal."""


class Scaling:
    """A factor on limits that falls as load rises: ``RateLimiter(..., scale=Scaling(signals))``.

    The highest load counts, averaged over some seconds. While no signal knows anything the
    limits are as they are written.

    Args:
        signals: What to ask; two of one name are a ValueError.
        curve: Pairs of load and factor, linear in between and flat outside: loads from 0 to 1
            that rise, factors over 0 and up to 1 that do not. Others are a ValueError.
        clock: A clock that no one sets.
    """

    def __init__(
        self,
        signals: Sequence[Signal],
        *,
        curve: Sequence[tuple[float, float]] = DEFAULT_CURVE,
        clock: Clock = time.monotonic,
    ) -> None:
        self._signals = {signal.name: signal for signal in signals}
        if len(self._signals) < len(signals):
            raise ValueError("two signals have the same name; stats could not tell them apart")
        self._curve = _checked_curve(curve)
        self._clock = clock
        self._asked_at: float | None = None
        self._average = _Average(SCALE_MEMORY_S)
        self._factor = 1.0

    def __call__(self) -> float:
        """The factor in force, over 0 and up to 1."""
        now = self._clock()
        elapsed_s = math.inf if self._asked_at is None else now - self._asked_at
        if not 0 <= elapsed_s < SCALE_EVERY_S:
            self._asked_at = now
            self._take(_highest(self._loads()), abs(elapsed_s))
        return self._factor

    def describe(self) -> ScalingStats:
        """Where it stands, for stats and metrics."""
        scale, loads = self(), self._loads()
        return ScalingStats(scale=scale, load=_highest(loads), loads=loads)

    def _loads(self) -> dict[str, float | None]:
        return {name: _sound(signal.load()) for name, signal in self._signals.items()}

    def _take(self, load: float | None, elapsed_s: float) -> None:
        if load is None:
            self._average.forget()
            self._factor = 1.0
            return
        self._average.take(load, elapsed_s)
        factor = on_curve(self._curve, self._average.value or 0.0)
        for end in (self._curve[0][1], self._curve[-1][1]):
            if abs(factor - end) < SCALE_STEP / 10:
                self._factor = end
                return
        if abs(factor - self._factor) >= SCALE_STEP:
            self._factor = factor


def on_curve(curve: Sequence[tuple[float, float]], load: float) -> float:
    """The factor for a load, linear between the points of the curve and flat outside."""
    after = bisect_right(curve, load, key=lambda point: point[0])
    if after in (0, len(curve)):
        return curve[min(after, len(curve) - 1)][1]
    (low, high), (high_load, low_factor) = curve[after - 1], curve[after]
    part = (load - low) / (high_load - low)
    return high * (1 - part) + low_factor * part


def _checked_curve(curve: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    points = tuple(curve)
    pairs = list(pairwise(points))
    is_sound = (
        bool(points)
        and all(0 <= load <= 1 and 0 < factor <= 1 for load, factor in points)
        and all(one[0] < two[0] and one[1] >= two[1] for one, two in pairs)
    )
    if not is_sound:
        raise ValueError(
            f"{points} is no curve; give pairs like {DEFAULT_CURVE}: rising loads from 0 to 1, "
            "factors over 0 and up to 1 that never rise"
        )
    return points


def _sound(load: float | None) -> float | None:
    return None if load is None or math.isnan(load) else min(1.0, max(0.0, load))


def _highest(loads: Mapping[str, float | None]) -> float | None:
    return max((load for load in loads.values() if load is not None), default=None)


async def watch(
    source: Callable[[], Awaitable[QueueNumbers]],
    *observers: Callable[[QueueNumbers], None],
    every_s: float = 0.5,
    clock: Clock = time.monotonic,
) -> None:
    """Tell observers a queue's numbers again and again, until cancelled.

    When the source fails they hear nothing; that is logged once, and tried again.

    Args:
        source: Asks the queue, for example by way of a QueueMeter.
        observers: ``QueueLoad.observe``, ``Admission.observe``.
        every_s: Seconds between one answer and the next question; more when the source is
            slow, so that asking takes no more than a fifth of the time.
        clock: A clock that no one sets, to tell how old an answer is.
    """
    is_failing = False
    while True:
        begun = clock()
        try:
            numbers = await source()
        except Exception as error:  # noqa: BLE001  # limits live on without it
            if not is_failing:
                log.warning("the queue's numbers cannot be had, and are asked again: %r", error)
            is_failing = True
        else:
            is_failing = False
            told = replace(numbers, age_s=max(numbers.age_s, clock() - begun, 0.0))
            for observe in observers:
                observe(told)
        await anyio.sleep(max(every_s, 4 * (clock() - begun)))
