"""``RedisQueue``: what a QueueBackend promises, each promise one call of a script."""

import logging
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pydantic import JsonValue

from capturekit.errors import (
    LeaseLost,
    QueueFull,
    StorageCorrupt,
    StorageError,
    UnknownBatch,
    UnknownJob,
    UnknownWorker,
)
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    RATE_WINDOWS_S,
    WORKER_MEMORY_S,
    BatchStatus,
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    Orders,
    QueueRate,
    QueueStats,
    Submission,
    WorkerInfo,
    checked_concurrency,
    checked_progress,
    first_state,
    unreadable,
)
from capturekit.queue.redis import forms
from capturekit.queue.redis.forms import dumped, lease_words, microseconds, seconds
from capturekit.queue.redis.link import Link
from capturekit.queue.redis.scripts import (
    BEAT,
    CLAIM,
    FINISH,
    ORDERS,
    QUIET,
    STATUS,
    STEER,
    SUBMIT,
    Script,
)
from capturekit.queue.redis.waking import Waking
from capturekit.queue.redis.wire import Reply, Word

if TYPE_CHECKING:
    from capturekit.queue.broker import QueueBroker

log = logging.getLogger(__name__)

DEADLINE_S: Final = 5.0
"""For one call. Far over what a call takes, well under a lease."""

MAX_AHEAD_S: Final = 5.0
"""Seconds by which the server's clock may differ from this machine's without a caution."""

MAX_AT_ONCE: Final = 100_000
"""Jobs in one submission. They keep the server from all else for a second or two."""

BUCKET_S: Final = 5.0
"""Rates know when a job came or went to within this, as in ``lua/common.lua``."""

MAX_SET_ASIDE: Final = 100
"""Rounds in which a claim looks on past jobs that it cannot read."""

_BEATS: Final = (Beat.LOST, Beat.HELD, Beat.CANCEL)


