"""Whatever happens: every receiver sees every event, and never one before an earlier one.

Writers are processes of their own. Tellers come and go, receivers refuse, webhooks are told to
begin again; in the end all must be there. Last, faults are planted, which must be found.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from capturekit.database import Connection, Database
from capturekit.events.tellers import Tellers
from capturekit.store import Store, Webhook, WebhookAttempt, Webhooks, outlets
from capturekit.store.schema import event, outlet
from capturekit.store.webhooks import Held
from tests.event_writer import Order, Writer, writing
from tests.receiver import OK, Receiver, answer, receiving

STATUSES = (200, 204, 299, 302, 400, 429, 500, 503)


@dataclass
class Plan:
    """What happens, step after step."""

    steps: list[tuple[str, int]]
    orders: list[Order]
    statuses: list[int] = field(default_factory=list)
    """Of the first answers of each receiver; later ones are 204."""


PLANS = st.builds(
    Plan,
    steps=st.lists(
        st.tuples(st.sampled_from(["write", "teller", "replay", "wait"]), st.integers(0, 9)),
        min_size=3,
        max_size=14,
    ),
    orders=st.lists(
        st.builds(Order, st.integers(1, 4), st.sampled_from([0.0, 0.01]), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    statuses=st.lists(st.sampled_from(STATUSES), max_size=8),
)


class Play:
    """One plan, played on a database with two receivers and up to two servers."""

    def __init__(
        self, url: str, writers: Sequence[Writer], plan: Plan, *, patience_s: float = 15
    ) -> None:
        self.url, self.writers, self.plan = url, writers, plan
        self.patience_s = patience_s
        self.servers: dict[int, asyncio.Task[None]] = {}
        self.receivers: list[Receiver] = []

    async def run(self) -> tuple[list[int], list[Receiver]]:
        """The numbers of all events, and who was told what."""
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(Database(self.url, is_checkpointing=False))
            store = Store(database, clock=time.time)
            start = await store.outbox.newest()
            for _ in range(2):
                receiver = await stack.enter_async_context(receiving(self._answer))
                await store.webhooks.add(receiver.url)
                self.receivers.append(receiver)
            webhooks = [one.id for one in await store.webhooks.all()][-2:]
            for action, number in self.plan.steps:
                await self._do(store, action, number, webhooks, start)
            seqs = await self._end(store, database, start)
            for one in webhooks:
                await store.webhooks.remove(one)
        return seqs, self.receivers

    def _answer(self, number: int) -> bytes:
        statuses = self.plan.statuses
        return answer(statuses[number]) if number < len(statuses) else OK

    async def _do(
        self, store: Store, action: str, number: int, webhooks: list[str], start: int
    ) -> None:
        if action == "write":
            order = self.plan.orders[number % len(self.plan.orders)]
            self.writers[number % len(self.writers)].order(order)
        elif action == "teller":
            await self._turn(store, number % 2)
        elif action == "replay":
            await store.webhooks.replay(webhooks[number % 2], after=start)
        else:
            await asyncio.sleep(number / 100)  # Lets things happen; nothing is expected of it.

    async def _turn(self, store: Store, number: int) -> None:
        """Start that server, or end it if it runs."""
        if number in self.servers:
            await _ended(self.servers.pop(number))
        else:
            tellers = Tellers(store, allow_private=True, first_pause_s=0.005)
            self.servers[number] = asyncio.create_task(tellers.run())

    async def _end(self, store: Store, database: Database, start: int) -> list[int]:
        """Let all be told, and end the servers."""
        if not self.servers:
            await self._turn(store, 0)
        for writer in self.writers:
            await asyncio.to_thread(writer.wait)

        def read(connection: Connection) -> list[int]:
            query = event.select().where(event.c.seq > start).order_by(event.c.seq)
            return [row.seq for row in connection.execute(query)]

        seqs = await database.read(read)
        deadline = time.monotonic() + self.patience_s
        while any(set(taken(one)) < set(seqs) for one in self.receivers):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)  # Between two looks; bounded above.
        while self.servers:
            await _ended(self.servers.popitem()[1])
        return seqs


async def _ended(server: asyncio.Task[None]) -> None:
    server.cancel()
    with suppress(asyncio.CancelledError):
        await server


def taken(receiver: Receiver) -> list[int]:
    """Numbers of the events that it took, in the order in which they came."""
    return [post.event["seq"] for post in receiver.posts if post.is_taken]


def require_all_in_order(seqs: list[int], receivers: list[Receiver]) -> None:
    for receiver in receivers:
        assert list(dict.fromkeys(taken(receiver))) == seqs
        ids = {post.event["seq"]: post.headers["webhook-id"] for post in receiver.posts}
        assert {(post.event["seq"], post.headers["webhook-id"]) for post in receiver.posts} == set(
            ids.items()
        )


@pytest.fixture
def writers(database_url: str) -> Iterator[list[Writer]]:
    with writing(database_url, 2) as writers:
        yield writers


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=PLANS)
@pytest.mark.timeout(240)
def test_every_event_is_told_in_order(database_url: str, writers: list[Writer], plan: Plan) -> None:
    require_all_in_order(*asyncio.run(Play(database_url, writers, plan).run()))


# Faults that must be found


def play(url: str, plan: Plan, *, patience_s: float = 2) -> tuple[list[int], list[Receiver]]:
    with writing(url, 2) as writers:
        return asyncio.run(Play(url, writers, plan, patience_s=patience_s).run())


@pytest.mark.parametrize("locks", [True, False])
def test_writers_that_forget_the_lock_are_found(postgres_url: str, *, locks: bool) -> None:
    # One writes a little for long, the other much in short transactions.
    slow, quick = Order(2, 0.06, locks=locks), Order(1, 0.004, locks=locks)
    steps = [("write", number) for number in (*[0] * 20, *[1] * 150)]

    plan = Plan([("teller", 0), *steps], [slow, quick])
    seqs, receivers = play(postgres_url, plan, patience_s=30 if locks else 2)

    if locks:
        require_all_in_order(seqs, receivers)
    else:
        with pytest.raises(AssertionError):
            require_all_in_order(seqs, receivers)


REFUSED_TWICE = Plan([("write", 0), ("teller", 0), ("write", 0)], [Order(4)], [500, 500])


def test_a_cursor_that_moves_before_the_answer_is_found(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = outlets.hold

    def hasty(connection: Connection, id: str, holder: str, at: float) -> outlets.Outlet | None:
        held = hold(connection, id, holder, at)
        if held is not None:
            skipped = outlet.update().where(outlet.c.id == id)
            connection.execute(skipped.values(cursor=held.cursor + 1))
        return held

    monkeypatch.setattr(outlets, "hold", hasty)
    seqs, receivers = play(sqlite_url, REFUSED_TWICE)

    with pytest.raises(AssertionError):
        require_all_in_order(seqs, receivers)


def test_a_teller_that_goes_on_after_a_refusal_is_found(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hasty(
        webhooks: Webhooks, held: Held, attempt: WebhookAttempt, **_: object
    ) -> Webhook | None:
        await webhooks.delivered(held, attempt.event_seq, attempt)
        return None

    monkeypatch.setattr(Webhooks, "failed", hasty)
    seqs, receivers = play(sqlite_url, REFUSED_TWICE)

    with pytest.raises(AssertionError):
        require_all_in_order(seqs, receivers)
