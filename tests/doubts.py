"""Observations that wait for a person."""

import asyncio
from pathlib import Path

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.settings import Settings
from capturekit.store import RunRecord, Store


def doubt(data: Path, capture_id: str, item: str = "tea") -> None:
    """Let a pipeline that is not sure speak for a capture of this data folder."""
    asyncio.run(_doubt(Settings.load(data_dir=data).database, capture_id, item))


async def _doubt(url: str, capture_id: str, item: str) -> None:
    async with Database(url, is_checkpointing=False) as database:
        captures = Store(database).captures
        series = (await captures.next_series(capture_id)).series
        await captures.start(capture_id, series, 1)
        saw = Observation(analyser="model", item=item, confidence=0.2, quantity=3)
        record = RunRecord("unsure", 1.0, 1.0, {}, (saw,))
        await captures.finish(capture_id, series, 1, record)
