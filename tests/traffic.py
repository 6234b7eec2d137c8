"""A simulated queue with workers, clients that come and come back, and the policies between.

Time is simulated and chance has a seed: the same scenario gives the same figures anywhere.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

from capturekit.ratelimit import MemoryStorage, RateLimiter
from capturekit.ratelimit.admission import Admission
from capturekit.ratelimit.load import Clock, QueueLoad, QueueMeter, QueueNumbers, Scaling

PATIENCE = 3
"""Deadlines for which a refused client comes back."""
TARGET_WAIT_S = 2.0
TICK_S = 0.5
"""Between looks at the queue."""
MAX_PATIENCE = 4
"""Times a client that gave up waiting sends its work again."""

Curve = Callable[[float], float]


@dataclass(frozen=True)
class Scenario:
    """What comes, what there is to do it, and how long it is looked at."""

    name: str
    demand: Curve
    """New work at a time, in capacities."""
    overload_at_s: float
    """From here on there is more work than capacity: goodput counts from here."""
    ends_s: float
    capacity: Curve = lambda _: 1.0
    """What of the workers' speed is left at a time."""
    workers: int = 8
    work_s: float = 0.08
    """Mean time of a job; times are exponential, so that some are long."""
    target_wait_s: float = 2.0
    deadline_s: float = 5.0
    """A job that ends later than this after it was admitted is worth nothing: nobody waits."""
    retries: str = "wait"
    """``wait``: as told, plus jitter. ``storm``: at once and for ever, and what was admitted
    but not done in time is sent again. ``none``: refused is gone."""
    processes: int = 1
    lag_s: float = 0.5
    is_lag_known: bool = False
    shares: tuple[float, ...] = (1.0,) * 40
    """Demand of each client, relative."""
    routes: tuple[float, ...] = ()
    """What of the work goes to each process; equal shares when empty."""

    @property
    def per_s(self) -> float:
        """Jobs a second that the workers can do at full speed."""
        return self.workers / self.work_s


def step(factor: float) -> Curve:
    """Half of what is possible, then ``factor`` times as much, from 20 s on."""
    return lambda now: 0.5 * (factor if now >= 20 else 1)


def ramp(factor: float) -> Curve:
    """From half of what is possible to ``factor`` times as much, between 10 and 60 s."""
    return lambda now: 0.5 * (1 + (factor - 1) * min(1, max(0, (now - 10) / 50)))


@dataclass
class Work:
    """A client's wish, through all its tries."""

    key: str
    begun: float
    size_s: float
    process: int
    tries: int = 0
    is_done: bool = False


@dataclass
class Snapshot:
    """What can be seen of the queue at a tick."""

    numbers: QueueNumbers
    busy: float
    """Share of the workers that run something."""


class Policy(Protocol):
    def admit(self, key: str, process: int) -> float | None: ...

    def see(self, snapshot: Snapshot) -> None: ...


@dataclass
class Outcome:
    """What became of a scenario."""

    goodput: float
    """Share of the capacity, while overloaded, that went into work done in time."""
    p99_wait_s: float
    """Of what began while overloaded, from admission to begin."""
    done_by_key: Counter[str] = field(default_factory=Counter)
    asked_by_key: Counter[str] = field(default_factory=Counter)
    done_by_process: Counter[int] = field(default_factory=Counter)


def answer(question: Coroutine[object, object, float | None]) -> float | None:
    """What a coroutine that never has to wait returns."""
    try:
        question.send(None)
    except StopIteration as stop:
        result: float | None = stop.value
        return result
    raise AssertionError("it waits")


