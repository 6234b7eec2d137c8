"""Tells an MQTT broker what happens, and keeps Home Assistant's sensors there.

What the broker holds is made whole after every connection, so a broker that forgets, or one
that is new, loses nothing. An event counts as told when the broker acknowledged all that it
changes.
"""

import json
import logging
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import aiomqtt
import anyio

from capturekit.errors import ConfigError, StorageError
from capturekit.events.homeassistant import OFFLINE, ONLINE, Sensor, Topics
from capturekit.store import Alarm, Event, Figure, Outlet, Store
from capturekit.store.changes import Key
from capturekit.store.outlets import HOLD_S

logger = logging.getLogger("capturekit.events")

OUTLET: Final = "mqtt"
BATCH: Final = 50
ALARMING: Final = frozenset({"stock.low", "stock.restocked", "stock.unwatched"})
"""Events after which alarms are shown anew."""
"""Events told before the place is written down."""

PAGE: Final = 500
"""Figures read at once."""

ANSWER_S: Final = 10.0
"""For the broker to acknowledge something."""

KEEPALIVE_S: Final = 30
"""Half as long again after a server was killed, the broker says that it is offline."""

MAX_PAUSE_S: Final = 60.0
"""Longest pause between tries to connect."""

WHOLE_S: Final = 60.0
"""Seconds between looks at all figures, for names that changed and what is gone."""

RENEW_S: Final = HOLD_S / 3
"""Seconds after which the hold on the outlet is renewed."""

ASK_S: Final = 1.0
"""Seconds between tries to hold an outlet that another process has."""

T = TypeVar("T", Figure, Alarm)


class _Lost(Exception):
    """Another process holds the outlet, or its cursor was moved."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and under which names we are known there."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    is_tls: bool
    topics: Topics


def parsed(url: str) -> Broker:
    """``mqtt(s)://user:password@host:port/prefix?discovery=homeassistant``.

    Raises ConfigError for anything else, without repeating what may hold a password.
    """
    try:
        parts = urlsplit(url)
        prefix = unquote(parts.path).strip("/") or "capturekit"
        discovery = parse_qs(parts.query).get("discovery", ["homeassistant"])[-1].strip("/")
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    except ValueError:
        # Without its cause, which repeats the URL.
        raise _NO_URL from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not discovery:
        raise _NO_URL
    if any(one in prefix + discovery for one in "+#\0"):
        raise _NO_URL
    return Broker(
        host=parts.hostname,
        port=port,
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        is_tls=parts.scheme == "mqtts",
        topics=Topics(prefix, discovery),
    )


_NO_URL: Final = ConfigError(
    "CAPTUREKIT_MQTT_URL is not like mqtt://USER:PASSWORD@HOST:PORT/PREFIX, or mqtts://"
)


class MqttTeller:
    """Keeps a connection to the broker while this process holds the outlet."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        *,
        holder: str,
        first_pause_s: float = 1.0,
        whole_s: float = WHOLE_S,
    ) -> None:
        self._broker = broker
        self._store = store
        self._holder = holder
        self._first_pause_s = first_pause_s
        self._whole_s = whole_s
        self._failures = 0

    async def run(self) -> None:
        """Tell until it is cancelled."""
        while True:
            try:
                await self._turn()
            except StorageError as error:
                logger.warning("MQTT waits: %s", error)
                await anyio.sleep(RENEW_S)
            except Exception:
                logger.exception("MQTT waits")
                await anyio.sleep(RENEW_S)

    async def _turn(self) -> None:
        await self._store.outlets.ensure(OUTLET)
        held = await self._store.outlets.hold(OUTLET, self._holder)
        if held is None:
            await anyio.sleep(ASK_S)
            return
        try:
            async with self._connected() as client:
                talk = _Talk(client, self._store, self._broker.topics, held, self._whole_s)
                await talk.run(self._succeed)
        except _Lost:
            return
        except aiomqtt.MqttError as error:
            await self._fail(error)

    def _succeed(self) -> None:
        if self._failures:
            logger.info("MQTT: %s is back", self._broker.host)
        self._failures = 0

    async def _fail(self, error: aiomqtt.MqttError) -> None:
        """Wait for a while, the longer the more often it failed, and keep the outlet."""
        if not self._failures:
            logger.warning("MQTT: %s: %s; it is tried again", self._broker.host, error)
        longest = min(MAX_PAUSE_S, self._first_pause_s * 2.0 ** min(self._failures, 10))
        self._failures += 1
        left_s = random.uniform(0, longest)  # noqa: S311  # it spreads load, and guards nothing
        while left_s > 0:
            await anyio.sleep(min(left_s, RENEW_S))
            left_s -= RENEW_S
            await self._store.outlets.hold(OUTLET, self._holder)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[aiomqtt.Client]:
        broker = self._broker
        tls = await anyio.to_thread.run_sync(ssl.create_default_context) if broker.is_tls else None
        async with aiomqtt.Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=f"capturekit-{secrets.token_hex(6)}",
            will=aiomqtt.Will(broker.topics.status, OFFLINE, qos=1, retain=True),
            keepalive=KEEPALIVE_S,
            timeout=ANSWER_S,
            tls_context=tls,
            logger=logging.getLogger("capturekit.mqtt"),
        ) as client:
            yield client


