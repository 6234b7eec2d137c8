"""Captures and the jobs that process them: submit, run, cancel, and find what was left behind.

The queue owns a job's life, the store a capture's. A job's id follows from the capture, the
pipeline's fingerprint and the attempt series, so submitting again is harmless; and because
every capture that waits can be found in the store, no job can be lost for good.
"""

import dataclasses
import logging
import pickle
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

import anyio
from pydantic import Base64Bytes, BaseModel, ConfigDict, JsonValue, TypeAdapter

from capturekit.blobs import Blobs
from capturekit.errors import (
    ConfigError,
    Conflict,
    ImageError,
    LeaseLost,
    Permanent,
    QueueFull,
    RateLimited,
    Retryable,
    StorageError,
    Unknown,
    UnknownJob,
)
from capturekit.executors import Executor, ThreadExecutor, should_stop
from capturekit.frame import Observation, Reference
from capturekit.logs import about
from capturekit.pipeline import ProcessingPipeline, Result, RunError
from capturekit.queue.base import (
    CancelOutcome,
    Job,
    JobState,
    JobStatus,
    QueueBackend,
    RetryPolicy,
    Submission,
)
from capturekit.steps.quality import Verdict
from capturekit.steps.zones import Zones
from capturekit.store import (
    Candidate,
    Capture,
    CaptureState,
    Run,
    RunRecord,
    Selection,
    StockChange,
    Store,
)
from capturekit.telemetry import Telemetry
from capturekit.tracing import continued, note, span
from capturekit.worker import JobContext

logger = logging.getLogger("capturekit.processing")

JOB_KIND: Final = "process-capture"
BACKFILL_PRIORITY: Final = -10
"""Of jobs submitted in bulk: live pictures go first."""
SWEEP_PAGE: Final = 500


class PictureRefused(Permanent):
    """The picture cannot be decoded; another try would end the same way."""


class StepFailed(Retryable):
    """A step of the pipeline raised; ``step`` is its name."""

    def __init__(self, message: str, step: str) -> None:
        super().__init__(message)
        self.step = step


class StepGaveUp(Permanent):
    """A step of the pipeline says that trying again cannot help; ``step`` is its name."""

    def __init__(self, message: str, step: str) -> None:
        super().__init__(message)
        self.step = step


class StepMustWait(RateLimited):
    """A step of the pipeline may not go on before ``retry_after_s``; ``step`` is its name."""

    def __init__(self, message: str, retry_after_s: float, step: str) -> None:
        super().__init__(message, retry_after_s)
        self.step = step


class WrongPipeline(Retryable):
    """The job is for another pipeline than this worker's; one that has it may take it."""

    def __init__(self, wanted: str, own: str) -> None:
        super().__init__(
            f"the job is for the pipeline {wanted[:12]}, and this worker has {own[:12]}: start "
            "servers and workers with the same CAPTUREKIT_PIPELINE"
        )


class PendingBatch(NamedTuple):
    """What ``process_pending`` did."""

    batch_id: str
    job_ids: list[str]
    skipped: int


class Outlook(StrEnum):
    """What becomes of a capture when many are reprocessed."""

    SUBMITTED = "submitted"
    """It has a job now, of the batch."""
    CHOSEN = "chosen"
    """The pipeline's run of it was known, and speaks again."""
    CURRENT = "current"
    """It is the pipeline's run that speaks already."""
    WAITING = "waiting"
    """It has a job of its own, and is processed anyhow."""
    REMOVED = "removed"
    """Its picture was removed by retention: what was seen on it stays."""


@dataclass(frozen=True, slots=True)
class Reprocessing:
    """What was done to many captures."""

    batch_id: str | None
    """Of the jobs; None when none was needed."""
    counts: Mapping[Outlook, int]


def outlook_of(one: Candidate) -> Outlook:
    """What is to be done about the capture."""
    if one.state in (CaptureState.PENDING, CaptureState.PROCESSING):
        return Outlook.WAITING
    if one.is_current:
        return Outlook.CURRENT
    if one.is_known:
        return Outlook.CHOSEN
    return Outlook.REMOVED if one.is_removed else Outlook.SUBMITTED


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How a capture's job is tried."""

    max_attempts: int = 3
    timeout_s: float = 300.0
    per_device: int | None = None
    """Pictures of one device processed at once; None for as many as there are workers."""


class Before(NamedTuple):
    """The picture to compare with, before it is decoded."""

    id: str
    content: bytes
    observations: JsonValue