class Simulation:
    """One scenario under one policy."""

    def __init__(
        self, scenario: Scenario, policy: "Callable[[Simulation], Policy]", seed: int = 1
    ) -> None:
        self.scenario = scenario
        self.now = 0.0
        self._random = Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._waiting: deque[tuple[Work, float]] = deque()
        """With the time each was admitted: a wish may be here twice."""
        self._running = self._ended = 0
        self._meter = QueueMeter(self.clock)
        self._useful_s = 0.0
        self._waits_s: list[float] = []
        self._outcome = Outcome(0.0, 0.0)
        self.policy = policy(self)

    def clock(self) -> float:
        return self.now

    def run(self) -> Outcome:
        scenario = self.scenario
        self._after(0.0, self._tick)
        self._next_arrival()
        while self._events[0][0] < scenario.ends_s:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        steps = [scenario.overload_at_s + 0.05 * n for n in range(self._overload_steps())]
        possible_s = sum(0.05 * scenario.workers * scenario.capacity(moment) for moment in steps)
        self._outcome.goodput = self._useful_s / possible_s
        waits_s = sorted(self._waits_s) or [0.0]
        self._outcome.p99_wait_s = waits_s[int(0.99 * (len(waits_s) - 1))]
        return self._outcome

    def _overload_steps(self) -> int:
        return round((self.scenario.ends_s - self.scenario.overload_at_s) / 0.05)

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, happen))

    def _is_overloaded(self) -> bool:
        return self.now >= self.scenario.overload_at_s

    def _next_arrival(self) -> None:
        rate = self.scenario.per_s * self.scenario.demand(self.now)
        self._after(self._random.expovariate(rate), self._arrive)

    def _arrive(self) -> None:
        self._next_arrival()
        scenario, random = self.scenario, self._random
        (client,) = random.choices(range(len(scenario.shares)), scenario.shares)
        routes = scenario.routes or (1.0,) * scenario.processes
        (process,) = random.choices(range(scenario.processes), routes)
        size_s = random.expovariate(1 / scenario.work_s)
        work = Work(f"client-{client}", self.now, size_s, process)
        if self._is_overloaded():
            self._outcome.asked_by_key[work.key] += 1
        self._ask(work)

    def _ask(self, work: Work) -> None:
        if work.is_done:
            return
        retry_after_s = self.policy.admit(work.key, work.process)
        if retry_after_s is None:
            self._waiting.append((work, self.now))
            self._begin()
            if self.scenario.retries == "storm" and work.tries < MAX_PATIENCE:
                work.tries += 1
                self._after(self.scenario.deadline_s, partial(self._send_again, work))
            return
        self._come_back(work, retry_after_s)

    def _send_again(self, work: Work) -> None:
        # The client begins anew; what it sent before is still in the queue.
        if not work.is_done:
            work.begun = self.now
            self._ask(work)

    def _come_back(self, work: Work, retry_after_s: float) -> None:
        kind = self.scenario.retries
        told_s = math.ceil(retry_after_s)
        pause_s = 0.2 if kind == "storm" else told_s + self._random.uniform(0, 1)
        is_in_time = self.now + pause_s < work.begun + PATIENCE * self.scenario.deadline_s
        if kind != "none" and is_in_time:
            self._after(pause_s, partial(self._ask, work))

    def _begin(self) -> None:
        while self._waiting and self._running < self.scenario.workers:
            work, admitted_at = self._waiting.popleft()
            self._running += 1
            if self._is_overloaded():
                self._waits_s.append(self.now - admitted_at)
            seconds = work.size_s / self.scenario.capacity(self.now)
            self._after(seconds, partial(self._end, work, admitted_at))

    def _end(self, work: Work, admitted_at: float) -> None:
        self._running -= 1
        self._ended += 1
        is_first, work.is_done = not work.is_done, True
        if (
            is_first
            and self._is_overloaded()
            and self.now <= admitted_at + self.scenario.deadline_s
        ):
            self._useful_s += work.size_s
            self._outcome.done_by_key[work.key] += 1
            self._outcome.done_by_process[work.process] += 1
        self._begin()

    def _tick(self) -> None:
        self._after(TICK_S, self._tick)
        oldest_s = self.now - self._waiting[0][1] if self._waiting else None
        numbers = self._meter.read(
            waiting=len(self._waiting),
            running=self._running,
            ended=self._ended,
            workers=self.scenario.workers,
            oldest_age_s=oldest_s,
        )
        age_s = self.scenario.lag_s if self.scenario.is_lag_known else 0.0
        told = replace(numbers, age_s=age_s)
        snapshot = Snapshot(told, self._running / self.scenario.workers)
        self._after(self.scenario.lag_s, partial(self.policy.see, snapshot))


class Open:
    """Takes everything."""

    def __init__(self, _simulation: Simulation) -> None:
        pass

    def admit(self, _key: str, _process: int) -> float | None:
        return None

    def see(self, _snapshot: Snapshot) -> None:
        pass


