"""Runs in a mount namespace of its own: the disk is full at each write of taking and processing.

Before each picture all of the disk is taken but for so many pages, more each time, until the whole
way from the upload to the stock fits; page by page, each write of it fails once. Arguments: folder,
first number of pages, last, step. Prints as JSON what came of it.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.errors import StorageError
from capturekit.kit import CaptureKit, Upload
from capturekit.settings import Settings
from capturekit.store import CaptureState
from tests.made_pictures import picture

PAGE = 4096
CODES = ("4006381333931", "5449000000996", "7610400075732", "3017620422003")


def codes_of(number: int) -> tuple[str, ...]:
    """Another number of codes each time, so that stock changes each time."""
    return CODES[: 1 + number % len(CODES)]


@contextmanager
def pages_left(disk: Path, pages: int) -> Iterator[None]:
    """All of the disk is taken but for so many pages."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    with filler.open("wb") as file:
        taken = status.f_bavail - pages
        if taken > 0:
            os.posix_fallocate(file.fileno(), 0, taken * status.f_bsize)
    try:
        yield
    finally:
        filler.unlink()


class Scenario:
    """A kit on the disk, and what was acknowledged."""

    def __init__(self, kit: CaptureKit, disk: Path) -> None:
        self._kit = kit
        self._disk = disk
        self.acknowledged: dict[str, int] = {}
        self.seen: Counter[str] = Counter()

    async def take(self, number: int, pages: int) -> str | None:
        """Upload with so much space; the capture's id when it was acknowledged."""
        upload = Upload(
            picture(*codes_of(number)) + b"%d" % number, "camera", captured_at=1e9 + number
        )
        with pages_left(self._disk, pages):
            try:
                capture, _ = await self._kit.receive(upload)
            except StorageError as error:
                self.seen[f"upload: {type(error).__name__}"] += 1
                return None
        self.acknowledged[capture.id] = number
        return capture.id

    async def process(self, capture_id: str, pages: int) -> None:
        """Process with so much space, for a while; then there is space again."""
        job_id, _ = await self._kit.processing.submit(capture_id)
        has_ended = anyio.Event()

        async def run() -> None:
            try:
                status = await self._kit.worker.run_job(job_id, timeout_s=0.05)
                self.seen[f"job: {status.state}"] += 1
            except StorageError as error:
                self.seen[f"job: {type(error).__name__}"] += 1
            has_ended.set()

        async with anyio.create_task_group() as tasks:
            with pages_left(self._disk, pages):
                tasks.start_soon(run)
                with anyio.move_on_after(0.2):
                    await has_ended.wait()

    async def finish(self) -> None:
        """With space again, all that was acknowledged is processed."""
        for capture_id in self.acknowledged:
            job_id, _ = await self._kit.processing.submit(capture_id)
            await self._kit.worker.run_job(job_id, timeout_s=20)

    async def told(self) -> dict[str, object]:
        captures = [await self._kit.store.captures.get(id_) for id_ in self.acknowledged]
        stock = {row.item_id: row.quantity async for row in self._kit.store.inventory.all_stock()}
        newest = max(self.acknowledged.values())
        expected = {code: int(code in codes_of(newest)) for code in CODES}
        proof = await self._kit.store.inventory.verify()
        found = await self._kit.storage.verify()
        counts = await self._kit.store.captures.counts()
        folder = self._disk / "data"
        return {
            "acknowledged": len(captures),
            "stored": sum(counts.values()),
            "completed": sum(capture.state is CaptureState.COMPLETED for capture in captures),
            "wrong": {
                code: stock.get(code) for code in CODES if stock.get(code, 0) != expected[code]
            },
            "faults": [str(finding) for finding in proof.findings],
            "lost": [str(fault) for fault in found.faults],
            "leftovers": [str(path) for path in folder.rglob("*.part")],
            "seen": dict(sorted(self.seen.items())),
        }


async def main(disk: Path, steps: range) -> None:
    settings = Settings.load(data_dir=disk / "data", concurrency=1, rate_limits="off")
    async with CaptureKit(settings, is_working=False) as kit:
        await kit.store.devices.add("camera", is_exhaustive=True)
        scenario = Scenario(kit, disk)
        kept = await scenario.take(0, 10**6)
        assert kept is not None
        for pages in steps:
            capture_id = await scenario.take(2 * pages + 1, pages)
            if capture_id is None:
                capture_id = await scenario.take(2 * pages + 2, 10**6)
                assert capture_id is not None
            await scenario.process(capture_id, pages)
        await scenario.finish()
        print(json.dumps(await scenario.told()))


if __name__ == "__main__":
    disk = Path(sys.argv[1]) / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    anyio.run(main, disk, range(*map(int, sys.argv[2:])))
