"""Webhooks as they are kept, and the lease on who posts to them."""

import pytest

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import Store, Webhook, WebhookAttempt
from capturekit.store.outlets import HOLD_S
from capturekit.store.webhooks import (
    ATTEMPTS_KEPT,
    DISABLED_AFTER_S,
    MAX_WEBHOOKS,
    MIN_FAILURES,
    Held,
)
from tests.unit.store.conftest import Clock
from tests.unit.store.test_outbox import say, told

pytestmark = pytest.mark.anyio

URL = "https://example.com/hooks/s3cret"
OK = WebhookAttempt(1, 1000.0, 204, None, 1.0)
BAD = WebhookAttempt(1, 1000.0, 500, "answered 500", 1.0)


async def hold(store: Store, webhook: Webhook, holder: str = "me") -> Held:
    held = await store.webhooks.hold(webhook.id, holder)
    assert held is not None
    return held


async def test_a_webhook_is_told_of_what_comes_after_it(store: Store) -> None:
    await say(store, "stock.low")
    webhook = await store.webhooks.add(URL, kinds=["stock.low", "stock.changed", "stock.low"])

    assert webhook.cursor == await store.outbox.newest()
    assert webhook.kinds == ("stock.changed", "stock.low")
    assert webhook.secret.startswith("whsec_")
    assert await store.webhooks.all() == [webhook]


async def test_neither_secret_nor_path_is_in_its_text(store: Store) -> None:
    webhook = await store.webhooks.add(URL)

    assert webhook.secret not in repr(webhook)
    assert "s3cret" not in repr(webhook) + webhook.origin
    assert webhook.origin == "https://example.com"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "https://",
        "https:///path",
        "https://user:password@example.com/",
        "https://example.com:0/",
        "https://example.com/\r\nX: y",
        "https://exämple.com/",
        "https://example.com/" + "x" * 2000,
    ],
)
async def test_what_is_no_address_is_refused(store: Store, url: str) -> None:
    with pytest.raises(ValueError, match=r"webhook|address|[Pp]ort"):
        await store.webhooks.add(url)


async def test_an_unknown_kind_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"stock\.lo.*kinds: stock\.changed"):
        await store.webhooks.add(URL, kinds=["stock.lo"])


async def test_there_are_only_so_many(store: Store) -> None:
    for _ in range(MAX_WEBHOOKS):
        await store.webhooks.add(URL)

    with pytest.raises(Conflict):
        await store.webhooks.add(URL)


async def test_one_process_holds_a_webhook_until_it_lets_go(store: Store, clock: Clock) -> None:
    webhook = await store.webhooks.add(URL)

    assert await store.webhooks.hold(webhook.id, "me") is not None
    assert await store.webhooks.hold(webhook.id, "you") is None
    assert await store.webhooks.hold(webhook.id, "me") is not None
    await store.outlets.release("me")
    assert await store.webhooks.hold(webhook.id, "you") is not None
    assert clock.now == 1000.0


async def test_a_killed_holder_loses_it(sqlite_database: Database, clock: Clock) -> None:
    store = Store(sqlite_database, clock=clock)
    webhook = await store.webhooks.add(URL)
    mine = await hold(store, webhook)

    clock.now += HOLD_S + 1
    await hold(store, webhook, "you")

    await say(store, "stock.low")
    assert not await store.webhooks.delivered(mine, 1, OK)
    assert (await store.webhooks.get(webhook.id)).cursor == 0


async def test_a_clock_that_went_back_locks_nobody_out(
    sqlite_database: Database, clock: Clock
) -> None:
    store = Store(sqlite_database, clock=clock)
    webhook = await store.webhooks.add(URL)
    await hold(store, webhook)

    clock.now -= 1e6

    await hold(store, webhook, "you")


async def test_on_postgres_the_server_says_how_late_it_is(postgres_url: str, clock: Clock) -> None:
    async with Database(postgres_url) as database:
        webhook = await Store(database, clock=clock).webhooks.add(URL)
        await hold(Store(database, clock=clock), webhook)

        # A second server, whose clock is an hour ahead.
        ahead = Store(database, clock=lambda: clock.now + 3600)
        assert await ahead.webhooks.hold(webhook.id, "you") is None


