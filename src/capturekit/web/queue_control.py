"""The levers on the queue: pause, resume, drain, retry what failed, resize a worker."""

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.queue.base import MAX_CONCURRENCY, JobState, QueueStats
from capturekit.store import Role
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Name, parse_query
from capturekit.web.waiting import WaitOptions, wait_until


class QueueOptions(BaseModel):
    """Query: ``?queue=``; all queues when it is not given."""

    queue: Annotated[Name | None, Field(max_length=100)] = None


class RetryOptions(QueueOptions):
    """Query of retry-failed: ``?queue=&batch=``."""

    batch: Name | None = None


class ResizeOptions(BaseModel):
    """Query of resize: ``?concurrency=``."""

    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)]


async def pause_queue(request: Request) -> Response:
    """Hand out no more tasks, or none of one queue; those that run go on."""
    await require(request, Role.ADMIN)
    queue = kit_of(request).queue
    await queue.pause(parse_query(request, QueueOptions).queue)
    return JSONResponse(_state(await queue.stats()))


async def resume_queue(request: Request) -> Response:
    """Hand out tasks again: of one queue, or of all."""
    await require(request, Role.ADMIN)
    queue = kit_of(request).queue
    await queue.resume(parse_query(request, QueueOptions).queue)
    return JSONResponse(_state(await queue.stats()))


async def drain_queue(request: Request) -> Response:
    """Pause all queues, and with ``?wait=30`` answer when nothing runs, or after 30 s."""
    await require(request, Role.ADMIN)
    options, queue = parse_query(request, WaitOptions), kit_of(request).queue
    await queue.pause()
    numbers = await wait_until(
        queue.stats, lambda numbers: not numbers.depth[JobState.RUNNING], options.wait
    )
    return JSONResponse(_state(numbers))


async def retry_failed_tasks(request: Request) -> Response:
    """Queue failed tasks again, of one queue or batch or all, each with all its attempts."""
    await require(request, Role.ADMIN)
    options = parse_query(request, RetryOptions)
    count = await kit_of(request).queue.retry_failed(queue=options.queue, batch=options.batch)
    return JSONResponse({"retried": count})


async def resize_worker(request: Request) -> Response:
    """Ask a worker to run so many tasks at once, from now until it ends."""
    await require(request, Role.ADMIN)
    concurrency = parse_query(request, ResizeOptions).concurrency
    worker_id = request.path_params["worker_id"]
    await kit_of(request).queue.resize(worker_id, concurrency)
    return JSONResponse({"worker_id": worker_id, "concurrency": concurrency})


def _state(numbers: QueueStats) -> dict[str, object]:
    return {
        "is_paused": numbers.is_paused,
        "paused": numbers.paused,
        "is_drained": not numbers.depth[JobState.RUNNING],
        "depth": numbers.depth,
    }
