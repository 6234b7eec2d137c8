import base64

import pytest

from capturekit.database import Database
from capturekit.store import Store
from capturekit.store.nonces import VALID_S
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio


async def test_a_nonce_is_good_for_a_while(store: Store, clock: Clock) -> None:
    nonce = await store.nonces.issue()

    assert await store.nonces.is_good(nonce)
    clock.now += VALID_S - 0.1
    assert await store.nonces.is_good(nonce)
    clock.now += 0.1
    assert not await store.nonces.is_good(nonce)


async def test_a_nonce_that_no_server_made_is_refused(store: Store, clock: Clock) -> None:
    content = bytearray(base64.urlsafe_b64decode(await store.nonces.issue()))
    content[5] ^= 1
    for made_up in (base64.urlsafe_b64encode(content).decode(), "", "x", "é", "A" * 32, "=" * 40):
        assert not await store.nonces.is_good(made_up)
    clock.now = 1e9
    from_later = await store.nonces.issue()
    clock.now = 1_000.0
    assert not await store.nonces.is_good(from_later)


async def test_one_signature_has_a_nonce(store: Store) -> None:
    nonce = await store.nonces.issue()

    assert await store.nonces.spend(nonce, b"first")
    assert not await store.nonces.spend(nonce, b"second")
    assert await store.nonces.spend(nonce, b"first"), "the same request, sent again"


async def test_servers_on_one_database_know_of_each_other(database_url: str) -> None:
    async with Database(database_url) as one, Database(database_url) as other:
        first, second = Store(one), Store(other)
        nonce = await first.nonces.issue()

        assert await second.nonces.is_good(nonce)
        assert await second.nonces.spend(nonce, b"there")
        assert not await first.nonces.spend(nonce, b"here")


async def test_used_nonces_are_forgotten_when_they_have_ended(store: Store, clock: Clock) -> None:
    await store.nonces.spend(await store.nonces.issue(), b"s")

    assert await store.nonces.prune() == 0
    clock.now += 2 * VALID_S + 1
    assert await store.nonces.prune() == 1
