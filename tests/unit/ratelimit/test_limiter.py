"""What a RateLimiter takes, refuses and tells."""

import re

import pytest

from capturekit.ratelimit import Decision, MemoryStorage, RateLimiter, RateLimitExceeded, tightest

pytestmark = pytest.mark.anyio


def stopped_clock() -> float:
    return 1000.0


def limiter(rules: str, name: str = "default") -> RateLimiter:
    return RateLimiter(rules, name=name, storage=MemoryStorage(clock=stopped_clock))


async def test_a_decision_says_all_that_a_caller_needs() -> None:
    ingest = limiter("2/minute", "ingest")
    first = await ingest.hit("camera")
    assert first == Decision(
        allowed=True,
        name="ingest",
        limit=2,
        window_s=60.0,
        remaining=1,
        reset_s=60.0,
        retry_after_s=0.0,
        cost=1,
    )


async def test_a_refused_cost_spends_nothing() -> None:
    uploads = limiter("10/minute")
    await uploads.hit("a", 8)
    refused = await uploads.hit("a", 3)
    assert (refused.allowed, refused.remaining) == (False, 2)
    assert (await uploads.hit("a", 2)).allowed


async def test_a_peek_spends_nothing() -> None:
    uploads = limiter("1/minute")
    peeks = [await uploads.peek("a") for _ in range(3)]
    assert all(peek.allowed and peek.remaining == 1 for peek in peeks)
    assert (await uploads.hit("a")).allowed
    assert not (await uploads.peek("a")).allowed


async def test_a_reset_gives_a_key_its_quota_back_and_no_other() -> None:
    uploads = limiter("1/minute")
    for key in ("a", "b"):
        await uploads.hit(key)
    await uploads.reset("a")
    assert (await uploads.hit("a")).allowed
    assert not (await uploads.hit("b")).allowed


async def test_keys_do_not_share_a_quota() -> None:
    uploads = limiter("1/minute")
    assert (await uploads.hit("a")).allowed
    assert (await uploads.hit("b")).allowed


async def test_limiters_of_different_names_share_a_storage_but_no_quota() -> None:
    storage = MemoryStorage(clock=stopped_clock)
    first = RateLimiter("1/minute", name="first", storage=storage)
    second = RateLimiter("1/minute", name="second", storage=storage)
    assert (await first.hit("a")).allowed
    assert (await second.hit("a")).allowed


async def test_the_rule_with_the_least_left_speaks() -> None:
    uploads = limiter("20/minute; 5/hour", "ingest")
    decision = await uploads.hit("a")
    assert (decision.name, decision.limit, decision.remaining) == ("ingest-3600s", 5, 4)


async def test_of_rules_that_refuse_the_longest_wait_speaks() -> None:
    uploads = limiter("1/minute; 1/hour")
    await uploads.hit("a")
    assert (await uploads.hit("a")).retry_after_s == 3600.0


async def test_a_rule_that_can_never_admit_the_cost_speaks_first() -> None:
    uploads = limiter("2/minute; 10/hour")
    for _ in range(2):
        await uploads.hit("a")
    decision = await uploads.hit("a", 9)
    assert (decision.allowed, decision.limit, decision.retry_after_s) == (False, 2, 60.0)


async def test_of_two_rules_with_one_window_the_lower_counts() -> None:
    assert (await limiter("9/minute; 3 per 60 seconds").hit("a")).limit == 3


async def test_a_limit_of_zero_refuses_everything_and_names_a_wait() -> None:
    decision = await limiter("0/minute").hit("a")
    assert (decision.allowed, decision.remaining, decision.retry_after_s) == (False, 0, 60.0)


async def test_a_cost_over_the_limit_is_refused_with_the_window_as_wait() -> None:
    decision = await limiter("5/minute").hit("a", 6)
    assert (decision.allowed, decision.retry_after_s, decision.remaining) == (False, 60.0, 5)
    assert decision.reset_s == 60.0


