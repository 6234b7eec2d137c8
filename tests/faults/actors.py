"""The processes that are killed: workers, and apps that submit jobs. Started by ``crew``.

Both are as a user writes them, over any queue's URL, except that they can be told to die at a
named point and keep a record of what they were told, outside the queue.
"""

import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from pydantic import JsonValue

from capturekit.errors import Permanent, RateLimited, Retryable, StorageError
from capturekit.queue.base import Job, Lease, QueueBackend, RetryPolicy
from capturekit.queue.urls import open_queue
from capturekit.worker import GRACE_S, Handler, JobContext, Worker
from tests.faults.effects import Effects, opened

T = TypeVar("T")

LIFE_S = 900
"""An actor that nobody ends ends itself."""
LEASE_S = 1.5
OUTLIVES_KILLS = RetryPolicy(max_attempts=1000, base_s=0.05, cap_s=0.5)


class Point(StrEnum):
    """Where an actor may be told to kill itself."""

    CLAIMED = "claimed"
    """The queue gave it a job; nothing was done."""
    STARTED = "started"
    EFFECTED = "effected"
    """The effect is there, and the queue does not know."""
    FINISHED = "finished"
    """The queue knows."""
    INTENDED = "intended"
    """About to submit."""
    SUBMITTED = "submitted"
    """The queue has it, and nobody was told."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How a worker works."""

    url: str
    folder: str
    concurrency: int = 4
    lease_s: float = LEASE_S
    grace_s: float = GRACE_S
    die_at: str = ""
    """A ``Point``; it dies there at the first chance."""
    steps: tuple[tuple[float, float], ...] = ()
    """Its clock is so many seconds off from so many seconds after its start."""


@dataclass(frozen=True, slots=True)
class SubmitterPlan:
    """How an app submits."""

    url: str
    folder: str
    name: str
    seed: int
    total: int = 1_000_000
    """It ends after so many jobs, or when asked to."""
    pause_s: float = 0.03
    die_at: str = ""


def job_of(name: str, seed: int, index: int) -> Job:
    """The job that this app submits as its ``index``-th; the same whenever it is asked."""
    rng = random.Random(f"{seed} {name} {index}")
    kind = rng.choices(
        ["effect", "flaky", "refuse", "shy", "unwanted"], weights=[70, 10, 5, 5, 10]
    )[0]
    return Job(
        id=f"{name}-{index}",
        kind=kind,
        # Mostly short; some last long enough to be met by what happens meanwhile.
        payload={"work_s": round(rng.random() * rng.choice([0.03] * 9 + [0.6]), 4)},
        queue=rng.choice(["default", "other"]),
        priority=rng.choice([-1, 0, 0, 1]),
        delay_s=rng.choice([0.0, 0.0, 0.2]) if kind != "unwanted" else 0.3,
        retry=OUTLIVES_KILLS,
        batch=name,
        concurrency_key=rng.choice([None, None, None, "device-1", "device-2"]),
        max_running=2,
    )


# The worker


async def work(plan: WorkerPlan) -> None:
    """Work until SIGTERM."""
    clock = stepping_clock(plan.steps)
    with opened(Path(plan.folder) / "effects.db") as effects:
        async with open_queue(plan.url, clock=clock) as queue:
            _witness(queue, effects, plan.die_at)
            worker = Worker(
                queue,
                _Deeds(effects, plan.die_at).handlers(),
                concurrency=plan.concurrency,
                lease_s=plan.lease_s,
                grace_s=plan.grace_s,
                clock=clock,
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_on_sigterm, worker.stop)
                await worker.run()
                tasks.cancel_scope.cancel()


def stepping_clock(steps: tuple[tuple[float, float], ...]) -> Callable[[], float]:
    """The wall clock, as it would be if someone set it at those times after now."""
    begun = time.monotonic()

    def now() -> float:
        age = time.monotonic() - begun
        return time.time() + sum(offset for after, offset in steps if age >= after)

    return now if steps else time.time


