"""Long polls: answer when something is over, or when the client's patience is."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
from pydantic import Field

from capturekit.web.query import Query

T = TypeVar("T")

MAX_WAIT_S: Final = 30.0
"""Longest a long poll holds a connection."""
FIRST_PAUSE_S: Final = 0.005
LAST_PAUSE_S: Final = 0.1


class WaitOptions(Query):
    """Query of whatever can be waited for: ``?wait=``, in seconds."""

    wait: float = Field(default=0.0, ge=0.0, le=MAX_WAIT_S)


async def wait_until(
    ask: Callable[[], Awaitable[T]], is_over: Callable[[T], bool], wait_s: float
) -> T:
    """Ask until it is over, at the longest ``wait_s`` seconds; the newest answer."""
    answer = await ask()
    pause_s = FIRST_PAUSE_S
    with anyio.move_on_after(wait_s):
        while not is_over(answer):
            await anyio.sleep(pause_s)
            answer = await ask()
            pause_s = min(1.3 * pause_s, LAST_PAUSE_S)
    return answer
