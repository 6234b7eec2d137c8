"""Take no more work than can be begun in time.

A queue that may grow without bound spends all its time on work nobody waits for any longer.
So a job is admitted only if, by what is known now, it will wait less than a target.
"""

import math
import time
from collections import deque
from typing import Final, TypedDict

from capturekit.ratelimit.load import Clock, QueueNumbers, ServiceRate, checked_target, wait_s

DEFAULT_COLD_DEPTH: Final = 64
"""Jobs that may wait while nobody knows yet how fast they are done."""

DEFAULT_MAX_KEYS: Final = 10_000

SHORTEST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 300.0
"""Bounds of what a refused caller is told."""

OLDEST_NUMBERS_S: Final = 10.0
"""Admissions are remembered this long, for numbers that arrive late."""

LOG_STEP_S: Final = 0.02
"""Admissions this close together are remembered as one."""

LEARNED_SHARE: Final = 8.0
"""Own admissions after which the share of this process is believed."""

SHARE_KEPT: Final = 0.8
"""Of what a process knows of its share, at each new number."""


class AdmissionStats(TypedDict):
    """An admission at one moment, ready for JSON."""

    target_wait_s: float
    wait_s: float | None
    """Estimated wait of a job admitted now; None while the service rate is unknown."""
    depth: float
    """Jobs thought to wait: counted, plus admitted since, minus done since."""
    service_rate_per_s: float | None
    """Jobs that end in a second in which the workers have work; None until it is learnt."""
    inflation: float
    """Jobs that one admission here stands for, with those of the other processes."""
    numbers_age_s: float | None
    """Age of the newest numbers from the queue; None before the first."""
    keys: int
    """Callers that asked lately."""
    admitted: int
    refused: int
    """Calls of ``admit`` by their answer, since this object was made."""
    refused_for_fairness: int
    """Of those refused, callers that had more than their share."""


class Admission:
    """Admits a job iff its wait is under the target: (depth seen + admitted since) / rate.

    Feed it with ``observe`` about twice a second; numbers may be a second late. In between it
    goes on by itself: what it admits is added to the depth, and what the workers do in that
    time at their known rate is taken off. So it also holds when no numbers come at all.

    Above half the target wait, a key that has its fair share of what was admitted lately must
    wait until the others had theirs. Below, everyone gets what he asks for.

    When no job waits, one is always admitted: else a place whose workers
    were stuck for a time would never learn that they go on. Until the service rate is known,
    and it is learnt only from work, ``cold_depth`` bounds the queue. Without workers nothing
    new is learnt, and the queue fills to what it may hold.

    For one event loop; a call takes microseconds.

    Args:
        target_wait_s: Longest wait of an admitted job, from now until its work begins.
            Half of what its caller still finds useful is a good start. A target under about
            twice the age of the numbers costs throughput.
        processes: Processes that admit to the same queue with numbers of their own. How much
            the others admit is measured; this bounds it.
        cold_depth: Jobs that may wait while the service rate is unknown.
        max_keys: Keys told apart; those that come when it is full share one account. Time
            makes room.
        clock: A clock that no one sets. When it is stepped, the next numbers put things right.
    """

    def __init__(
        self,
        target_wait_s: float,
        *,
        processes: int = 1,
        cold_depth: int = DEFAULT_COLD_DEPTH,
        max_keys: int = DEFAULT_MAX_KEYS,
        clock: Clock = time.monotonic,
    ) -> None:
        if min(processes, cold_depth, max_keys) < 1:
            raise ValueError("processes, cold_depth and max_keys must be at least 1")
        self.target_wait_s = checked_target(target_wait_s)
        self._clock = clock
        self._cold_depth = cold_depth
        self._rate = ServiceRate()
        self._others = _Others(processes)
        self._backlog = _Backlog()
        self._accounts = _Accounts(max(2 * target_wait_s, 1.0), max_keys)
        self._numbers_at: float | None = None
        self._admitted = self._refused = self._unfair = 0

    def observe(self, numbers: QueueNumbers) -> None:
        """Take the newest numbers; unsound ones are dropped."""
        if not numbers.are_sound:
            return
        now = self._clock()
        seen_at = now - numbers.age_s
        self._rate.learn(numbers.done, numbers.busy_s)
        if self._numbers_at is not None:
            own = self._backlog.admitted_between(self._numbers_at, seen_at)
            self._others.learn(own, numbers.depth - self._backlog.counted + numbers.done)
        self._numbers_at = seen_at
        self._backlog.correct(numbers.depth, seen_at, now, self._rate.per_s, self._others.factor)

    async def admit(self, key: str, cost: int = 1) -> float | None:
        """Take ``cost`` jobs of this key and return None, or the seconds until to try again.

        All jobs or none. The seconds are those until the wait is short enough if nobody else
        comes; callers add jitter of their own. Raises ValueError for a cost under 1.
        """
        now = self._clock()
        self._accounts.ask(key, now)
        retry_after_s, is_fair = self._judge(key, cost, now)
        if retry_after_s is None:
            self._admitted += 1
            self._backlog.add(cost, now, self._others.factor)
            self._accounts.add(key, cost)
        else:
            self._refused += 1
            self._unfair += not is_fair
        return retry_after_s

    def peek(self, key: str, cost: int = 1) -> float | None:
        """What ``admit`` would answer now, without taking anything."""
        return self._judge(key, cost, self._clock())[0]

    def wait_s(self) -> float | None:
        """How long a job admitted now would wait; None while the service rate is unknown."""
        return wait_s(self._backlog.at(self._clock(), self._rate.per_s), self._rate.per_s)

    def describe(self) -> AdmissionStats:
        """Where it stands, for stats and metrics."""
        now = self._clock()
        return AdmissionStats(
            target_wait_s=self.target_wait_s,
            wait_s=self.wait_s(),
            depth=self._backlog.at(now, self._rate.per_s),
            service_rate_per_s=self._rate.per_s,
            inflation=self._others.factor,
            numbers_age_s=None if self._numbers_at is None else max(0.0, now - self._numbers_at),
            keys=self._accounts.keys,
            admitted=self._admitted,
            refused=self._refused,
            refused_for_fairness=self._unfair,
        )

    def _judge(self, key: str, cost: int, now: float) -> tuple[float | None, bool]:
        """Seconds until to try again, or None; and whether this key had no more than its share."""
        if cost < 1:
            raise ValueError(f"an admission costs at least 1, not {cost}")
        per_s = self._rate.per_s
        waiting = self._backlog.at(now, per_s)
        ahead = waiting + cost - 1
        room = self._cold_depth if per_s is None else per_s * self.target_wait_s
        is_fair = self._accounts.is_fair(key, cost, now)
        if not waiting or ahead < (room if is_fair else room / 2):
            return None, is_fair
        return self._retry_after_s(ahead, per_s, is_fair=is_fair), is_fair

    def _retry_after_s(self, ahead: float, per_s: float | None, *, is_fair: bool) -> float:
        wait = wait_s(ahead, per_s)
        if wait is None:
            return min(self.target_wait_s, LONGEST_RETRY_S)
        wait -= self.target_wait_s if is_fair else self.target_wait_s / 2
        return min(max(wait, SHORTEST_RETRY_S), LONGEST_RETRY_S)


