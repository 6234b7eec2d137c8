"""Runs in a mount namespace of its own: a queue on a disk that fills up while jobs flow.

Prints the error that a submission meets meanwhile. Started by ``test_sql_servers.py``.
"""

import subprocess
import sys
from pathlib import Path

import anyio

from capturekit.errors import StorageError
from capturekit.queue.base import Job
from capturekit.queue.urls import open_queue
from tests.end_to_end.small_disk_scenario import fill
from tests.faults.crew import hired
from tests.faults.flow import flowing
from tests.faults.worlds import World


async def main(folder: Path, disk: Path) -> None:
    world = World(f"sqlite:///{disk / 'queue.db'}", folder)
    with hired(folder) as crew:
        async with open_queue(world.url) as queue, flowing(world, crew) as flow:
            fill(disk / "filler")
            try:
                # More than may be left in a page or two.
                await queue.submit(*[Job(id=f"{n}", kind="effect") for n in range(500)])
            except StorageError as error:
                print(type(error).__name__)
            # Longer than a lease.
            await anyio.sleep(1.0)
            (disk / "filler").unlink()
            await flow.goes_on()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
    anyio.run(main, folder, disk)
