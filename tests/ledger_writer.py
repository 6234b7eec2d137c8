"""A process that tells a ledger random facts, and prints which: run beside others like it.

usage: python -m tests.ledger_writer URL NAME COUNT
"""

import asyncio
import json
import random
import sys
from dataclasses import asdict
from typing import Final

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import MovementKind, NewCapture, NewMovement, RunRecord, Store
from tests.ledger_oracle import CODES, DEVICES, LOCATIONS, NOW, THRESHOLD, VERSIONS

NAMES: Final = [*((code, None) for code in CODES), (None, "X"), (None, "A")]
"""Codes, and items."""


class Writer:
    """Tells facts, each of a key that is its own, about things that are everyone's."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._random = random.Random(name)
        self._captures: list[str] = []
        self._movements: list[str] = []
        self.shots: list[dict[str, object]] = []
        self.deeds: list[dict[str, object]] = []

    async def tell(self) -> None:
        kinds = [self._picture, self._picture, self._again, self._move, self._void, self._choose]
        await self._random.choice(kinds)()

    async def _picture(self) -> None:
        device = self._random.choice(DEVICES)
        key = f"{self._name}-{len(self.shots)}"
        at = float(self._random.randint(1, 40))
        new = NewCapture(device, key, "00" * 32, 1, "image/jpeg", 8, 8, captured_at=at)
        capture, _ = await self._store.captures.record(new, lambda _connection, _capture: None)
        self._captures.append(capture.id)
        self.shots.append({"device": device, "key": key, "at": at, "runs": {}})
        await self._process(len(self.shots) - 1, VERSIONS[0])

    async def _again(self) -> None:
        if self.shots:
            number = self._random.randrange(len(self.shots))
            await self._process(number, self._random.choice(VERSIONS))

    async def _process(self, number: int, version: str) -> None:
        captures, capture_id = self._store.captures, self._captures[number]
        series = (await captures.next_series(capture_id)).series
        await captures.start(capture_id, series, 1)
        seen = [self._sighting() for _ in range(self._random.randint(0, 3))]
        await captures.finish(capture_id, series, 1, RunRecord(version, NOW, NOW, {}, tuple(seen)))
        runs = self.shots[number]["runs"]
        assert isinstance(runs, dict)
        runs.setdefault(version, [one.model_dump(mode="json") for one in seen])
        self.shots[number]["current"] = version

    def _sighting(self) -> Observation:
        code, item = self._random.choice(NAMES)
        return Observation(
            analyser="made",
            code=code,
            item=item,
            quantity=self._random.randint(0, 4),
            confidence=self._random.choice([0.2, THRESHOLD, 0.9]),
            location=self._random.choice([None, None, "cam", "bin"]),
        )

    async def _choose(self) -> None:
        chosen = [shot for shot in self.shots if len(dict(shot["runs"])) > 1]  # type: ignore[call-overload]
        if chosen:
            shot = self._random.choice(chosen)
            version = self._random.choice(VERSIONS)
            capture_id = self._captures[self.shots.index(shot)]
            await self._store.inventory.choose_run(capture_id, version)
            shot["current"] = version

    async def _move(self) -> None:
        kind = self._random.choice(list(MovementKind))
        source, target = self._random.sample(LOCATIONS, 2)
        has_source = kind in (MovementKind.USE, MovementKind.MOVE, MovementKind.WRITE_OFF)
        has_target = kind in (MovementKind.RECEIVE, MovementKind.MOVE, MovementKind.COUNT)
        new = NewMovement(
            kind,
            self._random.choice(["A", "B", "X"]),
            self._random.randint(1, 4),
            source if has_source else None,
            target if has_target else None,
            at=float(self._random.randint(1, 40)),
            key=f"{self._name}-{len(self.deeds)}",
            may_go_negative=True,
        )
        done, _ = await self._store.inventory.move(new)
        self._movements.append(done.id)
        self.deeds.append({"new": asdict(new), "is_voided": False})

    async def _void(self) -> None:
        if self.deeds:
            number = self._random.randrange(len(self.deeds))
            await self._store.inventory.void(self._movements[number])
            self.deeds[number]["is_voided"] = True


async def main(url: str, name: str, count: int) -> None:
    async with Database(url, is_checkpointing=name == "0") as database:
        writer = Writer(Store(database, clock=lambda: NOW, threshold=THRESHOLD), name)
        for _ in range(count):
            await writer.tell()
    json.dump({"shots": writer.shots, "deeds": writer.deeds}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