@pytest.mark.parametrize("cost", [0, -1])
async def test_a_cost_under_one_is_a_value_error(cost: int) -> None:
    uploads = limiter("5/minute")
    for ask in (uploads.hit, uploads.peek):
        with pytest.raises(ValueError, match="at least 1"):
            await ask("a", cost)


async def test_a_cost_that_is_no_integer_is_a_type_error_and_spends_nothing() -> None:
    uploads = limiter("5/minute")
    with pytest.raises(TypeError):
        await uploads.hit("a", 1.5)  # type: ignore[arg-type]  # the caller's mistake
    assert (await uploads.peek("a")).remaining == 5


@pytest.mark.parametrize("rules", ["", "often", "-1/minute", "20/fortnight", "20/minute;", "20"])
def test_a_rule_that_cannot_be_read_is_quoted_beside_one_that_can(rules: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{rules!r} is not a rate limit")) as caught:
        RateLimiter(rules)
    assert "'20/minute'" in str(caught.value)


def test_an_amount_that_no_header_can_hold_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="an amount or a window over"):
        RateLimiter("1000000000000000/minute")


@pytest.mark.parametrize("name", ["", "küche", "a\nb"])
def test_a_name_that_no_header_can_hold_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        RateLimiter("1/minute", name=name)


async def test_a_scale_that_falls_counts_what_was_spent_before() -> None:
    scale = [1.0]
    uploads = RateLimiter("20/minute", scale=lambda: scale[0])
    await uploads.hit("a", 12)
    scale[0] = 0.5
    refused = await uploads.hit("a")
    assert (refused.allowed, refused.limit, refused.remaining) == (False, 10, 0)
    scale[0] = 1.0
    assert (await uploads.hit("a")).remaining == 7


@pytest.mark.parametrize(
    ("rules", "scale", "limit"),
    [("1/minute", 0.5, 1), ("5/minute", 0.5, 2), ("5/minute", 0.0, 0), ("0/minute", 0.5, 0)],
)
async def test_a_scale_rounds_down_but_not_to_nothing(rules: str, scale: float, limit: int) -> None:
    assert (await RateLimiter(rules, scale=lambda: scale).peek("a")).limit == limit


@pytest.mark.parametrize("scale", [-0.1, 1.1, float("nan"), float("inf")])
async def test_a_scale_out_of_range_is_a_value_error(scale: float) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        await RateLimiter("1/minute", scale=lambda: scale).hit("a")


async def test_a_limiter_describes_itself() -> None:
    uploads = RateLimiter("1/minute", name="ingest", scale=lambda: 0.5)
    for key in ("a", "a", "b"):
        await uploads.hit(key)
    await uploads.peek("c")
    assert uploads.describe() == {
        "name": "ingest",
        "rules": "1/minute",
        "scale": 0.5,
        "keys": 2,
        "allowed": 2,
        "refused": 1,
        "server": None,
    }


async def test_a_url_chooses_the_storage() -> None:
    uploads = RateLimiter.from_url("memory://", "1/minute", name="ingest")
    assert (await uploads.hit("a")).name == "ingest"


def test_a_url_of_another_storage_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="rate limits are kept in memory://, redis://") as caught:
        RateLimiter.from_url("memcached://:secret@host", "1/minute")
    assert "secret" not in str(caught.value)


async def test_the_error_of_a_refusal_says_which_limit_and_when() -> None:
    decision = await limiter("0/minute", "ingest").hit("a")
    error = RateLimitExceeded(decision)
    assert error.decision is decision
    assert str(error) == "over the limit 'ingest' of 0 in 60 s; try again in 60.000 s"


async def test_a_refusal_speaks_for_all_decisions() -> None:
    refused = await limiter("0/minute", "closed").hit("a")
    allowed = await limiter("1/minute", "nearly").hit("a")
    roomy = await limiter("9/minute", "roomy").hit("a")
    assert tightest([roomy, refused, allowed]) is refused
    assert tightest([roomy, allowed]) is allowed
