"""The six endpoints that run and watch the processing of captures."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

import anyio
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import CaptureKitError
from capturekit.kit import CaptureKit
from capturekit.queue.base import CancelOutcome, JobState, JobStatus, WorkerInfo
from capturekit.store import Role
from capturekit.times import iso
from capturekit.web.auth import kit_of, require, spend_limit
from capturekit.web.problems import Problem
from capturekit.web.query import Q, Query, parse_query
from capturekit.web.storage import numbers
from capturekit.web.waiting import WaitOptions, wait_until

BLOCK_S: Final = 2.0
"""A block of the stats that takes longer is told as unavailable."""

Count: TypeAlias = Callable[[Request], Awaitable[Mapping[str, object]]]

TASK_URL: Final = "/v1/admin/task-status/{}"


class ProcessOptions(Query):
    """Query of process-capture: ``?sync=``."""

    sync: bool = False


class PendingOptions(ProcessOptions):
    """Query of process-pending: ``?sync=&limit=``."""

    limit: int = Field(default=100, ge=1, le=1000)


async def process_capture(request: Request) -> Response:
    """Queue one capture, or with ``sync=true`` process it before answering."""
    kit, options = await _enter(request, "process-capture", ProcessOptions)
    capture_id = request.path_params["capture_id"]
    job_id, _ = await kit.processing.submit(capture_id)
    body = {"capture_id": capture_id, "task_id": job_id, "sync": options.sync}
    location = {"Location": request.scope.get("root_path", "") + TASK_URL.format(job_id)}
    if not options.sync:
        return JSONResponse(body | {"status": "queued"}, HTTPStatus.ACCEPTED, location)
    status = await _run_inline(kit, job_id)
    done = {"status": "completed", "observation_ids": _observation_ids(status)}
    return JSONResponse(body | done, headers=location)


async def process_pending(request: Request) -> Response:
    """Queue the captures that wait and have no live task, or process them before answering."""
    kit, options = await _enter(request, "process-pending", PendingOptions)
    batch = await kit.processing.submit_pending(limit=options.limit)
    body = {
        "batch_id": batch.batch_id,
        "task_ids": batch.job_ids,
        "pending_count": len(batch.job_ids) + batch.skipped,
        "skipped": batch.skipped,
        "sync": options.sync,
    }
    if not options.sync:
        message = f"{len(batch.job_ids)} captures queued, {batch.skipped} already were"
        return JSONResponse(body | {"message": message}, HTTPStatus.ACCEPTED)
    ended = [await kit.worker.run_job(job_id) for job_id in batch.job_ids]
    succeeded = sum(status.state is JobState.SUCCEEDED for status in ended)
    message = f"{succeeded} of {len(ended)} captures processed, {batch.skipped} were queued already"
    return JSONResponse(body | {"message": message})


async def task_status(request: Request) -> Response:
    """All that is known about a task; ``?wait=10`` answers when it ends, or after 10 s."""
    await require(request, Role.VIEWER)
    kit = kit_of(request)
    options = parse_query(request, WaitOptions)
    task_id = request.path_params["task_id"]
    status = await wait_until(
        lambda: kit.queue.status(task_id), lambda status: status.state.is_final, options.wait
    )
    return JSONResponse(_task(status))


async def cancel_task(request: Request) -> Response:
    """Stop a task and tell what really happened."""
    await require(request, Role.OPERATOR)
    task_id = request.path_params["task_id"]
    outcome = await kit_of(request).processing.cancel(task_id)
    if outcome is CancelOutcome.ALREADY_FINISHED:
        status = await kit_of(request).queue.status(task_id)
        raise Problem(
            HTTPStatus.CONFLICT,
            outcome.value,
            f"the task had already ended as {status.state}",
            members={"task_id": task_id, "outcome": outcome, "state": status.state},
        )
    is_done = outcome is CancelOutcome.CANCELLED
    code = HTTPStatus.OK if is_done else HTTPStatus.ACCEPTED
    return JSONResponse({"task_id": task_id, "status": outcome}, code)


async def stats(request: Request) -> Response:
    """Counts of everything; a block that cannot be counted says so instead of 0."""
    await require(request, Role.VIEWER)
    return JSONResponse({name: await _block(count, request) for name, count in _BLOCKS.items()})


async def queue_info(request: Request) -> Response:
    """What runs where, and what waits."""
    await require(request, Role.VIEWER)
    kit = kit_of(request)
    numbers, workers = await kit.queue.stats(), await kit.queue.workers()
    running = await kit.queue.statuses(states=[JobState.RUNNING], limit=1000)
    by_worker: dict[str, list[str]] = defaultdict(list)
    for job in running:
        by_worker[job.attempts[-1].worker].append(job.id)
    return JSONResponse(
        {
            "active": {"tasks": [_task(job) for job in running], "by_worker": by_worker},
            # Workers take only what they have a free slot for: nothing is ever held in reserve.
            "reserved": {"tasks": [], "by_worker": {}},
            "workers": [_worker(worker) for worker in workers],
            "pool_size": sum(worker.concurrency for worker in workers),
            "depth": numbers.depth,
            "oldest_age_s": numbers.oldest_age_s,
            "is_paused": numbers.is_paused,
            "rates": [rate.model_dump(mode="json") for rate in numbers.rates],
        }
    )


def _worker(worker: WorkerInfo) -> dict[str, object]:
    times = {name: iso(getattr(worker, name)) for name in ("started_at", "heartbeat_at")}
    return worker.model_dump(mode="json") | times


async def _enter(request: Request, limit: str, options: type[Q]) -> tuple[CaptureKit, Q]:
    principal = await require(request, Role.OPERATOR)
    await spend_limit(request, limit, principal)
    return kit_of(request), parse_query(request, options)


async def _run_inline(kit: CaptureKit, job_id: str) -> JobStatus:
    status = await kit.worker.run_job(job_id)
    if status.state is JobState.SUCCEEDED:
        return status
    error = status.error
    cause = f"{error.type}: {error.message}" if error else f"the task is {status.state}"
    raise Problem(
        HTTPStatus.CONFLICT if error is None else HTTPStatus.UNPROCESSABLE_ENTITY,
        "not-processed",
        f"the capture was not processed: {cause}",
        members={"task_id": job_id, "state": status.state, "error": error and error.model_dump()},
    )


def _observation_ids(status: JobStatus) -> object:
    return status.result.get("observation_ids", []) if isinstance(status.result, dict) else []


def _task(status: JobStatus) -> dict[str, object]:
    fields = status.model_dump(mode="json")
    return {
        "task_id": status.id,
        "state": status.state,
        "ready": status.state.is_final,
        "successful": status.state is JobState.SUCCEEDED,
        **{name: fields[name] for name in _TASK_FIELDS},
        "attempts": [
            attempt.model_dump(mode="json")
            | {"started_at": iso(attempt.started_at), "finished_at": iso(attempt.finished_at)}
            for attempt in status.attempts
        ],
        **{name: iso(getattr(status, name)) for name in _TASK_TIMES},
    }


_TASK_FIELDS: Final = ("progress", "result", "error")
_TASK_TIMES: Final = ("queued_at", "started_at", "finished_at", "next_retry_at")


async def _block(count: Count, request: Request) -> dict[str, object]:
    try:
        with anyio.fail_after(BLOCK_S):
            return {"status": "ok", **await count(request)}
    except TimeoutError:
        reason = f"no answer within {BLOCK_S:g} s"
    except CaptureKitError as error:
        reason = type(error).__name__
    return {"status": "unavailable", "reason": reason}


async def _devices(request: Request) -> Mapping[str, object]:
    total, revoked = await kit_of(request).store.devices.counts()
    return {"total": total, "active": total - revoked, "revoked": revoked}


async def _captures(request: Request) -> Mapping[str, object]:
    counts = await kit_of(request).store.captures.counts()
    return {"total": sum(counts.values())} | {state.value: n for state, n in counts.items()}


async def _observations(request: Request) -> Mapping[str, object]:
    counts = await kit_of(request).store.inventory.counts()
    return {"total": counts.observations, "proposals_open": counts.proposals}


async def _inventory(request: Request) -> Mapping[str, object]:
    counts = await kit_of(request).store.inventory.counts()
    return {
        "items": counts.items,
        "items_in_stock": counts.items_in_stock,
        "locations": counts.locations,
        "moves": counts.moves,
    }


async def _queue(request: Request) -> Mapping[str, object]:
    numbers = await kit_of(request).queue.stats()
    return {
        "active_jobs": numbers.depth[JobState.RUNNING],
        "reserved_jobs": 0,
        "total_queued": numbers.depth[JobState.QUEUED] + numbers.depth[JobState.SCHEDULED],
        "oldest_age_s": numbers.oldest_age_s,
        "is_paused": numbers.is_paused,
    }


async def _limits(request: Request) -> Mapping[str, object]:
    limiters = request.app.state.limiters
    pressure = kit_of(request).pressure
    told: dict[str, object] = {name: limiter.describe() for name, limiter in limiters.items()}
    adaptive = dict(pressure.describe()) if pressure else {}
    return {"rules": told, "scale": pressure.scaling() if pressure else 1.0, **adaptive}


async def _storage(request: Request) -> Mapping[str, object]:
    return await numbers(kit_of(request))


_BLOCKS: Final[Mapping[str, Count]] = {
    "devices": _devices,
    "captures": _captures,
    "observations": _observations,
    "inventory": _inventory,
    "queue": _queue,
    "limits": _limits,
    "storage": _storage,
}