class _Talk:
    """One connection, from the first word to its end."""

    def __init__(
        self, client: aiomqtt.Client, store: Store, topics: Topics, held: Outlet, whole_s: float
    ) -> None:
        self._client = client
        self._store = store
        self._topics = topics
        self._holder = held.holder or ""
        self._cursor = held.cursor
        self._whole_s = whole_s
        self._sensors: dict[str, str | None] = {}
        """State's topics of what we described, by the topic of the description."""
        self._said: dict[str, int] = {}
        """Hashes of what the broker holds, by topic."""
        self._renewed_at = anyio.current_time()
        self._whole_at = 0.0

    async def run(self, on_success: Callable[[], None]) -> None:
        """Talk until the connection breaks, or the outlet is lost; then raise MqttError, _Lost."""
        trouble: Exception = aiomqtt.MqttError("the connection broke")
        async with anyio.create_task_group() as tasks:
            try:
                await self._tell_new()
                await self._make_whole()
                await self._client.subscribe([(one, 1) for one in self._heard()])
                tasks.start_soon(self._listen, tasks.cancel_scope)
                await self._publish(self._topics.status, ONLINE.encode())
                on_success()
                await self._go_on()
            except (aiomqtt.MqttError, StorageError, _Lost) as error:
                trouble = error
            except anyio.get_cancelled_exc_class():
                await self._say_goodbye()
                raise
            tasks.cancel_scope.cancel()
        raise trouble

    def _heard(self) -> Sequence[str]:
        return (*self._topics.configs, self._topics.status)

    async def _go_on(self) -> None:
        while True:
            await self._tell_new()
            if anyio.current_time() - self._whole_at >= self._whole_s:
                await self._make_whole()
            await self._store.outbox.wait(self._cursor, min(self._whole_s, RENEW_S))
            await self._renew()

    # Events

    async def _tell_new(self) -> None:
        """Tell all events that were not told."""
        while True:
            batch = await self._store.outbox.after(self._cursor, BATCH)
            changed = [event for event in batch.events if event.kind == "stock.changed"]
            keys = {key for key in map(_key, changed) if key is not None}
            figures = await self._store.figures.of(keys)
            for event in batch.events:
                await self._tell(event, figures)
            if {event.kind for event in batch.events} & ALARMING:
                await self._show_alarms()
            if batch.upto == self._cursor:
                return
            await self._advance(batch.upto)

    async def _tell(self, event: Event, figures: Mapping[Key, Figure]) -> None:
        envelope = json.dumps(event.envelope()).encode()
        await self._publish(self._topics.event(event), envelope, is_kept=False)
        key = _key(event)
        if event.kind != "stock.changed" or key is None or key not in figures:
            return
        # As it was told, and not as it is by now: each change is seen, in its order.
        after, confidence = event.data["after"], event.data.get("confidence")
        await self._show_figure(
            replace(
                figures[key],
                quantity=after if isinstance(after, int) else figures[key].quantity,
                confidence=confidence if isinstance(confidence, float | int) else None,
            )
        )

    async def _advance(self, to: int) -> None:
        is_ours = await self._store.outlets.advance(OUTLET, self._holder, self._cursor, to)
        if not is_ours:
            raise _Lost
        self._cursor, self._renewed_at = to, anyio.current_time()

    async def _renew(self) -> None:
        held = await self._store.outlets.hold(OUTLET, self._holder)
        if held is None or held.cursor != self._cursor:
            raise _Lost
        self._renewed_at = anyio.current_time()

    # What the broker holds

    async def _make_whole(self) -> None:
        """Say what is not said yet, and take back what is not so any more."""
        known: set[str] = set()
        async for figure in _all(self._store.figures.page):
            known.update(await self._show_figure(figure))
        known.update(await self._show_alarms())
        for config_topic in self._sensors.keys() - known:
            await self._remove(config_topic)
        self._whole_at = anyio.current_time()

    async def _show_figure(self, figure: Figure) -> list[str]:
        sensors = [self._topics.figure(figure)]
        problem = self._topics.below_zero(figure)
        # It is there from the first time on, or everything would have one.
        if figure.quantity < 0 or problem.config_topic in self._sensors:
            sensors.append(problem)
        return [await self._show(sensor) for sensor in sensors]

    async def _show_alarms(self) -> list[str]:
        return [
            await self._show(self._topics.low(alarm))
            async for alarm in _all(self._store.figures.alarms)
        ]

    async def _show(self, sensor: Sensor) -> str:
        # Ours before it is said: the listener must not take it for one that is gone.
        self._sensors[sensor.config_topic] = sensor.state_topic
        await self._keep(sensor.config_topic, sensor.config)
        await self._keep(sensor.state_topic, sensor.state)
        return sensor.config_topic

    async def _keep(self, topic: str, payload: bytes) -> None:
        if self._said.get(topic) != hash(payload):
            await self._publish(topic, payload)
            self._said[topic] = hash(payload)

    async def _remove(self, config_topic: str) -> None:
        state_topic = self._sensors.pop(config_topic, None)
        for topic in (config_topic, state_topic):
            if topic is not None:
                await self._client.publish(topic, b"", qos=1, retain=True)
                self._said.pop(topic, None)

    async def _publish(self, topic: str, payload: bytes, *, is_kept: bool = True) -> None:
        """Returns when the broker has it."""
        if anyio.current_time() - self._renewed_at > RENEW_S:
            await self._renew()
        await self._client.publish(topic, payload, qos=1, retain=is_kept)

    # What the broker says

    async def _listen(self, scope: anyio.CancelScope) -> None:
        try:
            async for message in self._client.messages:
                await self._hear(message)
        except aiomqtt.MqttError:
            scope.cancel()

    async def _hear(self, message: aiomqtt.Message) -> None:
        topic, payload = message.topic.value, message.payload
        if topic == self._topics.status:
            if payload == OFFLINE.encode():
                # The last will of an earlier connection, which the broker missed only now.
                await self._client.publish(topic, ONLINE.encode(), qos=1, retain=True)
        elif message.retain and payload and topic not in self._sensors:
            # Described by an earlier process, and gone meanwhile.
            self._sensors[topic] = _state_topic(payload)
            await self._remove(topic)

    async def _say_goodbye(self) -> None:
        with anyio.move_on_after(2, shield=True):
            try:
                await self._client.publish(
                    self._topics.status, OFFLINE.encode(), qos=1, retain=True
                )
            except aiomqtt.MqttError:
                # Then the broker says it for us.
                return


async def _all(
    page: Callable[[Key | None, int], Awaitable[Sequence[T]]],
) -> AsyncIterator[T]:
    after: Key | None = None
    while found := await page(after, PAGE):
        for one in found:
            yield one
        after = found[-1].key


def _key(event: Event) -> Key | None:
    item_id, location_id = event.data.get("item_id"), event.data.get("location_id")
    if isinstance(item_id, str) and isinstance(location_id, str):
        return Key(item_id, location_id)
    return None


def _state_topic(config: object) -> str | None:
    """The state's topic of a description that we once wrote; None when it cannot be read."""
    try:
        found = json.loads(config if isinstance(config, bytes | str) else "")["state_topic"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found else None
