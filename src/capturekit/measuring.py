"""What is measured of a kit at work, and how it gets to where all processes' sums are kept."""

import logging
import time
from typing import Final

import anyio
from pydantic import JsonValue

from capturekit.errors import (
    CaptureKitError,
    Conflict,
    ImageError,
    LeaseLost,
    NotAuthorized,
    Permanent,
    QueueFull,
    RateLimited,
    StorageError,
)
from capturekit.logs import about
from capturekit.store import Tallies
from capturekit.telemetry import Telemetry
from capturekit.worker import Handler, JobContext

logger = logging.getLogger("capturekit.measuring")

FLUSH_S: Final = 5.0
"""Seconds between two times that a process writes down what it counted."""

_REFUSED: Final = (
    (NotAuthorized, "unauthorized"),
    (Conflict, "conflict"),
    (ImageError, "damaged"),
    (QueueFull, "queue_full"),
    (StorageError, "unavailable"),
)
"""What becomes of an upload, by the error that it ended with."""


def outcome_of(error: CaptureKitError) -> str:
    """One word for why an upload was refused."""
    return next((word for kind, word in _REFUSED if isinstance(error, kind)), "refused")


def measured(handler: Handler, telemetry: Telemetry) -> Handler:
    """The same handler, of which each attempt is counted and timed."""

    async def handle(context: JobContext) -> JsonValue:
        started, outcome = time.perf_counter(), "cancelled"
        try:
            with about(job=context.job.id):
                answer = await handler(context)
            outcome = "succeeded"
        except RateLimited:
            outcome = "put_off"
            raise
        except (Permanent, ImageError, LeaseLost):
            outcome = "failed"
            raise
        except Exception:
            outcome = "erred"
            raise
        finally:
            telemetry.count("jobs", context.job.queue, outcome)
            took_s = time.perf_counter() - started
            telemetry.time("job_duration_seconds", took_s, context.job.queue)
        return answer

    return handle


async def flush(telemetry: Telemetry, tallies: Tallies) -> None:
    """Write down what was counted. Where storage fails, it is kept for the next time."""
    taken = telemetry.take()
    try:
        await tallies.add(taken)
    except BaseException:
        telemetry.give_back(taken)
        raise


async def flush_for_ever(telemetry: Telemetry, tallies: Tallies, *, counts_ledger: bool) -> None:
    """Write down every few seconds, and once more when it is cancelled.

    With ``counts_ledger`` also what the ledger says, of which one process does the counting.
    """
    try:
        while True:
            await anyio.sleep(FLUSH_S)
            try:
                await flush(telemetry, tallies)
                if counts_ledger:
                    while await tallies.count_ledger():
                        pass
            except StorageError as error:
                logger.info("what was counted is written down later: %s", error)
    finally:
        with anyio.move_on_after(2, shield=True):
            try:
                await flush(telemetry, tallies)
            except StorageError as error:
                logger.info("the last counts are lost: %s", error)
