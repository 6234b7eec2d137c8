"""Stock, recomputed from the list of all facts each time it is asked for.

It shares no code with the fold, and is written as plainly as can be. The story is of two
cameras, three places and a few items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import JsonValue

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import MovementKind, NewMovement, Store, migrations

NOW = 1_000.0
DEVICES = ("cam", "eye")
SEEN_WHOLE = {"cam": "cam", "eye": "bin"}
"""The location that a device sees whole: its own, and one of its views."""
LOCATIONS = ("cam", "eye", "bin")
ITEMS = ("A", "B", "X")
"""A and B are codes too. The code C is known to nobody until it is read."""
CODES = ("A", "B", "C")
VERSIONS = ("v1", "v2")
THRESHOLD = 0.5

LEVELS = {("A", "cam"): (2, 4), ("X", "eye"): (1, 3)}
"""Par levels: low from the first number down, until the second is reached again."""

WITHIN = {"cam": ("cam",), "eye": ("eye", "bin"), "bin": ("bin",)}
"""A place, and those below it: a view of eye lies in it."""


async def furnish(url: str) -> None:
    """Make the tables, devices, locations, items and levels of the story."""
    async with Database(url) as database:
        await migrations.upgrade(database)
        store = Store(database, clock=lambda: NOW)
        await store.devices.add("cam", is_exhaustive=True)
        await store.devices.add("eye")
        await store.devices.add_view("eye", "bin", is_exhaustive=True)
        for item in ITEMS:
            await store.inventory.add_item(item, item)
        for (item, location), (minimum, restock) in LEVELS.items():
            await store.inventory.set_par_level(item, location, minimum, restock_at=restock)


@dataclass
class Shot:
    """A picture, and what the versions of the pipeline said about it."""

    device: str
    key: str
    at: float
    runs: dict[str, list[Observation]] = field(default_factory=dict)
    current: str | None = None


@dataclass
class Deed:
    """Something a person did."""

    key: str
    new: NewMovement
    at: float
    is_voided: bool = False


class Seen(NamedTuple):
    """Names one observation."""

    shot: int
    version: str
    place: int


@dataclass
class Facts:
    """All that was ever said, and nothing worked out from it."""

    shots: list[Shot] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    verdicts: dict[Seen, bool] = field(default_factory=dict)
    codes: dict[str, tuple[str, int]] = field(default_factory=dict)

    def meaning(self, observation: Observation) -> tuple[str, int]:
        if observation.code is not None:
            return self.codes.get(observation.code, (observation.code, 1))
        return self.of_item(observation.item or "")

    def of_item(self, name: str) -> tuple[str, int]:
        meant = self.codes.get(name, (name, 1))
        return (name, 1) if meant[0] == name else meant

    def counts(self, item: str, location: str) -> list[tuple[float, str, str, int]]:
        found: list[tuple[float, str, str, int]] = []
        for number, shot in enumerate(self.shots):
            reports = self.reports(number, item, location)
            live = [quantity for quantity, is_live in reports if is_live]
            is_silent = shot.current and not reports and SEEN_WHOLE[shot.device] == location
            if live or is_silent:
                found.append((shot.at, shot.device, shot.key, sum(live)))
        for deed in self.deeds:
            meant, units = self.of_item(deed.new.item)
            is_count = deed.new.kind is MovementKind.COUNT and not deed.is_voided
            if is_count and meant == item and deed.new.target == location:
                found.append((deed.at, "~", deed.key, deed.new.quantity * units))
        return found

    def reports(self, number: int, item: str, location: str) -> list[tuple[int, bool]]:
        """What the shot says of the item there: quantities, and whether they count."""
        shot, found = self.shots[number], list[tuple[int, bool]]()
        if shot.current is None:
            return found
        for place, one in enumerate(shot.runs[shot.current]):
            meant, units = self.meaning(one)
            if meant == item and (one.location or shot.device) == location:
                verdict = self.verdict(Seen(number, shot.current, place))
                is_live = one.confidence >= THRESHOLD if verdict is None else verdict
                found.append((one.quantity * units, is_live))
        return found

    def verdict(self, seen: Seen) -> bool | None:
        """Its own, else that on the like of it in the other version: nothing has a box here."""
        if seen in self.verdicts:
            return self.verdicts[seen]
        shot = self.shots[seen.shot]
        rank = self._likes(shot, seen.version, shot.runs[seen.version][seen.place])
        nth = rank.index(seen.place)
        for version, others in shot.runs.items():
            if version == seen.version:
                continue
            likes = self._likes(shot, version, shot.runs[seen.version][seen.place])
            if nth < len(likes) and others:
                return self.verdicts.get(Seen(seen.shot, version, likes[nth]))
        return None

    @staticmethod
    def _likes(shot: Shot, version: str, one: Observation) -> list[int]:
        """Places of what came under the same name in the same location."""

        def name(of: Observation) -> tuple[str | None, str | None, str]:
            return of.code, of.item, of.location or shot.device

        return [place for place, other in enumerate(shot.runs[version]) if name(other) == name(one)]

    def quantity(self, item: str, location: str) -> int:
        counts = self.counts(item, location)
        since, quantity = -1.0, 0
        if counts:
            newest = max(counts)
            since, quantity = newest[0], newest[3]
        for deed in self.deeds:
            meant, units = self.of_item(deed.new.item)
            is_after = deed.at > since and not deed.is_voided
            if deed.new.kind is MovementKind.COUNT or meant != item or not is_after:
                continue
            if deed.new.target == location:
                quantity += deed.new.quantity * units
            if deed.new.source == location:
                quantity -= deed.new.quantity * units
        return quantity


def check_alerts(events: Sequence[tuple[str, Mapping[str, JsonValue]]]) -> int:
    """I10: each level was told low once when it was crossed downward; how often that was.

    ``events`` are kinds and payloads in order, from the first on.
    """
    stock: dict[tuple[str, str], int] = {}
    is_low = dict.fromkeys(LEVELS, False)
    crossings, cause = 0, object()
    for kind, told in [*events, ("end", {})]:
        if kind == "stock.changed":
            # While a change is written, not all of it is known.
            if told["cause"] != cause:
                _all_told(stock, is_low)
            cause = told["cause"]
            stock[str(told["item_id"]), str(told["location_id"])] = int(str(told["after"]))
        elif kind in ("stock.low", "stock.restocked"):
            level = str(told["item_id"]), str(told["location_id"])
            assert is_low[level] is (kind == "stock.restocked"), f"told twice: {kind} of {level}"
            is_low[level] = not is_low[level]
            assert _crossed(stock, level, is_low=not is_low[level]), f"told for nothing: {level}"
            crossings += is_low[level]
    _all_told(stock, is_low)
    return crossings


def _all_told(stock: Mapping[tuple[str, str], int], is_low: Mapping[tuple[str, str], bool]) -> None:
    for level, low in is_low.items():
        assert not _crossed(stock, level, is_low=low), f"not told: {level}"


def _crossed(stock: Mapping[tuple[str, str], int], level: tuple[str, str], *, is_low: bool) -> bool:
    item, location = level
    quantity = sum(stock.get((item, place), 0) for place in WITHIN[location])
    minimum, restock = LEVELS[level]
    return quantity >= restock if is_low else quantity <= minimum
