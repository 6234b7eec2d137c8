"""Workers beside the demo's server that are killed while they work, and replaced.

A kill is SIGKILL: the worker's job is found by its lease and done by another. Stock must not show
it.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import anyio
from anyio.abc import Process

from capturekit.demo.admin import AdminClient
from capturekit.demo.server import RunningServer, clean_environment

WORKERS: Final = 2

LOOK_S: Final = 0.03
"""Seconds between looks for a worker that holds a job."""

IDLE_S: Final = 2.0
"""After so long without one, an idle worker is killed."""

REST_S: Final = 1.0
"""Between two kills; a worker starts in about that time."""

SETTINGS: Final[Mapping[str, str]] = {
    # The server itself does no work, so that all of it is done by who may be killed.
    "CAPTUREKIT_CONCURRENCY": "0",
    # Soon found, and never given up: each kill takes one of the picture's attempts.
    "CAPTUREKIT_JOB_LEASE_S": "2",
    "CAPTUREKIT_MAX_ATTEMPTS": "50",
}


class Chaos(StrEnum):
    """What goes wrong on purpose."""

    KILL_WORKER = "kill-worker"


class Crew:
    """The workers of a server."""

    def __init__(self, server: RunningServer) -> None:
        self.kills = 0
        """Workers killed so far."""
        self._server = server
        self._workers: dict[int, Process] = {}

    async def hire(self) -> None:
        """Start one more worker."""
        data = str(self._server.data_dir)
        process = await anyio.open_process(
            [sys.executable, "-m", "capturekit", "worker", "--data", data, "-c", "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._server.data_dir,
            env={**clean_environment(), **SETTINGS},
            # Ctrl-C is for the demo alone.
            start_new_session=True,
        )
        self._workers[process.pid] = process

    async def suffer(self, admin: AdminClient, seconds: float, stop: anyio.Event) -> None:
        """Be killed again and again for so long, or until ``stop``: a worker with a job first."""
        with anyio.move_on_after(seconds):
            while not stop.is_set():
                await self._kill(await self._victim(admin))
                await self.hire()
                await anyio.sleep(REST_S)

    async def dismiss(self) -> None:
        """Kill all that are left."""
        for pid in list(self._workers):
            await self._end(pid)

    async def _victim(self, admin: AdminClient) -> int:
        with anyio.move_on_after(IDLE_S):
            while True:
                if busy := [pid for pid in await admin.busy_workers() if pid in self._workers]:
                    return busy[0]
                await anyio.sleep(LOOK_S)
        return next(iter(self._workers))

    async def _kill(self, pid: int) -> None:
        await self._end(pid)
        self.kills += 1

    async def _end(self, pid: int) -> None:
        process = self._workers.pop(pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def crew_of(server: RunningServer) -> AsyncIterator[Crew]:
    """A crew at work; none of it is left at the end."""
    crew = Crew(server)
    try:
        for _ in range(WORKERS):
            await crew.hire()
        yield crew
    finally:
        with anyio.CancelScope(shield=True):
            await crew.dismiss()