class Analysed(BaseModel):
    """What a pipeline saw in a capture, as it leaves the process that ran it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: dict[str, JsonValue]
    observations: tuple[Observation, ...]
    thumbnail: Base64Bytes | None
    is_blind: bool
    zones: tuple[str, ...]


class Processing:
    """Brings captures through the pipeline by way of the queue.

    Pictures are decoded and analysed in ``executor``. By default that is a thread, which runs
    on to the end of its step when its job is cancelled or takes too long. In a
    ``ProcessExecutor`` it is killed; the pipeline must then pickle, or else ConfigError is raised.
    """

    def __init__(
        self,
        store: Store,
        queue: QueueBackend,
        blobs: Blobs,
        pipeline: ProcessingPipeline,
        *,
        limits: JobLimits | None = None,
        executor: Executor | None = None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._executor = executor or ThreadExecutor()
        # At once, so that one that cannot be sent is no surprise to the first picture.
        self._sent = pipeline if executor is None else _pickled(pipeline)
        self._store = store
        self._queue = queue
        self._blobs = blobs
        self._pipeline = pipeline
        self._limits = limits or JobLimits()
        self._clock = clock
        self._submitting = anyio.Lock()

    def job(
        self,
        capture: Capture,
        *,
        batch: str | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> Job:
        """The job that processes this capture in its present attempt series.

        It goes on with the ``trace`` in which the capture was received.
        """
        return Job(
            id=f"{capture.id}.{self._pipeline.fingerprint[:12]}.{capture.series}",
            kind=JOB_KIND,
            payload={
                "capture_id": capture.id,
                "series": capture.series,
                "fingerprint": self._pipeline.fingerprint,
                **({"trace": dict(trace)} if trace else {}),
            },
            priority=BACKFILL_PRIORITY if batch else 0,
            retry=RetryPolicy(max_attempts=self._limits.max_attempts),
            timeout_s=self._limits.timeout_s,
            batch=batch,
            concurrency_key=f"device:{capture.device_id}" if self._limits.per_device else None,
            max_running=self._limits.per_device or 1,
        )

    async def submit(self, capture_id: str, *, batch: str | None = None) -> tuple[str, bool]:
        """The id of the live job for this capture, and whether it was made now.

        A capture whose last job ended, however it ended, gets a job of a new series.
        Raises Unknown.
        """
        async with self._submitting:
            capture = await self._store.captures.get(capture_id)
            status = await self._known(self.job(capture).id)
            if status and not status.state.is_final:
                return status.id, False
            if status or capture.state in (CaptureState.COMPLETED, CaptureState.FAILED):
                capture = await self._store.captures.next_series(capture_id)
            return await self._submit_anew(capture, batch=batch), True

    async def _submit_anew(self, capture: Capture, *, batch: str | None = None) -> str:
        """Submit a job that the queue does not know, and return its id."""
        if capture.attempt:
            # The queue has forgotten that there were attempts, and counts from one again: those
            # would come too late for the store.
            capture = await self._store.captures.next_series(capture.id)
        job = self.job(capture, batch=batch)
        await self._queue.submit(job)
        return job.id

    async def submit_pending(self, *, limit: int) -> PendingBatch:
        """Submit up to ``limit`` captures that wait and have no live job."""
        batch_id = f"batch-{secrets.token_hex(8)}"
        job_ids: list[str] = []
        skipped = 0
        for capture in await self._store.captures.due(limit):
            job_id, is_new = await self.submit(capture.id, batch=batch_id)
            if is_new:
                job_ids.append(job_id)
            else:
                skipped += 1
        return PendingBatch(batch_id, job_ids, skipped)

    async def reprocess(self, capture_id: str) -> tuple[str | None, Sequence[StockChange]]:
        """Let the present pipeline speak for the capture: the id of its job, or what changed.

        No job is needed when it looked at the capture before; then the run of that time speaks
        again at once. Raises Unknown, and Conflict when its picture was removed.
        """
        own = self._pipeline.fingerprint
        try:
            return None, await self._store.inventory.choose_run(capture_id, own)
        except Unknown:
            job_id, _ = await self.submit(capture_id)
            return job_id, ()

    async def reprocess_all(self, which: Selection) -> Reprocessing:
        """Let the present pipeline speak for all these captures that were processed before.

        One batch of jobs that wait behind live pictures. What was done already is not done
        again, so an interrupted call is simply repeated. Raises QueueFull.
        """
        batch_id, counts = f"batch-{secrets.token_hex(8)}", Counter[Outlook]()
        async for one in self._candidates(which):
            outlook = outlook_of(one)
            if outlook is Outlook.CHOSEN:
                await self._store.inventory.choose_run(one.capture_id, self._pipeline.fingerprint)
            elif outlook is Outlook.SUBMITTED:
                _, is_new = await self.submit(one.capture_id, batch=batch_id)
                outlook = outlook if is_new else Outlook.WAITING
            counts[outlook] += 1
        return Reprocessing(batch_id if counts[Outlook.SUBMITTED] else None, counts)

    async def rehearse(self, capture_ids: Sequence[str]) -> Sequence[StockChange]:
        """What ``reprocess`` of all these would change in stock. Changes nothing.

        Analyses those pictures that the pipeline did not see yet, here and now. Raises what
        their jobs would fail with, Unknown, and Conflict when a picture was removed.
        """
        records: dict[str, RunRecord] = {}
        for capture_id in capture_ids:
            records[capture_id] = await self._rehearsed(capture_id)
        return await self._store.captures.rehearse(records)

    async def rehearse_all(self, which: Selection) -> tuple[Sequence[StockChange], Reprocessing]:
        """The same for ``reprocess_all``. It keeps what was seen in memory, a few KB each."""
        wanted = {Outlook.CHOSEN, Outlook.SUBMITTED}
        found = [(one.capture_id, outlook_of(one)) async for one in self._candidates(which)]
        changes = await self.rehearse([id for id, outlook in found if outlook in wanted])  # noqa: A001
        return changes, Reprocessing(None, Counter(outlook for _, outlook in found))

    async def _rehearsed(self, capture_id: str) -> RunRecord:
        captures, own = self._store.captures, self._pipeline.fingerprint
        if await captures.has_run(capture_id, own):
            return RunRecord(own, 0.0, 0.0, {})  # the one that is known speaks instead
        capture = await captures.get(capture_id)
        if capture.picture_removed_at is not None:
            raise Conflict(f"the picture of capture {capture_id} was removed by retention")
        return (await self._run(capture))[0]

    async def _candidates(self, which: Selection) -> AsyncIterator[Candidate]:
        after = ""
        captures, own = self._store.captures, self._pipeline.fingerprint
        while page := await captures.to_reprocess(own, which, after=after, limit=SWEEP_PAGE):
            for one in page:
                yield one
            after = page[-1].capture_id

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel a job; its capture waits until someone asks for it again.

        Raises UnknownJob.
        """
        return await self._queue.cancel(job_id)

    async def handle(self, context: JobContext) -> JsonValue:
        """Run one job: the handler of ``JOB_KIND``. Its effect and its end are one transaction.

        Raises WrongPipeline, which hands the job back, when it was made for another pipeline.
        """
        capture_id = str(context.job.payload["capture_id"])
        with (
            about(capture=capture_id),
            continued(_trace_of(context)),
            span("process", capture=capture_id, attempt=context.attempt),
        ):
            return await self._handle(context)

    async def _handle(self, context: JobContext) -> JsonValue:
        own = self._pipeline.fingerprint
        # Jobs of before 0.1 name none.
        if (wanted := str(context.job.payload.get("fingerprint", own))) != own:
            raise WrongPipeline(wanted, own)
        capture_id = str(context.job.payload["capture_id"])
        series = int(str(context.job.payload["series"]))
        captures = self._store.captures
        try:
            await captures.start(capture_id, series, context.attempt)
            capture = await captures.get(capture_id)
            self._note_wait(capture, context)
            record, thumbnail = await self._run(capture)
            await self._finish(capture_id, (series, context.attempt), record, thumbnail)
            self._note_end(capture, record)
            run = await captures.current_run(capture_id)
        except LeaseLost as error:
            raise Permanent("a newer job processes this capture") from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await captures.release(capture_id, series, context.attempt)
            raise
        return {
            "capture_id": capture_id,
            "observation_ids": list(run.observation_ids if run else ()),
        }

    def _note_wait(self, capture: Capture, context: JobContext) -> None:
        if context.attempt == 1 and not capture.series:
            wait_s = self._clock() - capture.received_at
            self._telemetry.time("job_queue_wait_seconds", wait_s, context.job.queue)

    def _note_end(self, capture: Capture, record: RunRecord) -> None:
        begun_at = record.started_at
        for name, took_s in _step_times(record.result):
            self._telemetry.time("step_duration_seconds", took_s, name)
            note(f"step {name}", begun_at, took_s)
            begun_at += took_s
        if not capture.series:
            lag_s = self._clock() - capture.received_at
            self._telemetry.time("capture_to_stock_seconds", lag_s)

    async def _finish(
        self, capture_id: str, fence: tuple[int, int], record: RunRecord, thumbnail: bytes | None
    ) -> None:
        async def finish(sha256: str | None) -> None:
            shown = dataclasses.replace(record, thumbnail=sha256)
            with span("ledger"):
                await self._store.captures.finish(capture_id, *fence, shown)

        if thumbnail is None:
            await finish(None)
        else:
            await self._store.blob_records.keep(self._blobs, thumbnail, finish)

    async def _run(self, capture: Capture) -> tuple[RunRecord, bytes | None]:
        """What its pipeline says about it, and the thumbnail, which is not yet kept."""
        content = await self._blobs.get(capture.sha256)
        before = await self._before(capture) if self._pipeline.wants_reference else None
        started_at = self._clock()
        told = await self._executor.run(analysed_as_json, self._sent, content, before)
        seen = Analysed.model_validate(told)
        record = RunRecord(
            fingerprint=self._pipeline.fingerprint,
            started_at=started_at,
            finished_at=self._clock(),
            result=seen.result,
            observations=seen.observations,
            is_blind=seen.is_blind,
            zones=seen.zones,
            reference=_reference_of(seen.result),
        )
        return record, seen.thumbnail or None

    async def _before(self, capture: Capture) -> Before | None:
        """The device's last picture before this one that was analysed in full.

        None when there is none, or it was too poor, or its picture is lost: then this one is
        analysed in full.
        """
        before = await self._store.captures.run_before(capture, self._pipeline.fingerprint)
        if before is not None and (full := _carried_from(before[1])) is not None:
            # That run was itself spared: what it was compared with is what still holds.
            before = await self._analysed(full)
        if before is None or not _may_be_compared(before[1].result):
            return None
        try:
            content = await self._blobs.get(before[0].sha256)
        except (Unknown, StorageError) as error:
            logger.warning("capture %s has nothing to compare with: %s", capture.id, error)
            return None
        return Before(before[0].id, content, before[1].result.get("observations"))

    async def _analysed(self, capture_id: str) -> tuple[Capture, Run] | None:
        captures = self._store.captures
        run = await captures.current_run(capture_id)
        if run is None or run.fingerprint != self._pipeline.fingerprint:
            return None
        return await captures.get(capture_id), run

    async def settle(self, job: JobStatus) -> None:
        """Tell the store about a job that ended without an effect."""
        if job.kind != JOB_KIND:
            return
        capture = await self._store.captures.get(str(job.payload["capture_id"]))
        if self.job(capture).id == job.id:
            await self._settle(capture, job)

    async def _settle(self, capture: Capture, job: JobStatus) -> None:
        captures = self._store.captures
        try:
            if job.state is JobState.FAILED and job.error is not None:
                await captures.fail(
                    capture.id, capture.series, capture.attempt, job.error.model_dump()
                )
            elif job.state is JobState.CANCELLED and capture.state is CaptureState.PROCESSING:
                await captures.release(capture.id, capture.series, capture.attempt)
        except LeaseLost:
            logger.info("capture %s went on while job %s was settled", capture.id, job.id)

    async def sweep(self) -> int:
        """Submit every capture that waits and whose job the queue does not know.

        That of a capture which was begun gets a new series, so that whoever still works for the
        old one has no effect. Also settles captures whose job ended while nobody could tell them.
        Returns how many were submitted. Harmless at any time. Raises QueueFull.
        """
        submitted = 0
        after: str | None = None
        while page := await self._store.captures.due(SWEEP_PAGE, after=after):
            # One call for those that were never begun; a queue that lost one takes it again.
            fresh = [capture for capture in page if not capture.attempt]
            for capture, answer in zip(fresh, await self._submit_fresh(fresh), strict=False):
                submitted += answer.is_new
                if answer.state.is_final:
                    await self._settle(capture, await self._queue.status(answer.id))
            for capture in page:
                if capture.attempt:
                    submitted += await self._sweep_begun(capture)
            after = page[-1].id
        return submitted

    async def _submit_fresh(self, captures: Sequence[Capture]) -> list[Submission]:
        jobs = [self.job(capture) for capture in captures]
        try:
            return await self._queue.submit(*jobs)
        except QueueFull:
            # There may be room for some.
            return [(await self._queue.submit(job))[0] for job in jobs]

    async def _sweep_begun(self, capture: Capture) -> bool:
        status = await self._known(self.job(capture).id)
        if status is None:
            return await self._submit_forgotten(capture.id)
        if status.state.is_final:
            await self._settle(capture, status)
        return False

    async def _submit_forgotten(self, capture_id: str) -> bool:
        async with self._submitting:
            # Someone may have come first.
            capture = await self._store.captures.get(capture_id)
            is_due = capture.state in (CaptureState.PENDING, CaptureState.PROCESSING)
            if not is_due or await self._known(self.job(capture).id):
                return False
            await self._submit_anew(capture)
            return True

    async def _known(self, job_id: str) -> JobStatus | None:
        try:
            return await self._queue.status(job_id)
        except UnknownJob:
            return None


