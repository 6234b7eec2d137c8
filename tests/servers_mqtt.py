"""A real MQTT broker for tests, on loopback, ended by pid: mosquitto if it is on the PATH.

Else amqtt from its wheel, in a process of its own. Neither keeps anything over a restart.
"""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import anyio

START_S = 30.0
PATIENCE_S = 30.0

_AMQTT = """
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""

_MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
"""


class MqttBroker:
    """One broker; may be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._log = folder / "broker.log"
        config = folder / "broker.conf"
        if program := shutil.which("mosquitto"):
            config.write_text(_MOSQUITTO.format(port=self.port))
            self._command = [program, "-c", str(config)]
        else:
            config.write_text(_AMQTT.format(port=self.port))
            run = "from amqtt.scripts.broker_script import main; main()"
            self._command = [sys.executable, "-c", run, "-c", str(config)]

    @property
    def url(self) -> str:
        return f"mqtt://user:pass-word@127.0.0.1:{self.port}/kit"

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)  # Between two looks; bounded above.
            else:
                return

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_broker(folder: Path) -> Iterator[MqttBroker]:
    """A broker that is ended when the block is left."""
    broker = MqttBroker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


class Watcher:
    """All that a broker holds and is told, as Home Assistant sees it."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        """The newest payload of each topic; those that were emptied are gone."""
        self.told: list[tuple[str, Any]] = []
        self.changed = asyncio.Event()

    async def watch(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            assert isinstance(payload, bytes)
            topic = message.topic.value
            if payload.startswith(b"{"):
                value: Any = json.loads(payload)
            else:
                value = payload.decode()
            self.told.append((topic, value))
            if payload:
                self.held[topic] = value
            else:
                self.held.pop(topic, None)
            self.changed.set()

    async def until(self, ask: Callable[["Watcher"], object]) -> None:
        """Until it is so."""
        try:
            with anyio.fail_after(PATIENCE_S):
                while not ask(self):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"it never came: {self.held}") from None

    @property
    def configs(self) -> list[Any]:
        """Descriptions of sensors."""
        return self.under("homeassistant/")

    def under(self, start: str) -> list[Any]:
        """What is held under topics that begin so."""
        return [value for topic, value in sorted(self.held.items()) if topic.startswith(start)]

    def events(self, kind: str) -> list[Any]:
        """Events of this kind, as they came."""
        return [value for topic, value in self.told if topic == f"kit/events/{kind}"]


@asynccontextmanager
async def watching(broker: MqttBroker) -> AsyncIterator[Watcher]:
    """Someone who listens to everything."""
    watcher = Watcher()
    async with (
        aiomqtt.Client("127.0.0.1", broker.port) as client,
        anyio.create_task_group() as tasks,
    ):
        await client.subscribe("#", qos=1)
        tasks.start_soon(watcher.watch, client)
        yield watcher
        tasks.cancel_scope.cancel()
