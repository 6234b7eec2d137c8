"""The endpoints on a database of 10,000 devices and 1,000,000 captures, beside a small one.

The small one has a page of each: an empty page would cost less for another reason. Both are asked
in turns, request by request, in process without a server; figures are wall time, ratios are of the
medians. Rows are copied from one real capture, without pictures, runs and jobs of their own.

Run: ``python tests/benchmarks/bench_large.py [CAPTURES]``; on SQLite, then on Postgres.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from sqlalchemy import Table, func, select, text

from capturekit.database import Connection, Database
from capturekit.kit import CaptureKit
from capturekit.settings import Settings
from capturekit.store.schema import capture, device, location
from tests.benchmarks.bench_handler import call
from tests.made_pictures import picture
from tests.servers_postgres import running_postgres

DEVICES: Final = 10_000
CAPTURES: Final = 1_000_000
SMALL: Final = 200
"""Devices and captures of the small one: more than a page of each."""
TIMES: Final = 30
"""Each endpoint is asked on each."""
GOAL: Final = 2.0
CAMERA: Final = "camera"
ADMIN: Final = {"authorization": "Bearer admin-of-the-benchmark"}
PICTURE: Final = picture("4006381333931")

numbers = count()


class Place(NamedTuple):
    """A kit and what its requests name."""

    kit: CaptureKit
    token: str
    capture_id: str


@asynccontextmanager
async def place(
    folder: Path, database_url: str | None, devices: int, captures: int
) -> AsyncIterator[Place]:
    url = {} if database_url is None else {"database_url": database_url}
    settings = Settings.load(
        data_dir=folder,
        concurrency=0,
        rate_limits="off",
        adaptive_limits=False,
        admin_token=ADMIN["authorization"].removeprefix("Bearer "),
        max_queued=1_000_000,
        **url,
    )
    async with CaptureKit(settings, is_working=False) as kit:
        _, token = await kit.store.devices.add(CAMERA)
        bearer = {"authorization": f"Bearer {token}", "content-type": "image/jpeg"}
        await call(kit.app, "PUT", "/v1/devices/camera/frames/b-0", bearer, PICTURE)
    async with Database(settings.database, answer_s=3600) as database:
        capture_id = await fill(database, devices, captures)
    # Opened again, as after a night: it looks at what there is.
    async with CaptureKit(settings, is_working=False) as kit:
        yield Place(kit, token, capture_id)


async def fill(database: Database, devices: int, captures: int) -> str:
    """Rows like those that are there; the id of one capture."""

    def work(connection: Connection) -> str:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        name = {"id": "'d' || i", "location_id": "'d' || i"}
        copy(connection, location, devices, {"id": name["id"]})
        copy(connection, device, devices, name)
        past = f"received_at - 10 * ({captures} - i)"
        told = {
            # As long as a real one, and before it.
            "id": "'00' || CAST(1000000000000000000 + i AS TEXT)",
            "device_id": f"'d' || (i % {devices})",
            "key": "'k' || i",
            "sha256": "'picture ' || i",
            "captured_at": past,
            "received_at": past,
            "state": "'completed'",
        }
        copy(connection, capture, captures, told)
        return str(connection.scalars(select(func.max(capture.c.id))).one())

    return await database.write(work)


def copy(connection: Connection, table: Table, rows: int, told: dict[str, str]) -> None:
    """Copy the only row of a real device or its place or picture so often, some columns changed."""
    names = [column.name for column in table.columns]
    which = f"WHERE id = '{CAMERA}'" if table is not capture else ""
    connection.execute(
        text(
            f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608  # our own words
            f"WITH RECURSIVE n(i) AS "
            f"(SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows}) "
            f"SELECT {', '.join(told.get(name, name) for name in names)} "
            f"FROM (SELECT * FROM {table.name} {which}) AS real_one, n"
        )
    )


def asked(one: Place) -> dict[str, tuple[str, str, dict[str, str], bytes]]:
    """What is asked, by its name in the table."""
    upload = {"authorization": f"Bearer {one.token}", "content-type": "image/jpeg"}
    gets = (
        "/v1/captures",
        f"/v1/captures/{one.capture_id}",
        "/v1/devices",
        "/v1/devices/camera",
        "/v1/inventory",
        "/v1/inventory/history",
        "/v1/reviews",
        "/v1/admin/queue-info",
        "/v1/admin/stats",
        "/metrics",
        "/readyz",
    )
    found = {path: ("GET", path, ADMIN, b"") for path in gets}
    number = next(numbers)
    found["upload"] = (
        "PUT",
        f"/v1/devices/camera/frames/c-{number}",
        upload,
        PICTURE + b"%d" % number,
    )
    return found


async def compare(small: Place, large: Place) -> None:
    names = list(asked(small))
    for position, name in enumerate(names):
        took: dict[str, list[float]] = {"small": [], "large": []}
        for _ in range(TIMES):
            for which, one in (("small", small), ("large", large)):
                request = list(asked(one).values())[position]
                began = time.perf_counter()
                await call(one.kit.app, *request)
                took[which].append(1000 * (time.perf_counter() - began))
        before, after = (statistics.median(times[3:]) for times in took.values())
        missed = "" if after <= GOAL * before else f"   MISSED (goal {GOAL:g})"
        shown = name.replace(small.capture_id, "{id}")
        print(f"{shown:>24} {before:8.2f} ms {after:8.2f} ms {after / before:6.2f} x{missed}")


async def main(captures: int) -> None:
    with tempfile.TemporaryDirectory() as folder, running_postgres() as server:
        server.sql("CREATE DATABASE small", "CREATE DATABASE large")
        urls = {
            "SQLite": (None, None),
            "Postgres": (server.url("small"), server.url("large")),
        }
        for kind, (small_url, large_url) in urls.items():
            began = time.perf_counter()
            async with (
                place(Path(folder, kind, "small"), small_url, SMALL, SMALL) as small,
                place(Path(folder, kind, "large"), large_url, DEVICES, captures) as large,
            ):
                if kind == "Postgres":
                    server.sql("ANALYZE", database="large")
                filled_s = time.perf_counter() - began
                print(f"{kind}: {DEVICES} devices, {captures} captures, filled in {filled_s:.0f} s")
                await compare(small, large)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else CAPTURES)