def analysed(pipeline: ProcessingPipeline, content: bytes, before: Before | None) -> Analysed:
    """Run the pipeline over a capture's picture. Raises what the job's error should be."""
    reference = before and _reference(pipeline, before)
    result = pipeline.run(content, should_stop=should_stop, reference=reference)
    if result.error is not None:
        raise _failure(result.error)
    thumbnail = result.derived.get("thumbnail")
    found = result.as_json()
    return Analysed.model_construct(
        result=found,
        observations=result.observations,
        thumbnail=thumbnail.data if thumbnail else None,
        is_blind=_is_blind(found) or not _is_whole(result),
        zones=_zones(result),
    )


def analysed_as_json(
    pipeline: ProcessingPipeline | bytes, content: bytes, before: Before | None
) -> JsonValue:
    """``analysed`` in an executor: what was seen is JSON, and the pipeline may be pickled."""
    if isinstance(pipeline, bytes):
        pipeline = _restored(pipeline)
    seen = analysed(pipeline, content, before)
    told: dict[str, JsonValue] = seen.model_dump(mode="json")
    return told


def _pickled(pipeline: ProcessingPipeline) -> bytes:
    try:
        return pickle.dumps(pipeline)
    except Exception as error:
        raise ConfigError(f"the pipeline cannot be sent to an executor: {error}") from error


