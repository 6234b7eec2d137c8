"""The statements that each picture needs: prepared ones of the store beside raw sqlite3.

The same SQL with the same values on the same connection, by turns within one run; each line is the
median of many rounds. What is above 1 is what our layer costs: values put into the database's
types, rows into Python's, and a look-up. The last column is SQLAlchemy's own way, for comparison.

Run: ``python tests/benchmarks/bench_core.py``
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import anyio
from sqlalchemy import Connection

from capturekit.database import Database
from capturekit.database.prepared import Prepared, driver_of
from capturekit.kit import CaptureKit, Upload
from capturekit.settings import Settings
from capturekit.store import blob_records, captures, devices
from tests.made_pictures import picture

GOAL: Final = 2.0
ROUNDS: Final = 60
IN_A_ROUND: Final = 50
numbers = itertools.count()


def cases(
    known: str, token_hash: str
) -> dict[str, tuple[Prepared, Callable[[], dict[str, object]]]]:
    """Statements with what makes their values."""
    new = captures.NewCapture("camera", "k", "0" * 64, 1, "image/jpeg", 640, 480)

    def row() -> dict[str, object]:
        made = captures._received(new, 1e9)  # noqa: SLF001  # the statement's own values
        values = {name: getattr(made, name) for name in captures.Capture.__slots__}
        return values | {"flags": [], "id": f"c{next(numbers)}", "key": f"k{next(numbers)}"}

    return {
        "whose token": (devices._CREDENTIAL, lambda: {"token_hash": token_hash}),  # noqa: SLF001
        "the device": (devices._DEVICE, lambda: {"device": "camera"}),  # noqa: SLF001
        "device was seen": (
            captures._TOUCH,  # noqa: SLF001
            lambda: {"device": "camera", "at": 1e9, "told_battery_v": 3.9, "told_rssi": -60},
        ),
        "known upload?": (captures._KNOWN, lambda: {"device": "camera", "key": "none"}),  # noqa: SLF001
        "blob is deleted?": (blob_records._DOOMED, lambda: {"sha256": "0" * 64}),  # noqa: SLF001
        "insert a capture": (captures._INSERT, row),  # noqa: SLF001
        "the capture": (captures._CAPTURE, lambda: {"wanted": known}),  # noqa: SLF001
        "begin to process": (
            captures._START,  # noqa: SLF001
            lambda: {"wanted": known, "to_series": 0, "to_attempt": next(numbers) + 1},
        ),
    }


def took_us(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(IN_A_ROUND):
        work()
    return 1e6 * (time.perf_counter() - began) / IN_A_ROUND


def _round_us(run: Callable[[Any], object], values: Callable[[], object]) -> float:
    given = iter([values() for _ in range(IN_A_ROUND)])
    return took_us(lambda: run(next(given)))


def compare(
    connection: Connection, statement: Prepared, made: Callable[[], Mapping[str, object]]
) -> tuple[float, ...]:
    """Microseconds of ours, raw and SQLAlchemy's."""
    form = statement._compiled(connection)  # noqa: SLF001  # the SQL it was compiled to
    core, driver = statement._statement, driver_of(connection)  # noqa: SLF001
    is_query = core.is_select

    def driver_values() -> object:
        return form.values(made())

    def ours(given: Mapping[str, object]) -> object:
        return (statement.rows if is_query else statement.count)(connection, **given)

    def raw(values: object) -> object:
        cursor = driver.execute(form.sql, values)
        return cursor.fetchall() if is_query else cursor

    def by_core(given: Mapping[str, object]) -> object:
        answer = connection.execute(core, dict(given))
        return answer.all() if is_query else answer

    ways: list[tuple[Callable[[Any], object], Callable[[], object]]] = [
        (ours, made),
        (raw, driver_values),
        (by_core, made),
    ]
    rounds = [[_round_us(run, values) for run, values in ways] for _ in range(ROUNDS)]
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))


def show(name: str, took: tuple[float, ...]) -> None:
    ours, raw, core = took
    print(f"{name:20}{ours:6.1f} µs{raw:6.1f} µs{core:6.1f} µs   {ours / raw:.2f}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(data_dir=folder, concurrency=0, rate_limits="off")
        async with CaptureKit(settings, is_working=False) as kit:
            _, token = await kit.store.devices.add("camera")
            kept, _ = await kit.receive(Upload(picture("4006381333931"), "camera", captured_at=1e9))
            database: Database = kit._database  # noqa: SLF001
            named = cases(kept.id, devices._hash(token))  # noqa: SLF001
            print(
                f"{'':20}{'ours':>9}{'sqlite3':>9}{'Core':>9}   ours by sqlite3 (goal <= {GOAL:g})"
            )
            total: tuple[float, ...] = (0.0, 0.0, 0.0)
            for name, (statement, made) in named.items():
                work = partial(compare, statement=statement, made=made)
                ours, raw, core = await database.write(work)
                show(name, (ours, raw, core))
                total = tuple(map(sum, zip(total, (ours, raw, core), strict=True)))
            show("all of them", total)


if __name__ == "__main__":
    anyio.run(main)
