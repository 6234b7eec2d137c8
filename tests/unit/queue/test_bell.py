"""A bell is heard by all who listen, and by nobody else."""

import math

import anyio
import pytest

from capturekit.queue.bell import Bell

pytestmark = pytest.mark.anyio

PROMPT_S = 10.0


async def never() -> float:
    return math.inf


async def test_all_who_listen_hear_it() -> None:
    bell = Bell()
    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(bell.wait, 60, never)
            await anyio.wait_all_tasks_blocked()
            bell.ring()


async def test_a_ring_while_the_quiet_time_is_asked_for_is_heard() -> None:
    bell = Bell()

    async def ring_meanwhile() -> float:
        bell.ring()
        return math.inf

    with anyio.fail_after(PROMPT_S):
        await bell.wait(60, ring_meanwhile)


async def test_an_earlier_ring_is_not_heard() -> None:
    bell = Bell()
    bell.ring()
    with anyio.move_on_after(0.01) as patience:
        await bell.wait(60, never)
    assert patience.cancelled_caught
