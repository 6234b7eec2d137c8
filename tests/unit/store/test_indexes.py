"""No question that the application asks reads all of a table that grows.

Every statement of a tour through the store and the queue is explained by its engine. On Postgres
scans are priced out of reach first: one that is planned all the same has no index to use.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, event

from capturekit.database import Database, prepared
from capturekit.frame import Observation
from capturekit.queue.base import Job, JobError, WorkerInfo
from capturekit.queue.sql import SqlQueue
from capturekit.store import (
    CaptureState,
    DeviceConfig,
    MovementKind,
    NewMovement,
    NewPolicy,
    RunRecord,
    Selection,
    StockSort,
    Store,
)
from tests.unit.store.conftest import Clock, Photograph

pytestmark = pytest.mark.anyio

BIG: Final = (
    *("capture", "run", "run_scope", "observation", "verdict", "live_count", "live_scope"),
    *("move", "movement", "stock", "item", "item_code", "event", "webhook_attempt", "alert"),
    *("job", "job_tally", "claim", "used_nonce", "device_config"),
)

COARSE: Final = ("ix_observation_doubtful", "AUTOMATIC")
"""Indexes that narrow down little, good for the order of a page alone; and what SQLite calls one
that it makes for the one statement, from all rows."""

MAY_SCAN: Final = (
    # The list by the time when something was last seen, and a search by part of a name.
    (r"FROM stock JOIN item", r"ORDER BY coalesce\(stock\.last_seen_at"),
    (r"FROM stock|FROM item", r"LIKE"),
    # Numbers for the statistics: of the catalogue, of captures by state, of open proposals.
    (r"SELECT count\(\*\) AS count_1 \nFROM item$",),
    (r"SELECT capture.state, count\(\*\)",),
    (r"SELECT count\(\*\) AS count_1 \nFROM observation",),
    # Counts that are not believed, and movements of lots, by indexes that hold no others.
    (r"^SELECT live_count.run_id", r"live_count.is_plausible IS 0"),
    (r"FROM movement JOIN lot", r"lot.expires_on <="),
)
"""Statements that match all expressions of a line, and why."""


@dataclass
class Statements:
    """What was asked of an engine, once each, with the values of the first time."""

    asked: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def noted(self) -> Iterator[None]:
        # SQLAlchemy's own type for the values is Any.
        def note(_c: object, _cursor: object, sql: str, *rest: Any) -> None:  # noqa: ANN401
            verb = sql.split(None, 1)[0].upper()
            if verb in ("SELECT", "UPDATE", "DELETE", "WITH", "INSERT"):
                self.asked.setdefault(sql, rest[0][0] if isinstance(rest[0], list) else rest[0])

        def note_prepared(sql: str, values: object) -> None:
            note(None, None, sql, tuple(values) if isinstance(values, list) else values)

        event.listen(Engine, "before_cursor_execute", note)
        prepared.watchers.append(note_prepared)
        try:
            yield
        finally:
            prepared.watchers.remove(note_prepared)
            event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
async def queue(database: Database, clock: Clock) -> AsyncIterator[SqlQueue]:
    async with SqlQueue(database, clock=clock) as queue:
        yield queue


async def facts(store: Store, photograph: Photograph) -> None:
    inventory = store.inventory
    await store.devices.add("cam", is_exhaustive=True)
    await inventory.add_item("tea", "Tea")
    await inventory.add_location("shelf")
    await inventory.set_par_level("tea", "cam", 2)
    seen = (
        Observation(analyser="codes", code="400", confidence=0.9),
        Observation(analyser="model", item="tea", confidence=0.2),
    )
    capture = await photograph("cam", "k", 5.0, seen)
    (first, *_) = (await inventory.proposals()).rows
    await inventory.accept(first.observation_id, "ana")
    await inventory.correct(first.observation_id, "ana", item="tea", quantity=2)
    await inventory.withdraw(first.observation_id)
    await inventory.set_policy(NewPolicy(item="tea", threshold=0.4, max_step_per_hour=3))
    await photograph(
        "cam", "far", 6.0, [Observation(analyser="model", item="tea", quantity=90, confidence=1)]
    )
    await inventory.assign_code("400", "tea", 6)
    received = NewMovement(MovementKind.RECEIVE, "tea", 3, target="cam", lot="L1", key="once")
    moved, _ = await inventory.move(received)
    await inventory.move(received)
    await inventory.void(moved.id)
    await inventory.import_items(b"item,location,count\ntea,shelf,7\n")
    series = (await store.captures.next_series(capture.id)).series
    await store.captures.start(capture.id, series, 1)
    await store.captures.finish(capture.id, series, 1, RunRecord("v2", 6.0, 6.0, {}))
    await inventory.choose_run(capture.id, "v1", dry_run=True)
    await inventory.choose_run(capture.id, "v1")
    await inventory.remove_policy(item="tea")


async def questions_of_devices(store: Store) -> None:
    _, token = await store.devices.add("door")
    await store.devices.authenticate(token)
    await store.devices.rotate("door", grace_s=9.0)
    await store.devices.signers("door")
    await store.fleet.configure("door", DeviceConfig(every_s=60))
    await store.fleet.entry("door")
    claim, code = await store.claims.offer("door")
    await store.claims.code(claim.id)
    await store.claims.use(code)
    await store.devices.revoke("door")
    await store.nonces.spend(await store.nonces.issue(), b"signature")
    await store.nonces.prune()


async def questions(store: Store) -> None:
    inventory = store.inventory
    for sort in StockSort:
        page = await inventory.stock(sort=sort, limit=1)
        if page.next:
            await inventory.stock(sort=sort, limit=1, cursor=page.next)
    await inventory.stock(location="cam")
    await inventory.stock(item="tea")
    await inventory.stock(text="tea")
    await inventory.stock(as_of=7.0, item="tea")
    await inventory.why("tea", "cam")
    await inventory.why("tea", "cam", as_of=5.5)
    for item, place in product((None, "tea"), (None, "cam")):
        lines = await inventory.history(item=item, location=place, limit=1)
        await inventory.history(item=item, location=place, limit=1, cursor=lines.next)
    proposed = await inventory.proposals(limit=1)
    await inventory.proposals(limit=1, cursor=proposed.next)
    await inventory.policies()
    await store.captures.to_reprocess("v1", Selection(device="cam", since=1.0, fingerprint="v2"))
    await store.captures.has_run("none", "v1")
    await inventory.lots("tea")
    await inventory.expiring()
    await inventory.forecast("tea", days=2)
    await inventory.items()
    await inventory.par_levels()
    await inventory.alerts()
    await inventory.alerts(item="tea", is_open=False)
    await inventory.counts()


async def questions_of_captures(store: Store) -> None:
    captures = store.captures
    (one, *_) = (await captures.list(limit=1)).rows
    for state in (None, CaptureState.COMPLETED):
        for device in (None, "cam"):
            await captures.list(state=state, device_id=device, limit=1, cursor=one.id)
    await captures.counts()
    await captures.due()
    await captures.current_run(one.id)
    await captures.run_before(one, "v1")
    await store.outbox.after(0)
    await store.outbox.after(0, kinds=["stock.changed"])
    await store.outbox.before(3.0)
    await store.outbox.prune(0.0)
    await store.blob_records.needed(["ab" * 32])
    await store.blob_records.doom(["cd" * 32])


async def jobs(queue: SqlQueue) -> None:
    names = [Job(id=name, kind="test", batch="b", unique_key=name) for name in "abcd"]
    await queue.submit(*names, Job(id="e", kind="test", concurrency_key="k", delay_s=9.0))
    worker = WorkerInfo(id="w", host="h", pid=1, concurrency=2, started_at=1.0, heartbeat_at=1.0)
    await queue.heartbeat(worker, [])
    first, second, third = await queue.claim("w", limit=3)
    await queue.finish(first)
    await queue.fail(second, JobError(type="Boom", message="", attempt=1), is_permanent=True)
    await queue.release(third)
    await queue.claim("w", queues=["default"], job_id="d")
    await queue.cancel("c")
    await queue.batch("b")
    await queue.retry_failed(batch="b")
    await queue.statuses()
    await queue.stats()
    await queue.workers()
    await queue.orders("w", [])
    await queue.prune(older_than_s=0.0, keep=1)


async def test_no_big_table_is_read_whole(
    store: Store, queue: SqlQueue, photograph: Photograph, database: Database
) -> None:
    statements = Statements()
    with statements.noted():
        await facts(store, photograph)
        await questions(store)
        await questions_of_captures(store)
        await questions_of_devices(store)
        await jobs(queue)
    assert len(statements.asked) > 100

    scans = await database.read(lambda connection: _scans(connection, statements.asked))

    assert not scans, "\n\n".join(scans)


async def test_a_missing_index_is_found(
    store: Store, photograph: Photograph, database: Database
) -> None:
    drop = "DROP INDEX ix_capture_current_run_id"
    await database.write(lambda connection: connection.exec_driver_sql(drop).close())
    await facts(store, photograph)
    statements = Statements()
    with statements.noted():
        await store.inventory.proposals()

    scans = await database.read(lambda connection: _scans(connection, statements.asked))

    assert any("capture" in scan for scan in scans)


def _scans(connection: Connection, asked: dict[str, Any]) -> list[str]:
    """The statements that read a big table whole, with their plans."""
    found: list[str] = []
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    for sql, values in asked.items():
        words = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
        rows = connection.exec_driver_sql(words + sql, values)
        plan = [str(row[-1]) for row in rows]
        names = _scanned_by_sqlite(plan, sql) if is_sqlite else _scanned_by_postgres(plan)
        scanned = {_table(sql, name) for name in names}
        if scanned & set(BIG) and not _may_scan(sql):
            found.append("\n".join([f"{sorted(scanned)}: {sql}", *plan]))
    return found


def _scanned_by_postgres(plan: list[str]) -> list[str]:
    return re.findall(r"Seq Scan on (\w+)", "\n".join(plan))


def _scanned_by_sqlite(plan: list[str], sql: str) -> list[str]:
    # Read in the order of an index or of the rows, the outermost table ends where a limit says.
    is_page = "LIMIT" in sql and not any("USE TEMP B-TREE FOR ORDER BY" in line for line in plan)
    found = [_WHOLE.match(line) for line in plan[is_page:]]
    return [match[1] or match[2] for match in found if match]


_WHOLE: Final = re.compile(rf"SCAN (\w+)|SEARCH (\w+) USING .*({'|'.join(COARSE)})")


def _table(sql: str, name: str) -> str:
    """The table that the name stands for in the statement."""
    found = re.search(rf"(\w+) AS {name}\b", sql)
    return found[1] if found else name


def _may_scan(sql: str) -> bool:
    return any(all(re.search(part, sql) for part in parts) for parts in MAY_SCAN)
