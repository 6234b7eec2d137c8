"""Functions that are told what happens, on both engines."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import pytest
from pydantic import JsonValue

from capturekit.database import Connection
from capturekit.errors import ConfigError
from capturekit.events.kinds import TYPES, StockLow
from capturekit.events.listeners import Listeners
from capturekit.events.tellers import Tellers
from capturekit.store import Store
from capturekit.store.outbox import KINDS, tell
from capturekit.store.schema import lock_ledger
from tests.unit.events.conftest import Telling

pytestmark = pytest.mark.anyio

T = TypeVar("T")


def tellers(store: Store) -> Tellers:
    return Tellers(store, first_pause_s=0.01)


async def run_low(store: Store, *quantities: int) -> None:
    """Let stock be low, this low."""

    def work(connection: Connection) -> None:
        lock_ledger(connection)
        for quantity in quantities:
            data: dict[str, JsonValue] = {
                "item_id": "beans",
                "location_id": "shelf",
                "quantity": quantity,
                "minimum": 9,
                "restock_at": 12,
                "alert_id": 1,
            }
            tell(connection, "stock.low", data, time.time(), item_id="beans")
            tell(connection, "stock.unheard", {}, time.time())

    await store.webhooks._database.write(work)  # noqa: SLF001  # as the store's own parts do


async def until(is_so: Callable[[], T]) -> T:
    with anyio.fail_after(10):
        while not (found := is_so()):  # noqa: ASYNC110  # any condition
            await anyio.sleep(0.01)
    return found


async def test_functions_of_both_sorts_are_told_in_order_what_they_asked_for(store: Store) -> None:
    on, heard, threaded = Listeners(), list[int](), list[int]()

    @on("stock.low")
    async def buy(event: StockLow) -> None:
        heard.append(event.data.quantity)

    @on("stock.low", name="other")
    def order(event: StockLow) -> None:
        threaded.append(event.data.quantity)

    @on("stock.restocked")
    def never(event: object) -> None:
        raise AssertionError(event)

    some = tellers(store)
    await some.prepare(on)
    await run_low(store, 3, 2, 1)
    async with Telling(some):
        await until(lambda: heard == threaded == [3, 2, 1])


async def test_what_happened_while_no_server_ran_is_told_and_nothing_twice(store: Store) -> None:
    heard: list[int] = []

    async def listen() -> Tellers:
        on = Listeners()
        on("stock.low", name="buy")(lambda event: heard.append(event.data.quantity))
        some = tellers(store)
        await some.prepare(on)
        return some

    await run_low(store, 99)  # before anyone listened
    async with Telling(await listen()):
        await run_low(store, 3)
        await until(lambda: heard == [3])
    await run_low(store, 2)
    async with Telling(await listen()):
        await until(lambda: heard == [3, 2])
        await run_low(store, 1)
        await until(lambda: heard == [3, 2, 1])


async def test_one_that_fails_is_told_again_then_passed_over_and_delays_no_other(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    on, heard, tried = Listeners(), list[int](), list[int]()

    @on("stock.low", max_tries=3)
    async def fails(event: StockLow) -> None:
        tried.append(event.data.quantity)
        if event.data.quantity == 5:
            raise OSError("no paper")

    @on("stock.low")
    async def works(event: StockLow) -> None:
        heard.append(event.data.quantity)

    some = tellers(store)
    await some.prepare(on)
    await run_low(store, 5, 4)
    with caplog.at_level(logging.ERROR):
        async with Telling(some):
            await until(lambda: heard == [5, 4] and tried == [5, 5, 5, 4])
    assert "try 3 of 3" in caplog.text
    assert "no paper" in caplog.text


async def test_two_servers_tell_a_function_once_between_them(store: Store) -> None:
    heard: list[tuple[str, int]] = []

    async def server(name: str) -> Tellers:
        on = Listeners()
        on("stock.low", name="buy")(lambda event: heard.append((name, event.data.quantity)))
        some = tellers(store)
        await some.prepare(on)
        return some

    async with Telling(await server("a")), Telling(await server("b")):
        for number in range(20):
            await run_low(store, number)
        await until(lambda: len(heard) >= 20)
        await anyio.sleep(0.3)  # for a second telling, if there is one
    assert [number for _, number in heard] == list(range(20))


async def test_what_was_told_when_the_server_was_stopped_is_told_again(store: Store) -> None:
    on, heard = Listeners(), list[int]()
    begun = anyio.Event()

    @on("stock.low", name="buy")
    async def hangs(event: StockLow) -> None:
        heard.append(event.data.quantity)
        begun.set()
        await anyio.sleep_forever()

    some = tellers(store)
    await some.prepare(on)
    await run_low(store, 7)
    async with Telling(some):
        await begun.wait()
    again = Listeners()
    again("stock.low", name="buy")(lambda event: heard.append(event.data.quantity))
    other = tellers(store)
    await other.prepare(again)
    async with Telling(other):
        await until(lambda: heard == [7, 7])


def test_a_kind_that_is_none_a_name_that_is_taken_and_a_late_one_are_refused() -> None:
    on = Listeners()
    with pytest.raises(ConfigError, match=r"stock\.gone.*kinds: stock\.changed"):
        on("stock.gone")  # type: ignore[call-overload]
    on("stock.low", name="buy")(print)
    with pytest.raises(ConfigError, match="'buy' is there already"):
        on("stock.low", name="buy")(print)
    on.is_open = True
    with pytest.raises(ConfigError, match="before the kit is opened"):
        on("stock.low")


def test_every_kind_has_a_type() -> None:
    assert set(TYPES) >= set(KINDS)
