"""SIGINT and SIGTERM as the end of what would go on for ever."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def until_signal() -> AsyncIterator[TaskGroup]:
    """Tasks that are cancelled, as is the block itself, at the first signal or its end."""
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        yield tasks
        tasks.cancel_scope.cancel()
