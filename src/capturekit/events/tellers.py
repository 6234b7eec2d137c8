"""What a server runs to tell others: a task for each of them, and one that forgets."""

import logging
import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

import anyio
import httpx2
from pydantic import SecretStr

from capturekit.errors import CaptureKitError, MissingExtra, StorageError
from capturekit.events.address import Lookup, resolve
from capturekit.events.listeners import Listener, Listeners, ListenerTeller
from capturekit.events.post import Answer, Poster
from capturekit.events.webhooks import FIRST_PAUSE_S, WebhookTeller
from capturekit.store import Event, Store, Webhook
from capturekit.store.webhooks import checked_url

if TYPE_CHECKING:
    from capturekit.events.mqtt import MqttTeller

logger = logging.getLogger("capturekit.events")

LOOK_S: Final = 1.0
"""Seconds between looks for webhooks that were added, changed or removed."""

PRUNE_S: Final = 3600.0
"""Seconds between removals of old events."""


class Tellers:
    """Everyone who tells events, for as long as ``run`` runs.

    Any number of processes may run one on the same database: each webhook, and MQTT, is told
    by one of them at a time. ``is_alone`` says that no other does, so that what a killed one
    held is taken over at once and not after a while. Raises ConfigError for an ``mqtt_url`` that is
    none, and MissingExtra where MQTT's library is missing.
    """

    def __init__(
        self,
        store: Store,
        *,
        allow_private: bool = False,
        mqtt_url: SecretStr | None = None,
        retention_s: float = 7 * 86400.0,
        is_alone: bool = False,
        first_pause_s: float = FIRST_PAUSE_S,
        lookup: Lookup = socket.getaddrinfo,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._listeners: list[Listener] = []
        self._is_alone = is_alone
        self._retention_s = retention_s
        self._clock = clock
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._first_pause_s = first_pause_s
        self._mqtt = None if mqtt_url is None else self._new_mqtt(mqtt_url)
        self._allow_private = allow_private
        self._lookup = lookup

    async def prepare(self, listeners: Listeners) -> None:
        """Have ``run`` tell these, too: what happens from now on, or since they had a place."""
        listeners.is_open = True
        self._listeners = [*listeners.all.values()]
        for listener in self._listeners:
            await self._store.outlets.ensure(listener.outlet)

    async def run(self) -> None:
        """Tell until it is cancelled; then others may go on at once."""
        try:
            if self._is_alone:
                await self._store.outlets.release_all()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_webhooks)
                for listener in self._listeners:
                    teller = ListenerTeller(
                        listener,
                        self._store,
                        holder=self._holder,
                        first_pause_s=self._first_pause_s,
                    )
                    tasks.start_soon(teller.run)
                if self._mqtt is not None:
                    tasks.start_soon(self._mqtt.run)
                tasks.start_soon(self._prune)
        finally:
            with anyio.move_on_after(2, shield=True):
                await self._release()

    async def add_webhook(
        self, url: str, *, kinds: tuple[str, ...] = (), after: int | None = None
    ) -> Webhook:
        """``Webhooks.add``, if the address may be posted to. Raises NotReachable besides."""
        parts = httpx2.URL(checked_url(url))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        await resolve(parts.host, port, allow_private=self._allow_private, lookup=self._lookup)
        return await self._store.webhooks.add(url, kinds=kinds, after=after)

    async def test_webhook(self, id: str) -> Answer:
        """Post an event ``webhook.test`` now, whatever else waits. Raises Unknown."""
        webhook = await self._store.webhooks.get(id)
        event = Event(0, f"evt_{secrets.token_hex(12)}", "webhook.test", None, {}, self._clock())
        async with self._poster() as poster:
            return await poster.post(webhook, event)

    async def _tell_webhooks(self) -> None:
        async with anyio.create_task_group() as tasks:
            running: dict[str, tuple[WebhookTeller, anyio.CancelScope]] = {}
            while True:
                try:
                    webhooks = {one.id: one for one in await self._store.webhooks.all()}
                except StorageError as error:
                    logger.warning("the webhooks are not known: %s", error)
                else:
                    for gone in running.keys() - webhooks.keys():
                        running.pop(gone)[1].cancel()
                    for id_, webhook in webhooks.items():
                        if id_ not in running:
                            teller, scope = self._teller(webhook), anyio.CancelScope()
                            running[id_] = (teller, scope)
                            tasks.start_soon(_run_within, scope, teller)
                        running[id_][0].notice(webhook)
                await anyio.sleep(LOOK_S)

    def _teller(self, webhook: Webhook) -> WebhookTeller:
        return WebhookTeller(
            webhook,
            self._store,
            self._poster(),
            holder=self._holder,
            first_pause_s=self._first_pause_s,
            clock=self._clock,
        )

    def _poster(self) -> Poster:
        return Poster(
            self._tls, allow_private=self._allow_private, lookup=self._lookup, clock=self._clock
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Reads hundreds of certificates, and most commands post nothing.
        return httpx2.create_ssl_context()

    def _new_mqtt(self, url: SecretStr) -> "MqttTeller":
        try:
            from capturekit.events.mqtt import MqttTeller, parsed
        except ModuleNotFoundError as error:
            raise MissingExtra("CAPTUREKIT_MQTT_URL", "mqtt") from error
        broker = parsed(url.get_secret_value())
        return MqttTeller(
            broker, self._store, holder=self._holder, first_pause_s=self._first_pause_s
        )

    async def _prune(self) -> None:
        while True:
            try:
                if gone := await self._store.outbox.prune(self._retention_s):
                    logger.info("%d old events were removed", gone)
            except StorageError as error:
                logger.warning("old events are removed later: %s", error)
            await anyio.sleep(PRUNE_S)

    async def _release(self) -> None:
        try:
            await self._store.outlets.release(self._holder)
        except CaptureKitError as error:
            logger.warning("others go on with the events after a while: %s", error)


async def _run_within(scope: anyio.CancelScope, teller: WebhookTeller) -> None:
    with scope:
        await teller.run()
