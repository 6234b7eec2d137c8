"""Jobs in a SQLite file: they survive the process, and are tried again when they fail.

``python background_jobs.py``
"""

import anyio
from pydantic import JsonValue

from capturekit import Job, RetryPolicy, Worker
from capturekit.queue.urls import open_queue
from capturekit.worker import JobContext


async def resize(context: JobContext) -> JsonValue:
    """Fail the first time, as a network does."""
    if context.attempt == 1:
        raise ConnectionError("the picture's server does not answer")
    await context.progress(0.5)
    return {"picture": context.job.payload["picture"]}


async def main() -> None:
    """Submit a job twice, and let a worker do it once."""
    async with open_queue("sqlite:///jobs.db") as queue:
        job = Job(
            id="resize-17",
            kind="resize",
            payload={"picture": "17.jpg"},
            retry=RetryPolicy(max_attempts=3, base_s=0.1),
        )
        await queue.submit(job)
        await queue.submit(job)  # the same id: nothing changes
        worker = Worker(queue, {"resize": resize})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            status = await queue.status(job.id)
            while not status.state.is_final:
                await anyio.sleep(0.05)
                status = await queue.status(job.id)
            worker.stop()
        for attempt in status.attempts:
            print(attempt.number, attempt.error.message if attempt.error else "succeeded")
        print(status.state, status.result)


if __name__ == "__main__":
    anyio.run(main)
