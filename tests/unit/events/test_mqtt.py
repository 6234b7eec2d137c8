"""MQTT and Home Assistant's discovery, at a real broker that is killed and started again."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import anyio
import pytest
from pydantic import SecretStr

from capturekit.errors import ConfigError
from capturekit.events.mqtt import OUTLET, MqttTeller, parsed
from capturekit.events.tellers import Tellers
from capturekit.store import MovementKind, NewMovement, Store
from tests.servers_mqtt import PATIENCE_S, MqttBroker, Watcher, running_broker, watching
from tests.unit.events.conftest import Telling

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("mqtt")]

QUICK_S = 0.05


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MqttBroker]:
    with running_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
async def stock(sqlite_store: Store) -> Store:
    """5 kg of flour on the shelf."""
    await sqlite_store.inventory.add_location("shelf", "Top shelf")
    await sqlite_store.inventory.add_item("flour", "Flour", "kg")
    await do(sqlite_store, MovementKind.RECEIVE, 5)
    return sqlite_store


async def do(store: Store, kind: MovementKind, quantity: int, *, item: str = "flour") -> str:
    is_gain = kind in (MovementKind.RECEIVE, MovementKind.COUNT)
    source, target = (None, "shelf") if is_gain else ("shelf", None)
    new = NewMovement(kind, item, quantity, source, target, may_go_negative=True)
    done, _changes = await store.inventory.move(new)
    return done.id


def teller(store: Store, broker: MqttBroker, *, whole_s: float = 60.0) -> MqttTeller:
    return MqttTeller(
        parsed(broker.url), store, holder="me", first_pause_s=QUICK_S, whole_s=whole_s
    )


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            if text in caplog.text:
                return
            await anyio.sleep(0.02)  # Between two looks; bounded above.


async def until_told(store: Store) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            outlet = await store.outlets.get(OUTLET)
            if outlet is not None and outlet.cursor == await store.outbox.newest():
                return
            await anyio.sleep(0.02)  # Between two looks; bounded above.


def statuses(watcher: Watcher) -> list[object]:
    return [value for topic, value in watcher.told if topic == "kit/status"]


def quantity(watcher: Watcher) -> object:
    return next((one["quantity"] for one in watcher.under("kit/stock/")), None)


async def test_a_figure_is_a_sensor(stock: Store, broker: MqttBroker) -> None:
    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: seen.held.get("kit/status") == "online")

    (topic,) = [topic for topic in watcher.held if topic.startswith("homeassistant/sensor/")]
    config = watcher.held[topic]
    assert topic.split("/")[2] == "kit"
    assert (config["name"], config["unit_of_measurement"]) == ("Flour", "kg")
    assert config["device"]["name"] == "Top shelf"
    assert config["unique_id"].startswith("kit_stock_flour_shelf_")
    assert config["availability_topic"] == "kit/status"
    assert config["value_template"] == "{{ value_json.quantity }}"
    assert watcher.held[config["state_topic"]] == {
        "quantity": 5,
        "item_id": "flour",
        "location_id": "shelf",
        "confidence": None,
        "last_seen_at": None,
    }


async def test_changes_are_told_in_order_and_as_events(stock: Store, broker: MqttBroker) -> None:
    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        for number in (4, 9, 2):
            await do(stock, MovementKind.COUNT, number)
        await watcher.until(lambda seen: quantity(seen) == 2)

    said = [value["quantity"] for topic, value in watcher.told if "kit/stock/" in topic]
    events = watcher.events("stock.changed")
    assert said == [5, 4, 9, 2]
    assert [event["data"]["after"] for event in events] == [4, 9, 2]
    assert len({event["id"] for event in events}) == 3


async def test_less_than_nothing_is_a_problem_until_it_is_not(
    stock: Store, broker: MqttBroker
) -> None:
    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        assert watcher.under("below_zero") == []
        await do(stock, MovementKind.USE, 7)
        await watcher.until(lambda seen: [s["state"] for s in seen.under("kit/below_")] == ["ON"])
        await do(stock, MovementKind.COUNT, 7)
        await watcher.until(lambda seen: [s["state"] for s in seen.under("kit/below_")] == ["OFF"])

    (config,) = watcher.under("homeassistant/binary_sensor/")
    assert (config["device_class"], config["name"]) == ("problem", "Flour below zero")


async def test_low_stock_is_a_problem_until_it_is_restocked(
    stock: Store, broker: MqttBroker
) -> None:
    await stock.inventory.set_par_level("flour", "shelf", minimum=2, restock_at=4)
    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: [s["state"] for s in seen.under("kit/low/")] == ["OFF"])
        await do(stock, MovementKind.USE, 4)
        await watcher.until(lambda seen: [s["state"] for s in seen.under("kit/low/")] == ["ON"])
        await do(stock, MovementKind.RECEIVE, 9)
        await watcher.until(lambda seen: [s["state"] for s in seen.under("kit/low/")] == ["OFF"])

    assert len(watcher.events("stock.low")) == 1


async def test_a_new_name_is_shown(stock: Store, broker: MqttBroker) -> None:
    async with watching(broker) as watcher, Telling(teller(stock, broker, whole_s=0.3)):
        await watcher.until(lambda seen: [c["name"] for c in seen.configs] == ["Flour"])
        await stock.inventory.rename("flour", "Wheat flour", "g")
        await watcher.until(lambda seen: [c["unit_of_measurement"] for c in seen.configs] == ["g"])

    (config,) = watcher.configs
    assert config["name"] == "Wheat flour"


async def test_what_was_never_there_goes(stock: Store, broker: MqttBroker) -> None:
    await stock.inventory.add_item("salt", "Salt")
    wrong = await do(stock, MovementKind.RECEIVE, 3, item="salt")
    async with watching(broker) as watcher, Telling(teller(stock, broker, whole_s=0.3)):
        await watcher.until(lambda seen: len(seen.configs) == 2)
        await stock.inventory.void(wrong)
        await watcher.until(lambda seen: len(seen.configs) == 1)
        await watcher.until(lambda seen: len(seen.under("kit/stock/")) == 1)

    assert "Salt" not in str(watcher.held)


async def test_what_went_while_no_server_ran_goes(stock: Store, broker: MqttBroker) -> None:
    await stock.inventory.add_item("salt", "Salt")
    wrong = await do(stock, MovementKind.RECEIVE, 3, item="salt")
    async with watching(broker) as watcher:
        async with Telling(teller(stock, broker)):
            await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        await watcher.until(lambda seen: seen.held.get("kit/status") == "offline")
        assert len(watcher.configs) == 2
        await stock.inventory.void(wrong)
        async with Telling(teller(stock, broker)):
            await watcher.until(lambda seen: len(seen.configs) == 1)
            await watcher.until(lambda seen: len(seen.under("kit/stock/")) == 1)


async def test_a_broker_that_forgot_everything_is_told_everything(
    stock: Store, broker: MqttBroker
) -> None:
    async with Telling(teller(stock, broker)):
        async with watching(broker) as watcher:
            await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        broker.kill()
        await do(stock, MovementKind.USE, 1)
        broker.start()
        async with watching(broker) as watcher:
            await watcher.until(lambda seen: quantity(seen) == 4)
            await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
            await do(stock, MovementKind.USE, 1)
            await watcher.until(lambda seen: quantity(seen) == 3)
            await until_told(stock)

    assert len(watcher.configs) == 1


async def test_what_no_broker_acknowledged_is_told_later(stock: Store, broker: MqttBroker) -> None:
    async with Telling(teller(stock, broker)), watching(broker) as watcher:
        await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
    broker.kill()
    for _ in range(3):
        await do(stock, MovementKind.USE, 1)
    async with Telling(teller(stock, broker)):
        outlet = await stock.outlets.get(OUTLET)
        assert outlet is not None
        assert outlet.cursor < await stock.outbox.newest()
    broker.start()

    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: quantity(seen) == 2)
        await watcher.until(lambda seen: len(seen.events("stock.changed")) == 3)


async def test_a_late_last_will_is_answered(stock: Store, broker: MqttBroker) -> None:
    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        async with aiomqtt.Client("127.0.0.1", broker.port) as killed:
            await killed.publish("kit/status", "offline", qos=1, retain=True)
        await watcher.until(lambda seen: statuses(seen)[-2:] == ["offline", "online"])


async def test_one_of_two_servers_tells(stock: Store, broker: MqttBroker) -> None:
    second = MqttTeller(parsed(broker.url), stock, holder="you", first_pause_s=QUICK_S)
    async with watching(broker) as watcher, Telling(teller(stock, broker)):
        await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        async with Telling(second):
            for number in range(5):
                await do(stock, MovementKind.COUNT, 10 + number)
            await watcher.until(lambda seen: quantity(seen) == 14)

    assert len(watcher.events("stock.changed")) == 5


async def test_a_server_with_a_broker_says_no_password(
    stock: Store, broker: MqttBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tellers = Tellers(stock, mqtt_url=SecretStr(broker.url), first_pause_s=QUICK_S, clock=time.time)
    async with Telling(tellers):
        async with watching(broker) as watcher:
            await watcher.until(lambda seen: seen.held.get("kit/status") == "online")
        broker.kill()
        await until_logged(caplog, "it is tried again")
    broker.start()

    assert "pass-word" not in caplog.text
    assert "pass-word" not in repr(parsed(broker.url))


@pytest.mark.parametrize(
    "url",
    [
        *("", "mqtt://", "http://h/", "mqtt://u:pass-word@h:x/", "mqtt://u:pass-word@h/a+b"),
        *("mqtt://u:pass-word@[h/", "mqtt://h/a?discovery=%23", "mqtt://h/%00"),
    ],
)
def test_an_address_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://USER") as raised:
        parsed(url)

    assert "pass-word" not in str(raised.value)


def test_an_address_is_read() -> None:
    broker = parsed("mqtts://me%40home:p%2Fw@example.com/a/b?discovery=ha")

    assert (broker.host, broker.port, broker.is_tls) == ("example.com", 8883, True)
    assert (broker.username, broker.password) == ("me@home", "p/w")
    assert (broker.topics.prefix, broker.topics.discovery) == ("a/b", "ha")
    assert parsed("mqtt://h").topics.prefix == "capturekit"