@lru_cache(maxsize=2)
def _restored(pipeline: bytes) -> ProcessingPipeline:
    # Kept: a step that loads a model would load it again for every picture.
    restored: ProcessingPipeline = pickle.loads(pipeline)  # noqa: S301  # from our own process
    return restored


def _reference(pipeline: ProcessingPipeline, before: Before) -> Reference | None:
    try:
        gray = pipeline.open(before.content, colour=False).gray
    except ImageError as error:
        logger.warning("capture %s is nothing to compare with: %s", before.id, error)
        return None
    observations = TypeAdapter(tuple[Observation, ...]).validate_python(before.observations)
    return Reference(id=before.id, gray=gray, observations=observations)


def _failure(error: RunError) -> Exception:
    message = f"{error.type}: {error.message}"
    if error.step is None:
        return PictureRefused(message)
    if isinstance(error.cause, RateLimited):
        return StepMustWait(message, error.cause.retry_after_s, error.step)
    if isinstance(error.cause, Permanent):
        return StepGaveUp(message, error.step)
    return StepFailed(message, error.step)


def _trace_of(context: JobContext) -> dict[str, str]:
    trace = context.job.payload.get("trace")
    return {name: str(value) for name, value in trace.items()} if isinstance(trace, dict) else {}


def _step_times(found: dict[str, JsonValue]) -> Iterator[tuple[str, float]]:
    """Name and seconds of each step that a run took."""
    steps = found.get("steps")
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and isinstance(step.get("ms"), int | float):
            yield str(step.get("name")), float(str(step["ms"])) / 1000


