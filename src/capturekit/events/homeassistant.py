"""How stock looks to Home Assistant: what is said about each figure, and under which topic.

By its MQTT discovery (https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery): a
retained message describes a sensor, and an empty one in its place removes it.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from capturekit import __version__
from capturekit.store import Alarm, Event, Figure
from capturekit.times import iso

ONLINE: Final = "online"
OFFLINE: Final = "offline"


@dataclass(frozen=True, slots=True)
class Sensor:
    """Something that Home Assistant shows: two messages, both retained."""

    name: str
    """Unique in this installation, and safe in a topic."""
    config_topic: str
    config: bytes
    state_topic: str
    state: bytes


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one installation; its prefix tells it from others at the same broker."""

    prefix: str
    """Of what is said, such as ``capturekit``."""
    discovery: str
    """Under which Home Assistant looks, ``homeassistant`` unless it was told otherwise."""

    @property
    def node(self) -> str:
        """The prefix as a part of a topic and of ids."""
        return _safe(self.prefix)

    @property
    def status(self) -> str:
        """Says whether we are there."""
        return f"{self.prefix}/status"

    @property
    def configs(self) -> tuple[str, str]:
        """Filters for the descriptions of all our sensors."""
        return (
            f"{self.discovery}/sensor/{self.node}/+/config",
            f"{self.discovery}/binary_sensor/{self.node}/+/config",
        )

    def event(self, event: Event) -> str:
        """Where the event itself is said, not retained."""
        return f"{self.prefix}/events/{event.kind}"

    def figure(self, figure: Figure) -> Sensor:
        """How much there is of an item in a place."""
        says: dict[str, object] = {
            "quantity": figure.quantity,
            "item_id": figure.item_id,
            "location_id": figure.location_id,
            "confidence": figure.confidence,
            "last_seen_at": iso(figure.last_seen_at),
        }
        shows = {
            "name": figure.item,
            "icon": "mdi:package-variant-closed",
            "state_class": "measurement",
            "value_template": "{{ value_json.quantity }}",
        }
        if figure.unit:
            shows["unit_of_measurement"] = figure.unit
        return self._sensor("sensor", "stock", figure, shows, says)

    def low(self, alarm: Alarm) -> Sensor:
        """Whether there is too little of an item in a place and all below it."""
        return self._problem("low", "low", alarm, is_on=alarm.is_low)

    def below_zero(self, figure: Figure) -> Sensor:
        """Whether the figure says less than nothing, so that a fact is missing or wrong."""
        return self._problem("below_zero", "below zero", figure, is_on=figure.quantity < 0)

    def _problem(self, topic: str, words: str, of: Figure | Alarm, *, is_on: bool) -> Sensor:
        says: dict[str, object] = {
            "state": "ON" if is_on else "OFF",
            "item_id": of.item_id,
            "location_id": of.location_id,
        }
        shows = {
            "name": f"{of.item} {words}",
            "device_class": "problem",
            "value_template": "{{ value_json.state }}",
        }
        return self._sensor("binary_sensor", topic, of, shows, says)

    def _sensor(
        self,
        component: str,
        topic: str,
        of: Figure | Alarm,
        shows: dict[str, str],
        says: dict[str, object],
    ) -> Sensor:
        name = f"{topic}_{_slug(*of.key)}"
        state_topic = f"{self.prefix}/{topic}/{_slug(*of.key)}"
        config = shows | {
            "unique_id": f"{self.node}_{name}",
            "state_topic": state_topic,
            "json_attributes_topic": state_topic,
            "availability_topic": self.status,
            "qos": 1,
            "device": {
                "identifiers": [f"{self.node}_{_slug(of.location_id)}"],
                "name": of.location,
                "manufacturer": "capturekit",
            },
            "origin": {"name": "capturekit", "sw_version": __version__},
        }
        return Sensor(
            name=name,
            config_topic=f"{self.discovery}/{component}/{self.node}/{name}/config",
            config=json.dumps(config).encode(),
            state_topic=state_topic,
            state=json.dumps(says).encode(),
        )


def _slug(*ids: str) -> str:
    """Safe in a topic, readable, and another for every other id."""
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:10]
    return "_".join([*(_safe(one)[:40] for one in ids), digest])


def _safe(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_") or "x"
