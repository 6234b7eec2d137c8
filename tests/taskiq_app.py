"""A module as users of taskiq write one, for the workers that tests start.

``TASKIQ_APP_QUEUE`` names the queue, ``TASKIQ_APP_FOLDER`` is where tasks leave a file for
what they did; its name begins with what, and its text is who.
"""

import asyncio
import os
import time
import uuid
from pathlib import Path
from typing import Any

from taskiq import Context, TaskiqDepends, TaskiqMessage, TaskiqMiddleware, TaskiqResult

from capturekit.errors import Permanent
from capturekit.queue.base import RetryPolicy
from capturekit.queue.broker import QueueBroker
from capturekit.queue.urls import open_queue

LEASE_S = 1.5
FOLDER = Path(os.environ["TASKIQ_APP_FOLDER"])


def mark(what: str) -> None:
    """Leave a file that is whole when it is seen."""
    part = FOLDER / f".{uuid.uuid4().hex}"
    part.write_text(str(os.getppid()))
    part.rename(FOLDER / f"{what}.{time.monotonic_ns()}")


class Marks(TaskiqMiddleware):
    """Leaves a file for each hook."""

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        mark(f"pre_send-{message.task_name}")
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        mark(f"pre_execute-{message.task_name}")
        return message

    def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        del result
        mark(f"on_error-{message.task_name}-{type(exception).__name__}")

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        mark(f"post_execute-{message.task_name}-{result.is_err}")


broker = QueueBroker(
    open_queue(os.environ["TASKIQ_APP_QUEUE"]),
    lease_s=LEASE_S,
    retry=RetryPolicy(max_attempts=3, base_s=0.01),
).with_middlewares(Marks())


@broker.task("add")
async def add(one: int, other: int) -> int:
    return one + other


@broker.task("where")
def where(name: str, context: Context = TaskiqDepends()) -> dict[str, Any]:
    """In a thread, with a dependency and the labels it was sent with."""
    return {"name": name, "id": context.message.task_id, "labels": context.message.labels}


@broker.task("fail-twice")
async def fail_twice(context: Context = TaskiqDepends()) -> int:
    if context.message.labels["_attempt"] < 3:
        raise OSError("not yet")
    return int(context.message.labels["_attempt"])


@broker.task("refuse")
async def refuse() -> None:
    raise Permanent("never")


@broker.task("hang")
async def hang(name: str) -> None:
    mark(f"hang-{name}")
    try:
        await asyncio.sleep(120)
    except asyncio.CancelledError:
        mark(f"stopped-{name}")
        raise


@broker.task("nap")
async def nap(nap_s: float) -> int:
    mark("nap")
    await asyncio.sleep(nap_s)
    return os.getppid()


@broker.task("hang-once")
async def hang_once(name: str, context: Context = TaskiqDepends()) -> int:
    attempt = int(context.message.labels["_attempt"])
    mark(f"hang-once-{name}-{attempt}")
    if attempt == 1:
        await asyncio.sleep(120)
    return attempt
