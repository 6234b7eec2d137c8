"""Outgoing calls that wait their turn."""

from contextlib import suppress

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from capturekit.ratelimit import MemoryStorage, RateLimiter, RateLimitExceeded, acquire, limit

pytestmark = pytest.mark.anyio


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def limiter(self, rules: str) -> RateLimiter:
        return RateLimiter(rules, name="model", storage=MemoryStorage(clock=self))


async def test_a_call_that_is_allowed_waits_for_nothing() -> None:
    time = Time()
    decision = await acquire(time.limiter("2/minute"), "a", 2, clock=time, sleep=time.sleep)
    assert (decision.allowed, decision.remaining, time.slept_s) == (True, 0, [])


async def test_a_call_waits_as_long_as_the_limit_asks_and_no_longer() -> None:
    time = Time()
    limiter = time.limiter("1/minute")
    for _ in range(3):
        await acquire(limiter, "a", wait_s=60, clock=time, sleep=time.sleep)
    assert time.slept_s == [60.0, 60.0]


async def test_nobody_waits_in_vain() -> None:
    time = Time()
    limiter = time.limiter("1/minute")
    await limiter.hit("a")
    with pytest.raises(RateLimitExceeded) as caught:
        await acquire(limiter, "a", wait_s=59.9, clock=time, sleep=time.sleep)
    assert (time.slept_s, caught.value.decision.retry_after_s) == ([], 60.0)


async def test_a_cost_that_never_fits_is_refused_at_once() -> None:
    time = Time()
    with pytest.raises(RateLimitExceeded):
        await acquire(time.limiter("1/minute"), "a", 2, wait_s=1e9, clock=time, sleep=time.sleep)
    assert time.slept_s == []


async def test_one_who_finds_the_room_taken_again_waits_within_the_same_bound() -> None:
    time = Time()
    limiter = time.limiter("1/minute")
    await limiter.hit("a")

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        await limiter.hit("a")

    with pytest.raises(RateLimitExceeded):
        await acquire(limiter, "a", wait_s=100, clock=time, sleep=sleep)
    assert time.slept_s == [60.0]


async def test_a_worker_thread_acquires_through_its_event_loop() -> None:
    limiter = RateLimiter("1/minute")
    decision = await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(acquire, limiter, "a"))
    assert decision.remaining == 0


async def test_a_decorated_function_is_called_as_often_as_its_limit_says() -> None:
    @limit("2/minute")
    async def ask(text: str, *, loud: bool = False) -> str:
        return text.upper() if loud else text

    assert (await ask("a"), await ask("a", loud=True)) == ("a", "A")
    with pytest.raises(RateLimitExceeded, match="ask"):
        await ask("a")


@pytest.mark.parametrize(("wait_s", "waits"), [(61.0, True), (0.0, False)])
async def test_a_decorated_function_waits_when_it_may(wait_s: float, *, waits: bool) -> None:
    @limit("1/minute", wait_s=wait_s)
    async def ask() -> None:
        pass

    await ask()
    with anyio.move_on_after(0.01) as patience, suppress(RateLimitExceeded):
        await ask()
    assert patience.cancelled_caught == waits


async def test_arguments_choose_account_and_cost() -> None:
    limiter = RateLimiter("10/minute")

    def account(model: str, tokens: int) -> str:
        return f"{model}{tokens - tokens}"

    def price(model: str, tokens: int) -> int:
        return tokens + len(model) - len(model)

    @limit(limiter, key=account, cost=price)
    async def ask(model: str, tokens: int) -> str:
        return f"{model} {tokens}"

    assert await ask("small", tokens=4) == "small 4"
    await ask("large", 10)
    assert (await limiter.peek("small0")).remaining == 6
    with pytest.raises(RateLimitExceeded):
        await ask("large", 1)


async def test_a_refused_call_is_not_made() -> None:
    made = []

    @limit("0/minute")
    async def ask() -> None:
        made.append(1)

    with pytest.raises(RateLimitExceeded):
        await ask()
    assert made == []


def test_a_function_that_is_not_async_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="for async functions"):
        limit("1/minute")(len)  # type: ignore[arg-type]  # the caller's mistake
