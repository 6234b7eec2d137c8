"""Outgoing calls, and any async function, held to a limit: they wait their turn."""

import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio

from capturekit.ratelimit.decision import Decision, RateLimitExceeded
from capturekit.ratelimit.limiter import RateLimiter

P = ParamSpec("P")
R = TypeVar("R")


async def acquire(
    limiter: RateLimiter,
    key: str,
    cost: int = 1,
    *,
    wait_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> Decision:
    """Spend, after waiting up to ``wait_s`` seconds for it.

    Raises RateLimitExceeded when the limit asks for a longer wait, at once: nobody waits in
    vain. Those who wait for one key are not in a queue: whoever asks first when there is room
    has it. From a worker thread of anyio: ``anyio.from_thread.run(acquire, limiter, key)``.
    """
    until = clock() + wait_s
    while True:
        decision = await limiter.hit(key, cost)
        if decision.allowed:
            return decision
        if cost > decision.limit or clock() + decision.retry_after_s > until:
            raise RateLimitExceeded(decision)
        await sleep(decision.retry_after_s)


def limit(
    limiter: RateLimiter | str,
    *,
    key: Callable[..., str] | str = "all",
    cost: Callable[..., int] | int = 1,
    wait_s: float = 0.0,
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Decorate an async function: each call spends first, as ``acquire`` does.

    Args:
        limiter: A RateLimiter, or its rules.
        key: The account of a call, or a function of its arguments that names it.
        cost: Of a call, or a function of its arguments.
        wait_s: Longest wait; then the call raises RateLimitExceeded and was not made.
    """

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"limit() is for async functions; {function!r} is none")
        # Named after the function, so that the error of a refusal says what was refused.
        chosen = RateLimiter(limiter, name=_name(function)) if isinstance(limiter, str) else limiter

        @functools.wraps(function)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            account = key if isinstance(key, str) else key(*args, **kwargs)
            price = cost if isinstance(cost, int) else cost(*args, **kwargs)
            await acquire(chosen, account, price, wait_s=wait_s)
            return await function(*args, **kwargs)

        return limited

    return decorate


def _name(function: Callable[..., object]) -> str:
    name = getattr(function, "__qualname__", "")
    return name if name and name.isascii() and name.isprintable() else "default"
