"""What ``taskiq worker capturekit.worker:broker`` runs: captures, handed out by taskiq.

The kit is opened as by any other worker, but its own loop stays still.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import JsonValue

from capturekit.kit import CaptureKit, Role
from capturekit.processing import JOB_KIND
from capturekit.queue.base import JobStatus, QueueBackend
from capturekit.queue.broker import QueueBroker, current_delivery
from capturekit.settings import Settings
from capturekit.worker import JobContext


def make_broker(settings: Settings | None = None) -> QueueBroker:
    """A broker of the queue that the settings name, with a task for each kind of our jobs.

    Nothing is opened before its ``startup``, which raises what ``CaptureKit`` does. Where it
    does not work but only sends, it opens the kit as a command does. Raises ConfigError.
    """
    settings = settings or Settings.load()
    kits: list[CaptureKit] = []

    @asynccontextmanager
    async def open_kit() -> AsyncIterator[QueueBackend]:
        role = Role.WORKER if broker.is_worker_process else Role.COMMAND
        async with CaptureKit(settings, role=role, is_working=False) as kit:
            kits.append(kit)
            yield kit.queue

    async def process_capture(**payload: JsonValue) -> JsonValue:
        del payload  # The job has it, too.
        delivery = current_delivery()
        context = JobContext(kits[-1].queue, delivery.lease, delivery.stop)
        return await kits[-1].processing.handle(context)

    async def settle(job: JobStatus) -> None:
        await kits[-1].processing.settle(job)

    broker = QueueBroker(
        open_kit(),
        queues=settings.queues,
        concurrency=max(1, settings.concurrency),
        lease_s=settings.job_lease_s,
        after_failure=settle,
    )
    broker.register_task(process_capture, task_name=JOB_KIND)
    return broker