async def test_a_replay_is_not_undone_by_a_delivery_under_way(store: Store) -> None:
    webhook = await store.webhooks.add(URL)
    await say(store, "stock.low", "stock.low")
    held = await hold(store, webhook)
    assert await store.webhooks.delivered(held, 2, OK)
    held = await hold(store, webhook)

    await store.webhooks.replay(webhook.id, after=0)

    assert not await store.webhooks.delivered(held, 3, OK)
    assert (await store.webhooks.get(webhook.id)).cursor == 0


async def test_failures_are_counted_until_a_success(store: Store, clock: Clock) -> None:
    webhook = await store.webhooks.add(URL)
    held = await hold(store, webhook)

    await store.webhooks.failed(held, BAD, pause_s=5.0)
    failed = await store.webhooks.failed(held, BAD, pause_s=7.0)

    assert failed is not None
    assert (failed.failures, failed.failing_since) == (2, clock.now)
    assert failed.next_try_at == clock.now + 7
    await store.webhooks.delivered(await hold(store, webhook), 1, OK)
    assert (await store.webhooks.get(webhook.id)).failures == 0
    assert [one.status for one in await store.webhooks.attempts(webhook.id)] == [204, 500, 500]


async def test_long_failure_disables_and_is_told(store: Store, clock: Clock) -> None:
    webhook = await store.webhooks.add(URL)
    for _ in range(MIN_FAILURES):
        held = await hold(store, webhook)
        await store.webhooks.failed(held, BAD, pause_s=1.0)
    assert (await store.webhooks.get(webhook.id)).disabled_at is None
    clock.now += DISABLED_AFTER_S

    await store.webhooks.failed(await hold(store, webhook), BAD, pause_s=1.0)

    assert (await store.webhooks.get(webhook.id)).disabled_at == clock.now
    assert await store.webhooks.hold(webhook.id, "me") is None
    (event,) = await told(store)
    assert event.kind == "webhook.disabled"
    assert event.data["webhook_id"] == webhook.id
    assert (await store.webhooks.enable(webhook.id)).disabled_at is None
    await hold(store, webhook)


async def test_a_clock_that_jumps_disables_nothing(store: Store, clock: Clock) -> None:
    webhook = await store.webhooks.add(URL)
    await store.webhooks.failed(await hold(store, webhook), BAD, pause_s=1.0)
    clock.now += 400 * 86400

    failed = await store.webhooks.failed(await hold(store, webhook), BAD, pause_s=1.0)

    assert failed is not None
    assert failed.disabled_at is None


async def test_the_newest_attempts_are_kept(store: Store) -> None:
    webhook = await store.webhooks.add(URL)
    other = await store.webhooks.add(URL)
    await store.webhooks.failed(await hold(store, other), BAD, pause_s=0.0)
    held = await hold(store, webhook)
    for number in range(ATTEMPTS_KEPT + 5):
        await store.webhooks.failed(
            held, WebhookAttempt(number, 1000.0, 500, "no", 1.0), pause_s=0.0
        )

    kept = await store.webhooks.attempts(webhook.id)

    assert [one.event_seq for one in kept] == list(range(ATTEMPTS_KEPT + 4, 4, -1))
    assert len(await store.webhooks.attempts(other.id)) == 1


async def test_what_is_removed_is_gone_with_its_attempts(store: Store) -> None:
    webhook = await store.webhooks.add(URL)
    held = await hold(store, webhook)
    await store.webhooks.failed(held, BAD, pause_s=0.0)

    await store.webhooks.remove(webhook.id)

    assert not await store.webhooks.delivered(held, 1, OK)
    assert await store.webhooks.failed(held, BAD, pause_s=0.0) is None
    assert await store.outlets.get(webhook.id) is None
    for gone in (store.webhooks.remove, store.webhooks.enable, store.webhooks.attempts):
        with pytest.raises(Unknown):
            await gone(webhook.id)
