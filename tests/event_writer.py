"""Writes events for tests, as one of several processes: ``python -m tests.event_writer URL``.

Each line of standard input is a JSON object: how many ``events``, how long the transaction
``lasts_s``, whether it ``fails``, and whether it ``locks``, as all must. A line is printed when it
is done.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from capturekit.database import Connection, Database
from capturekit.store.outbox import tell
from capturekit.store.schema import lock_ledger

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Order:
    """One transaction to make."""

    events: int = 1
    lasts_s: float = 0.0
    fails: bool = False
    locks: bool = True


class Writer:
    """The process, seen from the test."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.event_writer", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.ordered = 0

    def order(self, order: Order) -> None:
        """Have it done some time."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(order)) + "\n")
        self.process.stdin.flush()
        self.ordered += 1

    def wait(self) -> None:
        """Until all that was ordered is done."""
        assert self.process.stdout is not None
        while self.ordered:
            assert self.process.stdout.readline() == "done\n"
            self.ordered -= 1


@contextmanager
def writing(url: str, count: int) -> Iterator[list[Writer]]:
    """So many writers, ended when the block is left."""
    writers = [Writer(url) for _ in range(count)]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.process.kill()
            writer.process.communicate()


async def _main(url: str) -> None:
    async with Database(url, is_checkpointing=False) as database:
        for line in sys.stdin:
            order = Order(**json.loads(line))
            with suppress(ValueError):
                await database.write(partial(_write, order=order))
            print("done", flush=True)


def _write(connection: Connection, order: Order) -> None:
    if order.locks:
        lock_ledger(connection)
    for number in range(order.events):
        tell(connection, "stock.changed", {"number": number}, time.time())
        time.sleep(order.lasts_s / order.events)
    if order.fails:
        raise ValueError


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