class Static(Open):
    """A limit over all clients, at exactly what the place can do on a good day."""

    capacities = 1.0

    def __init__(self, simulation: Simulation) -> None:
        self.factor = 1.0
        self.target_wait_s = simulation.scenario.target_wait_s
        self._limiter = RateLimiter(
            f"{round(self.capacities * simulation.scenario.per_s)}/second",
            storage=MemoryStorage(clock=simulation.clock),
            scale=lambda: self.factor,
        )

    def admit(self, _key: str, _process: int) -> float | None:
        return answer(self._decide())

    async def _decide(self) -> float | None:
        decision = await self._limiter.hit("all")
        return None if decision.allowed else decision.retry_after_s


class HalvedOnCpu(Static):
    """A limit that is halved while over 80 % of the workers are busy, else given back."""

    capacities = 2.0

    def see(self, snapshot: Snapshot) -> None:
        self.factor = max(0.05, self.factor / 2) if snapshot.busy > 0.8 else self.factor + 0.1
        self.factor = min(1.0, self.factor)


class Aimd(Static):
    """A limit that loses three tenths while the oldest waits too long, else grows a little."""

    capacities = 2.0

    def see(self, snapshot: Snapshot) -> None:
        is_late = (snapshot.numbers.oldest_age_s or 0.0) > self.target_wait_s
        self.factor = max(0.05, self.factor * 0.7) if is_late else min(1.0, self.factor + 0.02)


class Ours(Open):
    """Admission in each process, under a scaled limit for each client."""

    rules = "100/second"

    def __init__(self, simulation: Simulation) -> None:
        scenario, clock = simulation.scenario, simulation.clock
        self.admissions = [self.admission(scenario, clock) for _ in range(scenario.processes)]
        self.load = QueueLoad(scenario.target_wait_s, clock=clock)
        self.scaling = Scaling([self.load], clock=clock)
        self._limiter = RateLimiter(
            self.rules, storage=MemoryStorage(clock=clock), scale=self.scaling
        )
        self.scales: list[float] = []

    def admission(self, scenario: Scenario, clock: Clock) -> Admission:
        return Admission(scenario.target_wait_s, processes=scenario.processes, clock=clock)

    def admit(self, key: str, process: int) -> float | None:
        return answer(self._decide(key, process))

    async def _decide(self, key: str, process: int) -> float | None:
        decision = await self._limiter.hit(key)
        if not decision.allowed:
            return decision.retry_after_s
        return await self.admissions[process].admit(key)

    def see(self, snapshot: Snapshot) -> None:
        for admission in self.admissions:
            admission.observe(snapshot.numbers)
        self.load.observe(snapshot.numbers)
        self.scales.append(self.scaling())


POLICIES: Sequence[tuple[str, Callable[[Simulation], Policy]]] = (
    ("none", Open),
    ("static", Static),
    ("halved", HalvedOnCpu),
    ("AIMD", Aimd),
    ("ours", Ours),
)

SCENARIOS: Sequence[Scenario] = (
    Scenario("5x step", step(5), 20, 60),
    Scenario("5x step, refused are gone", step(5), 20, 60, retries="none"),
    Scenario("5x step, clients storm", step(5), 20, 60, retries="storm"),
    Scenario("5x ramp", ramp(5), 22.5, 60),
    Scenario("capacity halves", lambda _: 0.8, 20, 60, capacity=lambda t: 0.5 if t >= 20 else 1),
    Scenario("5x step, 4 processes", step(5), 20, 60, processes=4),
    Scenario(
        "the same, 85 % to one", step(5), 20, 60, processes=4, routes=(0.85, 0.05, 0.05, 0.05)
    ),
    Scenario("5x step, lag 1 s", step(5), 20, 60, lag_s=1.0),
)

SLOW: Sequence[Scenario] = tuple(
    Scenario(
        f"{workers} workers, jobs of {work_s:g} s",
        lambda _: 0.8,
        start_s,
        3 * start_s,
        capacity=lambda now, start_s=start_s: 0.5 if now >= start_s else 1.0,  # type: ignore[misc]
        workers=workers,
        work_s=work_s,
        target_wait_s=target_s,
        deadline_s=2.5 * target_s,
    )
    for workers, work_s, target_s, start_s in (
        (8, 0.08, 2.0, 20.0),
        (1, 0.3, 2.0, 40.0),
        (2, 1.5, 10.0, 100.0),
        (2, 20.0, 60.0, 1200.0),
    )
)
"""The capacity halves, where few jobs tell of it."""

QUIET = Scenario("5x after a quiet time", lambda t: 2.5 if t >= 60 else 0.02, 60, 75)

GREEDY = Scenario("one client 20x as greedy", step(2.4), 20, 60, shares=(20.0, *(1.0,) * 19))
