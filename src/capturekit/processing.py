"""Captures and the jobs that process them: submit, run, cancel, and find what was left behind.

The queue owns a job's life, the store a capture's. A job's id follows from the capture, the
pipeline's fingerprint and the attempt series, so submitting again is harmless; and because
every capture that waits can be found in the store, no job can be lost for good.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from pydantic import JsonValue, TypeAdapter

from capturekit.blobs import Blobs
from capturekit.errors import (
    ImageError,
    LeaseLost,
    Permanent,
    RateLimited,
    Retryable,
    StorageError,
    Unknown,
    UnknownJob,
)
from capturekit.frame import Observation, Reference
from capturekit.picture import Pixels
from capturekit.pipeline import ProcessingPipeline, Result, RunError
from capturekit.queue.base import (
    CancelOutcome,
    Job,
    JobState,
    JobStatus,
    QueueBackend,
    RetryPolicy,
)
from capturekit.steps.quality import Verdict
from capturekit.steps.zones import Zones
from capturekit.store import Capture, CaptureState, Run, RunRecord, Store
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


class PendingBatch(NamedTuple):
    """What ``process_pending`` did."""

    batch_id: str
    job_ids: list[str]
    skipped: int


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How a capture's job is tried."""

    max_attempts: int = 3
    timeout_s: float = 300.0


class Processing:
    """Brings captures through the pipeline by way of the queue."""

    def __init__(
        self,
        store: Store,
        queue: QueueBackend,
        blobs: Blobs,
        pipeline: ProcessingPipeline,
        *,
        limits: JobLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._queue = queue
        self._blobs = blobs
        self._pipeline = pipeline
        self._limits = limits or JobLimits()
        self._clock = clock
        self._submitting = anyio.Lock()

    def job(self, capture: Capture, *, batch: str | None = None) -> Job:
        """The job that processes this capture in its present attempt series."""
        return Job(
            id=f"{capture.id}.{self._pipeline.fingerprint[:12]}.{capture.series}",
            kind=JOB_KIND,
            payload={"capture_id": capture.id, "series": capture.series},
            priority=BACKFILL_PRIORITY if batch else 0,
            retry=RetryPolicy(max_attempts=self._limits.max_attempts),
            timeout_s=self._limits.timeout_s,
            batch=batch,
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
            job = self.job(capture, batch=batch)
            await self._queue.submit(job)
            return job.id, True

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

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel a job; its capture waits until someone asks for it again.

        Raises UnknownJob.
        """
        return await self._queue.cancel(job_id)

    async def handle(self, context: JobContext) -> JsonValue:
        """Run one job: the handler of ``JOB_KIND``. Its effect and its end are one transaction."""
        capture_id = str(context.job.payload["capture_id"])
        series = int(str(context.job.payload["series"]))
        captures = self._store.captures
        try:
            await captures.start(capture_id, series, context.attempt)
            record = await self._run(await captures.get(capture_id), context)
            await captures.finish(capture_id, series, context.attempt, record)
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

    async def _run(self, capture: Capture, context: JobContext) -> RunRecord:
        content = await self._blobs.get(capture.sha256)
        reference = await self._reference(capture) if self._pipeline.wants_reference else None
        started_at = self._clock()
        result = await self._pipeline.arun(
            content, should_stop=context.should_stop, reference=reference
        )
        if result.error is not None:
            raise _failure(result.error)
        found = result.as_json()
        return RunRecord(
            fingerprint=result.fingerprint,
            started_at=started_at,
            finished_at=self._clock(),
            result=found,
            observations=result.observations,
            thumbnail=await self._keep_thumbnail(result),
            is_blind=_is_blind(found) or not _is_whole(result),
            zones=_zones(result),
        )

    async def _reference(self, capture: Capture) -> Reference | None:
        """The device's last picture before this one that was analysed in full.

        None when there is none, or it was too poor, or its picture is lost: then this one is
        analysed in full.
        """
        before = await self._store.captures.run_before(capture, self._pipeline.fingerprint)
        if before is not None and (analysed := _carried_from(before[1])) is not None:
            # That run was itself spared: what it was compared with is what still holds.
            before = await self._analysed(analysed)
        if before is None or not _may_be_compared(before[1].result):
            return None
        try:
            content = await self._blobs.get(before[0].sha256)
            gray = await anyio.to_thread.run_sync(self._luma, content)
        except (Unknown, StorageError, ImageError) as error:
            logger.warning("capture %s has nothing to compare with: %s", capture.id, error)
            return None
        seen = before[1].result.get("observations")
        return Reference(
            id=before[0].id,
            gray=gray,
            observations=TypeAdapter(tuple[Observation, ...]).validate_python(seen),
        )

    def _luma(self, content: bytes) -> Pixels:
        return self._pipeline.open(content, colour=False).gray

    async def _analysed(self, capture_id: str) -> tuple[Capture, Run] | None:
        captures = self._store.captures
        run = await captures.current_run(capture_id)
        if run is None or run.fingerprint != self._pipeline.fingerprint:
            return None
        return await captures.get(capture_id), run

    async def _keep_thumbnail(self, result: Result) -> str | None:
        thumbnail = result.derived.get("thumbnail")
        return await self._blobs.put(thumbnail.data) if thumbnail else None

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

        Also settles captures whose job ended while nobody could tell them. Returns how many
        were submitted. Harmless at any time.
        """
        submitted = 0
        after: str | None = None
        while page := await self._store.captures.due(SWEEP_PAGE, after=after):
            for capture in page:
                status = await self._known(self.job(capture).id)
                if status is None:
                    await self._queue.submit(self.job(capture))
                    submitted += 1
                elif status.state.is_final:
                    await self._settle(capture, status)
            after = page[-1].id
        return submitted

    async def _known(self, job_id: str) -> JobStatus | None:
        try:
            return await self._queue.status(job_id)
        except UnknownJob:
            return None


def _failure(error: RunError) -> Exception:
    message = f"{error.type}: {error.message}"
    if error.step is None:
        return PictureRefused(message)
    if isinstance(error.cause, RateLimited):
        return StepMustWait(message, error.cause.retry_after_s, error.step)
    if isinstance(error.cause, Permanent):
        return StepGaveUp(message, error.step)
    return StepFailed(message, error.step)


def _carried_from(run: Run) -> str | None:
    """The capture whose observations this run took over; None when it made its own."""
    change = run.result.get("change")
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
