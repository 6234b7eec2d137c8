"""Silence is looked for once: what stock remembers of it holds through every change of runs."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import NewCapture, RunRecord, Store, fold

SAYS: Final = {
    "count": (Observation(analyser="m", item="tea", quantity=4, confidence=0.9),),
    "doubt": (Observation(analyser="m", item="tea", quantity=9, confidence=0.1),),
    "silence": (),
}


class Say(NamedTuple):
    """A new version of the pipeline looks at the picture taken at that time; or the first does."""

    at: int
    says: str


class Choose(NamedTuple):
    """Let an earlier version speak again for the picture of that time."""

    at: int
    version: int


SAYINGS = st.builds(Say, st.integers(1, 5), st.sampled_from([*SAYS]))
CHOICES = st.builds(Choose, st.integers(1, 5), st.integers(0, 3))
STORIES = st.lists(SAYINGS | CHOICES, min_size=1, max_size=16)

NEWEST_TAKEN_BACK = (
    Say(1, "silence"),
    Say(2, "count"),
    Say(4, "silence"),
    Say(3, "silence"),
    Say(4, "doubt"),
)
"""The newest silence is taken back: an older one holds, which nobody has looked for."""

COUNT_TAKEN_BACK = (Say(2, "silence"), Say(4, "count"), Say(1, "count"), Say(4, "doubt"))
"""The count from which on silence was looked for is taken back."""


class Teller:
    """Tells a story to a store and to an oracle."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: dict[int, str] = {}
        self._runs: dict[int, list[str]] = {}
        self._speaks: dict[int, int] = {}

    async def tell(self, part: Say | Choose) -> None:
        if isinstance(part, Say):
            await self._say(part)
        elif part.version < len(self._runs.get(part.at, ())):
            await self._store.inventory.choose_run(self._ids[part.at], f"v{part.version}")
            self._speaks[part.at] = part.version

    async def _say(self, part: Say) -> None:
        captures, runs = self._store.captures, self._runs.setdefault(part.at, [])
        if not runs:
            named = NewCapture("cam", f"{part.at}", "ab" * 32, 9, "image/jpeg", 4, 3)
            new = replace(named, captured_at=float(part.at))
            capture, _ = await captures.record(new, lambda _connection, _capture: None)
            self._ids[part.at] = capture.id
        else:
            await captures.next_series(self._ids[part.at])
        version = len(runs)
        await captures.start(self._ids[part.at], version, 1)
        record = RunRecord(f"v{version}", 1.0, 1.0, {}, SAYS[part.says])
        await captures.finish(self._ids[part.at], version, 1, record)
        runs.append(part.says)
        self._speaks[part.at] = version

    def expected(self) -> int:
        """By the newest picture that does not doubt."""
        for at in sorted(self._runs, reverse=True):
            says = self._runs[at][self._speaks[at]]
            if says != "doubt":
                return 4 if says == "count" else 0
        return 0

    async def stock(self) -> int:
        page = await self._store.inventory.stock(item="tea")
        return sum(row.quantity for row in page.rows)


async def told(url: str, story: Sequence[Say | Choose]) -> None:
    async with Database(url) as database:
        store = Store(database, clock=time.time)
        await store.devices.add("cam", is_exhaustive=True)
        await store.inventory.add_item("tea", "Tea")
        teller = Teller(store)
        for part in story:
            await teller.tell(part)
            assert await teller.stock() == teller.expected(), part
        assert (await store.inventory.verify()).is_proved


@given(story=STORIES)
@example(story=NEWEST_TAKEN_BACK)
@example(story=COUNT_TAKEN_BACK)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_stock_is_that_of_the_newest_picture_without_a_doubt(
    template: bytes, tmp_path: Path, story: Sequence[Say | Choose]
) -> None:
    file = tmp_path / "story.db"
    for path in tmp_path.iterdir():
        path.unlink()
    file.write_bytes(template)
    asyncio.run(told(f"sqlite:///{file}", story))


@pytest.mark.parametrize("story", [NEWEST_TAKEN_BACK, COUNT_TAKEN_BACK])
def test_a_look_that_is_too_short_is_found(
    template: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    story: Sequence[Say | Choose],
) -> None:
    monkeypatch.setattr(fold, "_is_near_enough", lambda row: row["silence_from"] is not None)
    (tmp_path / "story.db").write_bytes(template)
    with pytest.raises(AssertionError):
        asyncio.run(told(f"sqlite:///{tmp_path}/story.db", story))