def _carried_from(run: Run) -> str | None:
    """The capture whose observations this run took over; None when it made its own."""
    return _reference_of(run.result)


def _reference_of(found: dict[str, JsonValue]) -> str | None:
    change = found.get("change")
    if not isinstance(change, dict) or change.get("changed") is not False:
        return None
    reference = change.get("reference")
    return reference if isinstance(reference, str) else None


def _may_be_compared(found: dict[str, JsonValue]) -> bool:
    """Whether that run saw enough for its observations to be taken over."""
    zones = found.get("zones")
    is_lost = isinstance(zones, dict) and zones.get("known") is False
    return not (_is_blind(found) or found.get("degraded") or is_lost)


def _is_whole(result: Result) -> bool:
    """Whether every step that looks for things could look, and everywhere."""
    zones = result.findings.get(Zones)
    return not result.degraded and (not isinstance(zones, Zones) or zones.is_known)


def _zones(result: Result) -> tuple[str, ...]:
    zones = result.findings.get(Zones)
    return tuple(one.zone.location for one in zones) if isinstance(zones, Zones) else ()


def _is_blind(found: dict[str, JsonValue]) -> bool:
    """Whether the picture is too poor to tell that something is not there."""
    quality = found.get("quality")
    return isinstance(quality, dict) and quality.get("verdict") != Verdict.GOOD