class RedisQueue:
    """A ``QueueBackend`` in Redis from 6.2, or Valkey; also behind Sentinels, or in a Cluster.

    A job that ``submit`` acknowledged is as safe as the server's disk: with ``appendonly yes``
    and ``appendfsync always`` it survives every crash, with ``everysec`` a crash takes up to a
    second of submissions and ends. When Redis forgets everything, jobs are lost; captures are
    found again by the sweep of the store. Give it a server with ``maxmemory-policy noeviction``.
    On a full one submissions raise StorageFull, and what is there is worked off.

    Every failure is a StorageError, and no call but ``wait`` takes longer than ``deadline_s``.
    A call that failed with StorageUnavailable may have been done. Nothing is tried twice here:
    submitting again is harmless, and what was claimed unheard comes back when its lease runs out.

    A claim puts back up to 100 jobs whose leases ran out and makes ready up to 500 that came
    due; the rest waits for the next claim.

    Use it in one event loop, as an async context manager.

    Args:
        url: As ``capturekit.redisurl.parsed`` reads it.
        prefix: Begins every key, in braces: in a Cluster all are on one node.
        clock: Seconds since 1970; the server's own time when None.
        uniform: Draws from 0 to 1, for backoff.
        max_waiting: Most jobs that are queued or scheduled; None lifts the bound.
        deadline_s: For one call, connecting included.
    """

    def __init__(  # by name, each with a default
        self,
        url: str,
        *,
        prefix: str = "capturekit",
        clock: Callable[[], float] | None = None,
        uniform: Callable[[], float] = random.random,
        max_waiting: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        base = f"{{{prefix}}}:"
        self._clock = clock
        self._uniform = uniform
        self._max_waiting = max_waiting
        self._most = b"" if max_waiting is None else b"%d" % max_waiting
        self._link = Link(url, base=base, deadline_s=deadline_s)
        self._waking = Waking(self._link, base, deadline_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._waking.close()
        await self._link.aclose()

    @cached_property
    def broker(self) -> "QueueBroker":
        """A taskiq broker over this queue."""
        from capturekit.queue.broker import QueueBroker

        return QueueBroker(self)

    async def submit(self, *jobs: Job) -> list[Submission]:
        """As ``QueueBackend.submit``. Raises ValueError for more than MAX_AT_ONCE jobs.

        All of a call is one script, some 13 µs a job long, in which the server does nothing else.
        """
        if not jobs:
            return []
        if len(jobs) > MAX_AT_ONCE:
            raise ValueError(f"{len(jobs)} jobs; submit at most {MAX_AT_ONCE} at once")
        words: list[Word] = [self._most, forms.VERSION]
        for job in jobs:
            words += (job.id, forms.rest_of(job), dumped(job.payload))
        answer = await self._run(SUBMIT, *words)
        if isinstance(answer, list):
            return [_submission(job, one) for job, one in zip(jobs, answer, strict=True)]
        if answer < 0:
            raise QueueFull(self._max_waiting or 0)
        return [Submission(job.id, is_new=True, state=first_state(job)) for job in jobs]

    async def status(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.status``."""
        now, flat = await self._run(STATUS, "job", job_id)
        return _status(job_id, flat, now)

    async def statuses(
        self, *, states: Sequence[JobState] = (), batch: str | None = None, limit: int = 100
    ) -> list[JobStatus]:
        """As ``QueueBackend.statuses``."""
        group = "" if batch is None else f"={batch}"
        wanted = states or tuple(JobState)
        now, *found = await self._look("jobs", b"%d" % limit, group, *wanted)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [status for job_id, flat in pairs if (status := _listed(job_id, flat, now))]

    async def batch(self, batch_id: str) -> BatchStatus:
        """As ``QueueBackend.batch``."""
        depth = _depth(await self._look("batch", batch_id))
        if not any(depth.values()):
            raise UnknownBatch(batch_id)
        return BatchStatus(id=batch_id, depth=depth)

    async def cancel(self, job_id: str) -> CancelOutcome:
        """As ``QueueBackend.cancel``."""
        outcome = await self._run(STEER, "cancel", job_id)
        if not outcome:
            raise UnknownJob(job_id)
        return CancelOutcome(outcome.decode())

    async def cancel_batch(self, batch_id: str) -> dict[CancelOutcome, int]:
        """As ``QueueBackend.cancel_batch``."""
        total: Counter[CancelOutcome] = Counter()
        is_first, has_more = "1", True
        while has_more:
            *counts, more = await self._run(STEER, "cancel-batch", batch_id, is_first)
            total.update(dict(zip(CancelOutcome, counts, strict=True)))
            is_first, has_more = "", bool(more)
        if not total.total():
            raise UnknownBatch(batch_id)
        return {outcome: total[outcome] for outcome in CancelOutcome}

    async def retry(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.retry``."""
        now, flat = await self._run(STEER, "retry", job_id)
        return _status(job_id, flat, now)

    async def retry_failed(self, *, queue: str | None = None, batch: str | None = None) -> int:
        """As ``QueueBackend.retry_failed``."""
        if batch is not None:
            only = "" if queue is None else f"={queue}"
            return await self._retry_group("batch", batch, only)
        names = await self._run(STEER, "queues", "") if queue is None else [queue]
        return sum([await self._retry_group("queue", name, "") for name in names])

    async def _retry_group(self, kind: str, name: Word, only: str) -> int:
        total, after = 0, b"-1"
        while after:
            number, after = await self._run(STEER, "retry-failed", kind, name, only, after)
            total += number
        return total

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease_s: float = DEFAULT_LEASE_S,
        queues: Sequence[str] = (),
        job_id: str | None = None,
    ) -> list[Lease]:
        """As ``QueueBackend.claim``."""
        leases: list[Lease] = []
        words: list[Word] = [dumped(worker), microseconds(lease_s), job_id or "", *queues]
        for _ in range(MAX_SET_ASIDE):
            try:
                found, is_all = await self._claim(worker, limit - len(leases), lease_s, words)
            except StorageError:
                # What was handed out before must reach its worker.
                if leases:
                    break
                raise
            leases += found
            if is_all:
                break
        return leases

    async def _claim(
        self, worker: str, limit: int, lease_s: float, words: Sequence[Word]
    ) -> tuple[list[Lease], bool]:
        """What was handed out, and whether all of it could be read."""
        now, *rows = await self._run(CLAIM, b"%d" % limit, repr(self._uniform()), *words)
        leases, unread = [], []
        for at in range(0, len(rows), 6):
            job_id, version, rest, payload, attempt, tries = rows[at : at + 6]
            try:
                job = forms.job_of(job_id, version, rest, payload)
            except (ValueError, RecursionError) as error:
                text = payload.decode(errors="backslashreplace")
                problem = forms.error_text(unreadable(str(error), text))
                unread.append((job_id, b"%d" % attempt, now, "unreadable", problem))
            else:
                until = seconds(now) + lease_s
                leases.append(Lease(job, attempt, worker, until, seconds(now), tries))
        for job_words in unread:
            try:
                await self._run(FINISH, *job_words)
            except StorageError as error:
                log.warning("an unreadable job is set aside later: %s", error)
        return leases, not unread

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = DEFAULT_LEASE_S
    ) -> list[Beat]:
        """As ``QueueBackend.heartbeat``."""
        words: list[Word] = [worker.id, forms.worker_text(worker), microseconds(lease_s)]
        words.append(microseconds(WORKER_MEMORY_S))
        for lease in leases:
            words += lease_words(lease)
        return [_BEATS[beat] for beat in await self._run(BEAT, *words)]

    async def orders(self, worker_id: str, leases: Sequence[Lease]) -> Orders:
        """As ``QueueBackend.orders``."""
        words: list[Word] = [worker_id]
        for lease in leases:
            words += lease_words(lease)
        wanted, *beats = await self._run(ORDERS, *words)
        return Orders(tuple(_BEATS[beat] for beat in beats), int(wanted) if wanted else None)

    async def resize(self, worker_id: str, concurrency: int) -> None:
        """As ``QueueBackend.resize``."""
        wanted = b"%d" % checked_concurrency(concurrency)
        silent = microseconds(WORKER_MEMORY_S)
        if not await self._run(STEER, "resize", worker_id, wanted, silent):
            raise UnknownWorker(worker_id)

    async def report(self, lease: Lease, progress: float) -> None:
        """As ``QueueBackend.report``. Raises ValueError outside 0 to 1."""
        fraction = repr(checked_progress(progress))
        await self._run(STEER, "progress", *lease_words(lease), fraction)

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        """As ``QueueBackend.finish``. Raises ValueError for a result that is no JSON."""
        await self._end(lease, "succeeded", dumped(result))

    async def fail(self, lease: Lease, error: JobError, *, is_permanent: bool = False) -> JobState:
        """As ``QueueBackend.fail``."""
        policy = lease.job.retry
        is_last = is_permanent or lease.tries >= policy.max_attempts
        delay_s = 0.0 if is_last else policy.delay_s(lease.tries, self._uniform)
        numbered = error.model_copy(update={"attempt": lease.attempt})
        words = (forms.error_text(numbered), "1" if is_last else "0", microseconds(delay_s))
        return await self._end(lease, "failed", *words)

    async def cancelled(self, lease: Lease) -> None:
        """As ``QueueBackend.cancelled``."""
        await self._end(lease, "cancelled", "")

    async def release(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """As ``QueueBackend.release``."""
        await self._end(lease, "released", microseconds(delay_s))

    async def _end(self, lease: Lease, how: str, *what: Word) -> JobState:
        state = await self._run(FINISH, *lease_words(lease), how, *what)
        if not state:
            raise LeaseLost(f"attempt {lease.attempt} of job {lease.job.id!r} is over")
        return JobState(state.decode())

    async def forget_worker(self, worker_id: str) -> None:
        """As ``QueueBackend.forget_worker``."""
        await self._run(STEER, "forget", worker_id)

    async def workers(self) -> list[WorkerInfo]:
        """As ``QueueBackend.workers``."""
        _, known, running = await self._run(STATUS, "workers", microseconds(WORKER_MEMORY_S))
        jobs: defaultdict[bytes, list[str]] = defaultdict(list)
        for worker, job_id in zip(running[::2], running[1::2], strict=True):
            jobs[worker].append(job_id.decode())
        rows = zip(known[::3], known[1::3], known[2::3], strict=True)
        return [
            forms.worker_of(text, beat, jobs[dumped(worker_id.decode())])
            for worker_id, text, beat in rows
        ]

    async def stats(self) -> QueueStats:
        """As ``QueueBackend.stats``."""
        now, paused, oldest, flow, *queues = await self._look("stats")
        names = sorted(name.decode() for name in paused)
        pairs = zip(queues[::2], queues[1::2], strict=True)
        by_queue = {name.decode(): _depth(counts) for name, counts in pairs if any(counts)}
        return QueueStats(
            depth={state: sum(each[state] for each in by_queue.values()) for state in JobState},
            by_queue=by_queue,
            oldest_age_s=max(0.0, seconds(now) - seconds(oldest)) if oldest else None,
            is_paused="*" in names,
            paused=tuple(name[1:] for name in names if name != "*"),
            rates=tuple(_rate(window_s, forms.hash_of(flow), now) for window_s in RATE_WINDOWS_S),
        )

    async def pause(self, queue: str | None = None) -> None:
        """As ``QueueBackend.pause``."""
        await self._run(STEER, "pause", "*" if queue is None else f"={queue}")

    async def resume(self, queue: str | None = None) -> None:
        """As ``QueueBackend.resume``."""
        await self._run(STEER, "resume", "*" if queue is None else f"={queue}")

    async def prune(self, *, older_than_s: float, keep: int | None = None) -> int:
        """As ``QueueBackend.prune``."""
        total, start = 0, 0
        what = (microseconds(older_than_s), b"" if keep is None else b"%d" % keep)
        while start >= 0:
            number, start = await self._run(STEER, "prune", *what, b"%d" % start)
            total += number
        return total

    async def wait(self, timeout_s: float, *, queues: Sequence[str] = ()) -> None:
        """As ``QueueBackend.wait``."""

        async def quiet_s() -> float:
            quiet_us = await self._run(QUIET, *queues)
            return math.inf if quiet_us < 0 else seconds(quiet_us)

        await self._waking.wait(timeout_s, queues, quiet_s)

    async def cautions(self, now: float) -> list[str]:
        """What of the server's own settings and clock may lose or hold up jobs, and what to do.

        ``now`` is this machine's time, in seconds since 1970. Raises StorageError.
        """
        told = _information(await self._link.call(b"INFO"))
        at_s, at_us = map(int, await self._link.call(b"TIME"))
        found = []
        policy = told.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            found.append(
                f"maxmemory-policy is {policy}: jobs are thrown away when memory is full; "
                "set it to noeviction"
            )
        if told.get("aof_enabled") == "0":
            found.append(
                "appendonly is no: jobs since the last snapshot are lost with the server, and "
                "found again by the sweep of a server; set appendonly yes, appendfsync always"
            )
        if abs(ahead_s := at_s + at_us / 1e6 - now) > MAX_AHEAD_S:
            found.append(
                f"its clock is {ahead_s:+.0f} s from this machine's: let both be set by NTP"
            )
        return found

    async def _look(self, *words: Word) -> Reply:
        while (answer := await self._run(STATUS, *words)) == b"more":
            pass
        return answer

    async def _run(self, script: Script, *words: Word) -> Reply:
        now = b"" if self._clock is None else microseconds(self._clock())
        return await self._link.run(script, now, *words)


def _information(text: bytes) -> dict[str, str]:
    """The answer to INFO."""
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _submission(job: Job, answer: bytes) -> Submission:
    if not answer:
        return Submission(job.id, is_new=True, state=first_state(job))
    state, _, job_id = answer.decode().partition(":")
    return Submission(job_id, is_new=False, state=JobState(state))


def _status(job_id: str, flat: Sequence[bytes], now: bytes) -> JobStatus:
    if not flat:
        raise UnknownJob(job_id)
    try:
        return forms.status_of(job_id, forms.hash_of(flat), now)
    except (ValueError, KeyError) as error:
        raise StorageCorrupt(f"Redis: the fields of job {job_id!r} cannot be read") from error


def _listed(job_id: bytes, flat: Sequence[bytes], now: bytes) -> JobStatus | None:
    """None for what cannot be read, or was evicted: one job must not hide the others."""
    try:
        return _status(job_id.decode(), flat, now)
    except (UnknownJob, StorageCorrupt) as error:
        log.warning("left out of a list: %s", error)
        return None


def _depth(counts: Sequence[int]) -> dict[JobState, int]:
    return dict(zip(JobState, counts, strict=True))


def _rate(window_s: float, flow: Mapping[bytes, bytes], now: bytes) -> QueueRate:
    # A bucket counts as long as any of it is inside the window.
    since = (seconds(now) - window_s) / BUCKET_S - 1
    lately = [(name[:1], int(n)) for name, n in flow.items() if float(name[1:]) > since]
    minutes = window_s / 60
    return QueueRate(
        window_s=window_s,
        in_per_minute=sum(number for way, number in lately if way == b"i") / minutes,
        out_per_minute=sum(number for way, number in lately if way == b"o") / minutes,
    )
