"""Looks at what is left when the killing is over, and says what should not be."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from capturekit.queue.base import CancelOutcome, JobState, JobStatus, QueueBackend, QueueStats
from tests.faults.actors import Journal, SubmitterPlan, job_of
from tests.faults.effects import Row, Verdict, opened

DRAIN_S = 90.0
"""Without one job less: the last attempts back off, and leases of those killed run out."""


@dataclass
class Findings:
    """What was counted, and every sentence about what is wrong."""

    jobs: int = 0
    lost: int = 0
    """Acknowledged, and unknown or not ended as they had to."""
    doubled: int = 0
    """Had two effects, or ran again after the queue had acknowledged their end."""
    worker_lost: int = 0
    fenced: int = 0
    again: int = 0
    """Attempts whose effect was there already: the worker died before it could say so."""
    wrong: list[str] = field(default_factory=list)


async def drained(queue: QueueBackend, timeout_s: float) -> QueueStats:
    """The stats once nothing waits or runs, or nothing ends any more."""
    stats = await queue.stats()
    least, give_up_at = _unended(stats), anyio.current_time() + timeout_s
    while (left := _unended(stats)) and anyio.current_time() < give_up_at:
        if left < least:
            least, give_up_at = left, anyio.current_time() + timeout_s
        await anyio.sleep(0.1)
        stats = await queue.stats()
    return stats


def _unended(stats: QueueStats) -> int:
    return sum(count for state, count in stats.depth.items() if not state.is_final)


async def held(
    queue: QueueBackend,
    folder: Path,
    plans: Sequence[SubmitterPlan],
    *,
    within_s: float = DRAIN_S,
) -> Findings:
    """What is there of the jobs of these apps, once all have ended or that time is over."""
    findings = Findings()
    stats = await drained(queue, within_s)
    known = {one.id: one for one in await queue.statuses(limit=1_000_000)}
    with opened(folder / "effects.db") as effects:
        starts, applied, ends = effects.starts(), effects.effects(), effects.ends()
    for plan in plans:
        journal = Journal(folder / f"{plan.name}.journal")
        _judge_app(plan, journal, known, applied, findings)
        journal.close()
    _judge_effects(starts, applied, ends, findings)
    findings.wrong += _wrong_stats(stats, known)
    for status in known.values():
        findings.wrong += [f"{status.id}: {what}" for what in _wrong_history(status)]
        errors = [attempt.error for attempt in status.attempts if attempt.error]
        findings.worker_lost += sum(error.type == "WorkerLost" for error in errors)
    return findings


def _judge_app(
    plan: SubmitterPlan,
    journal: Journal,
    known: Mapping[str, JobStatus],
    applied: Sequence[Row],
    findings: Findings,
) -> None:
    accepted = Counter(row.job for row in applied if row.verdict == Verdict.ACCEPTED)
    findings.jobs += journal.acknowledged
    for index in range(journal.acknowledged):
        job = job_of(plan.name, plan.seed, index)
        status = known.get(job.id)
        told = journal.cancels.get(job.id)
        right = _right_ends(job.kind, told)
        if status is None or status.state not in right:
            findings.lost += 1
            state = status.state if status else "unknown"
            findings.wrong.append(f"{job.id} ({job.kind}, cancel: {told}) is {state}")
        elif accepted[job.id] != (status.state is JobState.SUCCEEDED):
            findings.wrong.append(f"{job.id} {status.state}, and has {accepted[job.id]} effects")


def _right_ends(kind: str, told: str | None) -> tuple[JobState, ...]:
    if kind == "refuse":
        return (JobState.FAILED,)
    if told == CancelOutcome.CANCELLED:
        return (JobState.CANCELLED,)
    if told == CancelOutcome.CANCELLING:
        return (JobState.CANCELLED, JobState.SUCCEEDED)
    # An app that was killed before it read the answer cancels again, when it has ended.
    both = (JobState.SUCCEEDED, JobState.CANCELLED)
    return both if told else (JobState.SUCCEEDED,)


def _judge_effects(
    starts: Sequence[Row], applied: Sequence[Row], ends: Sequence[Row], findings: Findings
) -> None:
    verdicts = Counter(row.verdict for row in applied)
    findings.fenced, findings.again = verdicts[Verdict.FENCED], verdicts[Verdict.KNOWN]
    doubled = dict[str, str]()
    accepted = Counter(row.job for row in applied if row.verdict == Verdict.ACCEPTED)
    doubled |= {job: f"has {count} effects" for job, count in accepted.items() if count > 1}
    handed_out = Counter((row.job, row.attempt) for row in starts)
    doubled |= {
        job: f"attempt {attempt} was handed out {count} times"
        for (job, attempt), count in handed_out.items()
        if count > 1
    }
    ended = {row.job: row for row in reversed(ends)}
    # One that was frozen before it began may begin when it is thawed; its effect is fenced off.
    doubled |= {
        row.job: f"attempt {row.attempt} started after the end was acknowledged"
        for row in starts
        if (end := ended.get(row.job)) and row.at > end.at and row.attempt >= end.attempt
    }
    findings.doubled = len(doubled)
    findings.wrong += [f"{job}: {what}" for job, what in doubled.items()]


def _wrong_stats(stats: QueueStats, known: Mapping[str, JobStatus]) -> Iterator[str]:
    if left := _unended(stats):
        yield f"{left} jobs have not ended"
        unended = [one for one in known.values() if not one.state.is_final]
        yield from (f"{one!r}" for one in unended[:5])
    counted = Counter(one.state for one in known.values())
    if counted != +Counter(stats.depth):
        yield f"the depth is {stats.depth}, and of the jobs {counted}"
    by_queue = Counter((one.queue, one.state) for one in known.values())
    if by_queue != +Counter(
        {(name, state): n for name, depth in stats.by_queue.items() for state, n in depth.items()}
    ):
        yield f"by queue the depth is {stats.by_queue}, and of the jobs {by_queue}"


def _wrong_history(status: JobStatus) -> Iterator[str]:
    numbers = [attempt.number for attempt in status.attempts]
    if numbers != sorted(set(numbers)):
        yield f"its attempts are numbered {numbers}"
    for attempt in status.attempts:
        if attempt.finished_at is None:
            yield f"attempt {attempt.number} never ended, and the job is {status.state}"
        elif attempt.finished_at < attempt.started_at:
            yield f"attempt {attempt.number} ended before it started"
    if status.state is JobState.SUCCEEDED:
        errors = [attempt.error is None for attempt in status.attempts]
        if errors != [False] * (len(errors) - 1) + [True]:
            yield f"it succeeded, and its attempts ended so: {status.attempts}"
