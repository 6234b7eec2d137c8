"""Webhooks told by tellers at work, to receivers that fail in every way."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from capturekit.database import Database
from capturekit.events.tellers import Tellers
from capturekit.events.webhooks import MAX_PAUSE_S, pause_s
from capturekit.store import Store, Webhook, WebhookAttempt
from tests.receiver import HANG, OK, PATIENCE_S, Receiver, answer, receiving
from tests.servers_postgres import PostgresServer
from tests.unit.events.conftest import Telling, say

pytestmark = pytest.mark.anyio

QUICK_S = 0.02
"""Mean of the first pause in these tests is half of it."""

BAD = answer(500)


def tellers(store: Store, *, is_alone: bool = False) -> Tellers:
    return Tellers(store, allow_private=True, first_pause_s=QUICK_S, is_alone=is_alone)


@asynccontextmanager
async def told(
    store: Store, answers: Callable[[int], bytes] = lambda _number: OK
) -> AsyncIterator[tuple[Receiver, Webhook]]:
    """A receiver that is told all events from the first on."""
    async with receiving(answers) as receiver:
        webhook = await store.webhooks.add(receiver.url, after=0)
        async with Telling(tellers(store)):
            yield receiver, webhook


async def until(ask: Callable[[Webhook], bool], store: Store, webhook: Webhook) -> Webhook:
    with anyio.fail_after(PATIENCE_S):
        while True:
            if ask(now := await store.webhooks.get(webhook.id)):
                return now
            await anyio.sleep(0.02)  # Between two looks; bounded above.


async def test_events_come_in_their_order(store: Store) -> None:
    await say(store, 5)
    async with told(store) as (receiver, webhook):
        await receiver.wait_for(5)
        await say(store, 3)
        await receiver.wait_for(8)
        now = await until(lambda one: one.cursor == receiver.seqs[-1], store, webhook)

    assert receiver.seqs == sorted(set(receiver.seqs))
    assert (now.failures, now.disabled_at) == (0, None)
    assert len(await store.webhooks.attempts(webhook.id)) == 8


async def test_only_the_kinds_asked_for_come(store: Store) -> None:
    async with receiving() as receiver:
        webhook = await store.webhooks.add(receiver.url, kinds=["stock.low"])
        async with Telling(tellers(store)):
            await say(store, 9, ["stock.changed", "capture.completed", "stock.low"])
            await receiver.wait_for(3)
            newest = await store.outbox.newest()
            await until(lambda one: one.cursor == newest, store, webhook)

    assert {post.event["kind"] for post in receiver.posts} == {"stock.low"}
    assert len(receiver.posts) == 3


async def test_a_failure_is_tried_again_before_the_next(store: Store) -> None:
    await say(store, 3)
    async with told(store, lambda number: BAD if number in (1, 2, 3) else OK) as (receiver, one):
        await receiver.wait_for(6)
        await until(lambda now: now.failures == 0 and now.cursor == receiver.seqs[-1], store, one)

    first, second, third = sorted(set(receiver.seqs))
    assert receiver.seqs == [first, second, second, second, second, third]
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == 3


async def test_a_receiver_that_fails_for_ever_delays_no_other(store: Store) -> None:
    async with receiving(lambda _number: BAD) as bad, receiving(lambda _number: HANG) as silent:
        await store.webhooks.add(bad.url, after=0)
        await store.webhooks.add(silent.url, after=0)
        began = time.monotonic()
        async with told(store) as (receiver, _webhook):
            await say(store, 20)
            await receiver.wait_for(20)
            await bad.wait_for(2)

    assert time.monotonic() - began < 10.0  # What one post to the silent one takes.
    assert len(set(bad.seqs)) == 1


async def test_a_receiver_that_was_away_gets_all(store: Store) -> None:
    async with receiving() as receiver:
        port = receiver.port
        webhook = await store.webhooks.add(receiver.url)
    async with Telling(tellers(store)):
        await say(store, 4)
        await until(lambda one: one.failures > 1, store, webhook)
        async with receiving(port=port) as receiver:
            await receiver.wait_for(4)

    assert receiver.seqs == sorted(set(receiver.seqs))


async def test_gone_disables_at_once(store: Store) -> None:
    await say(store, 2)
    async with told(store, lambda number: answer(410) if number == 0 else OK) as (receiver, one):
        now = await until(lambda now: now.disabled_at is not None, store, one)
        assert len(receiver.posts) == 1

        await store.webhooks.enable(now.id)
        # The two, and that it was disabled.
        await receiver.wait_for(4)

    assert receiver.posts[-1].event["kind"] == "webhook.disabled"


async def test_a_replay_begins_within_a_second_or_so(store: Store) -> None:
    await say(store, 3)
    async with told(store) as (receiver, webhook):
        await receiver.wait_for(3)
        first = list(receiver.seqs)
        await until(lambda one: one.cursor == first[-1], store, webhook)

        await store.webhooks.replay(webhook.id, after=first[0])
        await receiver.wait_for(5)

    assert receiver.seqs == [*first, *first[1:]]


async def test_nothing_comes_after_a_removal(store: Store) -> None:
    async with told(store) as (receiver, webhook), receiving() as other:
        await say(store, 1)
        await receiver.wait_for(1)
        await store.webhooks.remove(webhook.id)
        await store.webhooks.add(other.url)
        await say(store, 1)
        await other.wait_for(1)

    assert len(receiver.posts) == 1


async def test_of_two_servers_one_tells_and_the_other_takes_over(
    store: Store, database: Database
) -> None:
    second = Store(database, clock=time.time)
    async with told(store) as (receiver, webhook):
        async with Telling(tellers(second)):
            await say(store, 10)
            await receiver.wait_for(10)
            # Whoever is ended in the middle of a post does not know what came of it.
            await until(lambda one: one.cursor == receiver.seqs[-1], store, webhook)
        await say(store, 10)
        await receiver.wait_for(20)
        await until(lambda one: one.cursor == receiver.seqs[-1], store, webhook)
    async with Telling(tellers(second)):
        await say(second, 10)
        await until(lambda one: one.failures > 0, second, webhook)

    # What nobody lost, nobody sent twice.
    assert receiver.seqs == sorted(set(receiver.seqs))
    assert len(receiver.seqs) == 20


async def test_what_a_killed_server_held_is_taken_over_by_its_successor(store: Store) -> None:
    async with receiving() as receiver:
        webhook = await store.webhooks.add(receiver.url)
        assert await store.webhooks.hold(webhook.id, "killed") is not None
        async with Telling(tellers(store, is_alone=True)):
            await say(store, 1)
            await receiver.wait_for(1)


async def test_a_pause_that_no_failure_makes_is_none(store: Store) -> None:
    # The clock was ten years ahead when it failed, and went back.
    async with receiving() as receiver:
        webhook = await store.webhooks.add(receiver.url)
        held = await store.webhooks.hold(webhook.id, "me")
        assert held is not None
        bad = WebhookAttempt(1, 0.0, 500, "answered 500", 1.0)
        await store.webhooks.failed(held, bad, pause_s=3e8)
        await store.outlets.release("me")
        async with Telling(tellers(store)):
            await say(store, 1)
            await receiver.wait_for(1)


async def test_a_server_killed_beside_others_is_succeeded(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with Database(postgres_url) as opened, receiving() as receiver:
        store = Store(opened)
        webhook = await store.webhooks.add(receiver.url)
        assert await store.webhooks.hold(webhook.id, "killed") is not None
        async with Telling(tellers(store)):
            await say(store, 1)
            # Time passes for the server that says what time it is.
            name = postgres_url.split("/")[3].split("?", maxsplit=1)[0]
            postgres.sql("UPDATE outlet SET held_until = held_until - 31", database=name)
            await receiver.wait_for(1)


async def test_a_backlog_is_read_in_parts(sqlite_store: Store) -> None:
    kinds = ["stock.low"] * 1 + ["stock.changed"] * 99
    async with receiving() as receiver:
        await sqlite_store.webhooks.add(receiver.url, kinds=["stock.low"])
        await say(sqlite_store, 10_000, kinds)
        async with Telling(tellers(sqlite_store)):
            await receiver.wait_for(100)

    assert receiver.seqs == sorted(set(receiver.seqs))


async def test_neither_secret_nor_path_is_logged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with told(store, lambda number: OK if number else answer(410)) as (receiver, webhook):
        await say(store, 1)
        await until(lambda one: one.disabled_at is not None, store, webhook)
        await store.webhooks.enable(webhook.id)
        await receiver.wait_for(2)

    assert webhook.id in caplog.text
    assert webhook.secret not in caplog.text
    assert webhook.secret.removeprefix("whsec_") not in caplog.text
    assert "/hook" not in caplog.text


async def test_a_test_event_waits_for_nothing(store: Store) -> None:
    async with receiving() as receiver:
        webhook = await store.webhooks.add(receiver.url)
        await say(store, 1)

        result = await tellers(store).test_webhook(webhook.id)

    assert result.status == 204
    assert [post.event["kind"] for post in receiver.posts] == ["webhook.test"]
    assert (await store.webhooks.get(webhook.id)).cursor == 0


@pytest.mark.parametrize("failures", [0, 1, 5, 40, 10**6])
def test_pauses_grow_and_end_at_an_hour(failures: int) -> None:
    pauses = [pause_s(failures, 0.0) for _ in range(50)]

    assert 0 <= min(pauses) < max(pauses) <= min(MAX_PAUSE_S, 2.0 ** min(failures, 12))
    assert pause_s(failures, 30.0) >= min(30.0, MAX_PAUSE_S)
    assert pause_s(failures, 1e9) == MAX_PAUSE_S