class _Backlog:
    """Jobs that wait: the last count, carried on by what was admitted and done since."""

    def __init__(self) -> None:
        self.counted = 0.0
        self._jobs, self._at = 0.0, math.inf
        self._log: deque[tuple[float, float]] = deque()
        """Own admissions: when, how many."""

    def at(self, now: float, per_s: float | None) -> float:
        """Jobs that wait now. A clock that went back takes nothing off."""
        self._jobs = max(0.0, self._jobs - max(0.0, now - self._at) * (per_s or 0.0))
        self._at = now
        return self._jobs

    def add(self, jobs: float, now: float, inflation: float) -> None:
        """Count own admissions, each standing for ``inflation`` jobs."""
        self._jobs += jobs * inflation
        if self._log and 0 <= now - self._log[-1][0] < LOG_STEP_S:
            begun, before = self._log.pop()
            self._log.append((begun, before + jobs))
        else:
            self._log.append((now, jobs))
        while self._log[0][0] < now - OLDEST_NUMBERS_S:
            self._log.popleft()

    def admitted_between(self, start: float, end: float) -> float:
        return sum(jobs for moment, jobs in self._log if start <= moment < end)

    def correct(
        self, depth: float, seen_at: float, now: float, per_s: float | None, inflation: float
    ) -> None:
        """Begin anew from a depth that was counted then, and go through what came after."""
        self.counted = self._jobs = depth
        self._at = seen_at
        for moment, jobs in self._log:
            if seen_at <= moment <= now:
                self._jobs = self.at(moment, per_s) + jobs * inflation
        self.at(now, per_s)


class _Others:
    """How many jobs come in for each one that this process admits."""

    def __init__(self, processes: int) -> None:
        self._processes = float(processes)
        self._own = self._all = 0.0

    @property
    def factor(self) -> float:
        """From 1 to the number of processes, which it is until more is known."""
        if self._own < LEARNED_SHARE:
            return self._processes
        return min(max(self._all / self._own, 1.0), self._processes)

    def learn(self, own: float, arrived: float) -> None:
        self._own = self._own * SHARE_KEPT + own
        self._all = max(0.0, self._all * SHARE_KEPT + arrived)


class _Accounts:
    """What each key was given lately: this window's sums and those of the one before.

    The older sums fade as the window goes on, so memory and time per call are bounded.
    """

    def __init__(self, window_s: float, max_keys: int) -> None:
        self._window_s, self._max_keys = window_s, max_keys
        self._begun = -math.inf
        self._now: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._sum_now = self._sum_before = 0.0
        self._faded = 0.0
        self.keys = 0
        """Distinct keys that asked in the two windows."""

    def ask(self, key: str, now: float) -> None:
        """Note that this key wants something."""
        self._turn(now)
        key = self._account(key)
        if key not in self._now:
            self.keys += key not in self._before
            self._now[key] = 0.0

    def is_fair(self, key: str, cost: int, now: float) -> bool:
        """Whether the key stays within an equal share of all that was given, or had nothing."""
        self._turn(now)
        key = self._account(key)
        rest = 1 - self._faded
        held = self._now.get(key, 0.0) + self._before.get(key, 0.0) * rest
        given = self._sum_now + self._sum_before * rest
        fair = (given + cost) / max(1, self.keys)
        return held + cost <= max(fair, cost)

    def add(self, key: str, cost: int) -> None:
        """Note what this key, which just asked, was given."""
        self._now[self._account(key)] += cost
        self._sum_now += cost

    def _account(self, key: str) -> str:
        return key if key in self._now or len(self._now) < self._max_keys else ""

    def _turn(self, now: float) -> None:
        windows = (now - self._begun) / self._window_s
        if not 0 <= windows < 1:
            follows = 1 <= windows < 2
            self._before, self._now = (self._now if follows else {}), {}
            self._sum_before, self._sum_now = (self._sum_now if follows else 0.0), 0.0
            self._begun = self._begun + self._window_s if follows else now
            self.keys = len(self._before)
        self._faded = (now - self._begun) / self._window_s
