"""Whom a request counts for, and what it costs."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capturekit.ratelimit import (
    ClientAddress,
    both,
    by_address,
    by_credential,
    by_header,
    constant,
    content_length_cost,
    first_of,
)
from capturekit.ratelimit.asgi import Scope
from capturekit.ratelimit.keys import Key, name_by

pytestmark = pytest.mark.anyio


def request(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "client": ("203.0.113.9", 5000), "headers": list(headers)}


def says(name: str | None) -> Key:
    return lambda _: name


def says_later(name: str | None) -> Key:
    async def key(_: Scope) -> str | None:
        return name

    return key


async def test_an_address_is_seen_through_the_proxies_that_are_trusted() -> None:
    forwarded = request((b"x-forwarded-for", b"192.0.2.1"))
    assert await name_by(by_address(), forwarded) == "ip:203.0.113.9"
    assert await name_by(by_address(["203.0.113.0/24"]), forwarded) == "ip:192.0.2.1"
    only_forwarded = ClientAddress(["203.0.113.9"], header="Forwarded")
    assert await name_by(by_address(only_forwarded), forwarded) == "ip:203.0.113.9"


async def test_a_header_is_a_key_whatever_its_case_and_none_where_it_is_missing() -> None:
    key = by_header("X-Api-Key")
    assert await name_by(key, request((b"x-api-key", b"abc"))) == "header:x-api-key:abc"
    assert await name_by(key, request((b"x-api-key", b""))) is None
    assert await name_by(key, request()) is None


async def test_a_long_claim_takes_no_more_memory_than_a_short_one() -> None:
    key = by_header("x-api-key")
    long = [await name_by(key, request((b"x-api-key", b"a" * size))) for size in (65, 60_000)]
    assert len(set(long)) == 2
    assert all(len(name or "") < 100 for name in long)


@pytest.mark.parametrize("make", [says, says_later])
async def test_a_credential_counts_for_the_name_that_was_verified(make: type) -> None:
    assert await name_by(by_credential(make("ann")), request()) == "id:ann"
    assert await name_by(by_credential(make(None)), request()) is None


async def test_the_first_that_names_someone_counts() -> None:
    key = first_of(says(None), says_later("b"), says("c"))
    assert await name_by(key, request()) == "b"
    assert await name_by(first_of(says(None)), request()) is None


async def test_a_claim_cannot_pose_as_another_kind_of_name() -> None:
    claim = request((b"x-user", b"id:ann"))
    claimed = await name_by(first_of(by_header("x-user"), by_address()), claim)
    assert claimed != await name_by(by_credential(says("ann")), claim)


async def test_both_make_an_account_of_each_combination() -> None:
    combinations = {
        await name_by(both(says(one), says_later(other)), request())
        for one in ("a", "b")
        for other in ("a", "b")
    }
    assert len(combinations) == 4
    assert await name_by(both(says("a"), says(None)), request()) is None


names = st.lists(st.text("1:|a", max_size=4), min_size=2, max_size=2)


@given(names, names)
@example(["a|a", "a"], ["a", "a|a"])
async def test_no_two_combinations_have_one_name(one: Sequence[str], other: Sequence[str]) -> None:
    first = await name_by(both(*map(says, one)), request())
    second = await name_by(both(*map(says, other)), request())
    assert (first == second) == (one == other)


async def test_a_constant_is_one_account_for_all() -> None:
    key = constant("global")
    assert await name_by(key, request()) == await name_by(key, {}) == "all:global"


@pytest.mark.parametrize(
    ("length", "cost"),
    [(b"0", 1), (b"1", 1), (b"1024", 1), (b"1025", 2), (b"1048576", 1024)],
)
def test_bytes_cost_by_the_unit_rounded_up(length: bytes, cost: int) -> None:
    assert content_length_cost(1024)(request((b"content-length", length))) == cost


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-length", b"-5"),),
        ((b"content-length", b"\xb2"),),
        ((b"content-length", b"1"), (b"content-length", b"9000")),
    ],
)
def test_a_length_that_is_not_given_costs_what_was_chosen(
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    assert content_length_cost(1, without=77)(request(*headers)) == 77


@pytest.mark.parametrize(("unit", "without"), [(0, 1), (1, 0)])
def test_a_unit_or_cost_under_one_is_a_value_error(unit: int, without: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        content_length_cost(unit, without=without)