class _Deeds:
    """What jobs do, by kind."""

    def __init__(self, effects: Effects, die_at: str) -> None:
        self._effects = effects
        self._die_at = die_at

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "effect": self.effect,
            "unwanted": self.effect,
            "flaky": self.flaky,
            "shy": self.shy,
            "refuse": self.refuse,
            "kill-worker": self.kill_worker,
            "hang": self.hang,
        }

    def _start(self, context: JobContext) -> None:
        self._effects.start(context.job.id, context.attempt, str(os.getpid()))

    async def effect(self, context: JobContext) -> JsonValue:
        self._start(context)
        _die_if(self._die_at, Point.STARTED)
        await anyio.sleep(float(str(context.job.payload["work_s"])))
        verdict = self._effects.apply(context.job.id, context.attempt)
        _die_if(self._die_at, Point.EFFECTED)
        return verdict

    async def flaky(self, context: JobContext) -> JsonValue:
        if context.attempt == 1:
            self._start(context)
            raise Retryable("not at the first attempt")
        return await self.effect(context)

    async def shy(self, context: JobContext) -> JsonValue:
        if context.attempt == 1:
            self._start(context)
            raise RateLimited("not now", 0.1)
        return await self.effect(context)

    async def refuse(self, context: JobContext) -> JsonValue:
        self._start(context)
        raise Permanent("by design")

    async def kill_worker(self, context: JobContext) -> JsonValue:
        self._start(context)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    async def hang(self, context: JobContext) -> JsonValue:
        """Until a file says to go on."""
        self._start(context)
        go_on = self._effects.path.with_name(f"{context.job.id}.go")
        while not go_on.exists():  # noqa: ASYNC110  # another process makes it
            await anyio.sleep(0.01)
        return self._effects.apply(context.job.id, context.attempt)


def _witness(queue: QueueBackend, effects: Effects, die_at: str) -> None:
    """Have the queue's own methods followed by a record, or by death."""
    claim, finish = queue.claim, queue.finish

    async def claim_then_die(
        worker: str, *, limit: int, lease_s: float, queues: Sequence[str], job_id: str | None
    ) -> list[Lease]:
        leases = await claim(worker, limit=limit, lease_s=lease_s, queues=queues, job_id=job_id)
        if leases:
            _die_if(die_at, Point.CLAIMED)
        return leases

    async def finish_and_tell(lease: Lease, result: JsonValue = None) -> None:
        await finish(lease, result)
        effects.end(lease.job.id, lease.attempt)
        _die_if(die_at, Point.FINISHED)

    followed: dict[str, Callable[..., Awaitable[object]]] = {
        "claim": claim_then_die,
        "finish": finish_and_tell,
    }
    for name, method in followed.items():
        setattr(queue, name, method)


# The app


async def submit(plan: SubmitterPlan) -> None:
    """Submit job after job, from behind the last that is known to be taken."""
    journal = Journal(Path(plan.folder) / f"{plan.name}.journal")
    is_stopping = anyio.Event()
    async with open_queue(plan.url) as queue, anyio.create_task_group() as tasks:
        tasks.start_soon(_on_sigterm, is_stopping.set)
        index = journal.acknowledged
        while index < plan.total and not is_stopping.is_set():
            index = await _submit_some(queue, plan, journal, index)
            with anyio.move_on_after(plan.pause_s):
                await is_stopping.wait()
        tasks.cancel_scope.cancel()


async def _submit_some(
    queue: QueueBackend, plan: SubmitterPlan, journal: "Journal", index: int
) -> int:
    count = min(random.Random(f"{plan.seed} {index}").randrange(1, 6), plan.total - index)
    jobs = [job_of(plan.name, plan.seed, index + number) for number in range(count)]
    _die_if(plan.die_at, Point.INTENDED)
    await until_stored(partial(queue.submit, *jobs))
    _die_if(plan.die_at, Point.SUBMITTED)
    for job in jobs:
        if job.kind == "unwanted":
            outcome = await until_stored(partial(queue.cancel, job.id))
            journal.write("cancel", job.id, outcome)
    journal.write("taken", index + count)
    return index + count


async def until_stored(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again for as long as the storage fails."""
    while True:
        try:
            return await ask()
        except StorageError:
            await anyio.sleep(0.05)


class Journal:
    """What an app was told, line by line; a line is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows: list[list[Any]] = [json.loads(line) for line in lines]
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *what: object) -> None:
        os.write(self._file, json.dumps(what).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    @property
    def acknowledged(self) -> int:
        """How many jobs are known to be taken."""
        return max((count for what, count, *_ in self._rows if what == "taken"), default=0)

    @property
    def cancels(self) -> dict[str, str]:
        """What cancelling did, by job."""
        return {job: more[0] for what, job, *more in self._rows if what == "cancel"}


def _die_if(die_at: str, point: Point) -> None:
    if die_at == point:
        os.kill(os.getpid(), signal.SIGKILL)


async def _on_sigterm(stop: Callable[[], object]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        async for _ in signals:
            stop()
