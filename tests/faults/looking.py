"""Questions that tests ask until the answer is right, or too much time has gone by."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from capturekit.errors import StorageError
from capturekit.queue.base import JobState, JobStatus, QueueBackend
from tests.faults.effects import Effects, Verdict, opened

WAIT_S = 20.0


async def until(is_so: Callable[[], Awaitable[bool]], what: str, within_s: float = WAIT_S) -> float:
    """Ask again and again; the seconds that it took."""
    begun = time.monotonic()
    while not await is_so():
        assert time.monotonic() - begun < within_s, f"not within {within_s:g} s: {what}"
        await anyio.sleep(0.01)
    return time.monotonic() - begun


async def ended(queue: QueueBackend, job_id: str, within_s: float = WAIT_S) -> JobStatus:
    """The job once it has ended. Storage that fails meanwhile is asked again."""

    async def has_ended() -> bool:
        try:
            return (await queue.status(job_id)).state.is_final
        except StorageError:
            return False

    await until(has_ended, f"{job_id} has ended", within_s)
    return await queue.status(job_id)


async def in_state(queue: QueueBackend, job_id: str, state: JobState) -> None:
    """Wait until the job is in this state."""

    async def is_there() -> bool:
        return (await queue.status(job_id)).state is state

    await until(is_there, f"{job_id} is {state}")


async def started(folder: Path, job_id: str, attempt: int = 1) -> None:
    """Wait until a worker has begun with this attempt, or a later one."""
    with opened(folder / "effects.db") as effects:

        async def has_started() -> bool:
            return any(row.job == job_id and row.attempt >= attempt for row in effects.starts())

        await until(has_started, f"attempt {attempt} of {job_id} starts")


def verdicts(folder: Path, job_id: str) -> list[tuple[int, Verdict]]:
    """Attempt and verdict of each effect of the job."""
    with opened(folder / "effects.db") as effects:
        return _of(effects, job_id)


def _of(effects: Effects, job_id: str) -> list[tuple[int, Verdict]]:
    return [(row.attempt, Verdict(row.verdict)) for row in effects.effects() if row.job == job_id]


def go_on(folder: Path, job_id: str) -> None:
    """Let a job of kind ``hang`` end."""
    (folder / f"{job_id}.go").touch()
