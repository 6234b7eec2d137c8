"""The ledger against an oracle that recomputes everything from the list of facts.

The oracle shares no code with the fold, and is written as plainly as can be. The machine tells
both the same story, late, doubled and corrected, and compares them after every step; then
the story is told in another order to an empty ledger, which must end the same. Last, faults
are planted, and the machine must find each of them.
"""

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import JsonValue
from sqlalchemy import Connection, RowMapping, text

from capturekit.database import Database
from capturekit.errors import LeaseLost
from capturekit.frame import Observation
from capturekit.store import (
    MovementKind,
    NewCapture,
    NewMovement,
    RunRecord,
    Store,
    fold,
    outbox,
    runs,
)
from capturekit.store.changes import Cause, Key
from capturekit.store.fold import index_captures, keys_of_runs, refold
from capturekit.store.schema import metadata
from tests.ledger_oracle import (
    CODES,
    DEVICES,
    ITEMS,
    LOCATIONS,
    NOW,
    THRESHOLD,
    VERSIONS,
    Deed,
    Facts,
    Seen,
    Shot,
    check_alerts,
    furnish,
)
from tests.servers_postgres import PostgresServer

T = TypeVar("T")

# The ledger under test


class SqlitePlace:
    """Databases with the story's places and items, in files of their own."""

    @staticmethod
    @cache
    def _furnished() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "furnished.db"
            asyncio.run(furnish(f"sqlite:///{path}"))
            return path.read_bytes()

    def take(self) -> str:
        path = Path(tempfile.mkdtemp()) / "ledger.db"
        path.write_bytes(self._furnished())
        return f"sqlite:///{path}"

    def give_back(self, url: str) -> None:
        shutil.rmtree(Path(url.removeprefix("sqlite:///")).parent)


_TABLES = [table.name for table in metadata.sorted_tables]
_KEEP = [
    "CREATE SCHEMA kept",
    *(f"CREATE TABLE kept.{name} AS TABLE public.{name}" for name in _TABLES),
]
_PUT_BACK = "; ".join(
    [
        f"TRUNCATE {', '.join(_TABLES)}",
        *(f"INSERT INTO {name} SELECT * FROM kept.{name}" for name in _TABLES),  # noqa: S608
    ]
)


def _make_anew(server: PostgresServer, name: str, like: str = "template1") -> None:
    """Tests may come in an order in which a place is made, left and made again."""
    server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    server.sql(f"CREATE DATABASE {name} TEMPLATE {like}")


class PostgresPlace:
    """Databases of a server, used again after their rows were put back as they were."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._free: list[str] = []
        self._count = 0
        _make_anew(server, "furnished")
        asyncio.run(furnish(server.url("furnished")))
        server.sql(*_KEEP, database="furnished")

    def take(self) -> str:
        if self._free:
            return self._free.pop()
        self._count += 1
        name = f"ledger_{self._count}"
        _make_anew(self._server, name, "furnished")
        return self._server.url(name)

    def give_back(self, url: str) -> None:
        self._server.sql(_PUT_BACK, database=url.partition("@/")[2].partition("?")[0])
        self._free.append(url)


class Look(NamedTuple):
    """The tables that every step is judged by."""

    lines: list[tuple[object, ...]]
    stock: dict[tuple[str, str], int]
    events: list[tuple[str, Mapping[str, JsonValue]]]
    alerts: int


def _rows(
    connection: Connection, query: str, values: Mapping[str, object]
) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(query), values)]


def _look(connection: Connection) -> Look:
    figures = _rows(connection, "SELECT item_id, location_id, quantity FROM stock", {})
    ((alerts,),) = _rows(connection, "SELECT count(*) FROM alert WHERE kind = 'low'", {})
    batch = outbox.after(connection, 0, 10_000, ())
    return Look(
        lines=_rows(connection, "SELECT * FROM move ORDER BY seq", {}),
        stock={(str(item), str(place)): int(str(units)) for item, place, units in figures},
        events=[(event.kind, event.data) for event in batch.events],
        alerts=int(str(alerts)),
    )


class World:
    """A store on a real database, driven from synchronous code; subclasses plant faults."""

    place: ClassVar[SqlitePlace | PostgresPlace] = SqlitePlace()
    threshold: ClassVar[float] = THRESHOLD
    is_blind: ClassVar[bool] = False

    def __init__(self) -> None:
        self.url = self.place.take()
        self._look: Look | None = None
        self.runner = asyncio.Runner()
        self.database = Database(self.url)
        self.run(self.database.__aenter__())
        self.store = Store(self.database, clock=lambda: NOW, threshold=self.threshold)
        self.jobs = 0

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a command, which may change anything."""
        self._look = None
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self.database.__aexit__(None, None, None))
        self.runner.close()
        self.place.give_back(self.url)

    def upload(self, device: str, key: str, at: float) -> str:
        new = NewCapture(device, key, "00" * 32, 1, "image/jpeg", 8, 8, captured_at=at)
        capture, _ = self.run(self.store.captures.record(new, self._count_job))
        return capture.id

    def _count_job(self, _connection: Connection, _capture: object) -> None:
        self.jobs += 1

    def start(self, capture_id: str) -> tuple[int, int]:
        series = self.run(self.store.captures.next_series(capture_id)).series
        self.run(self.store.captures.start(capture_id, series, 1))
        return series, 1

    def finish(
        self, capture_id: str, fence: tuple[int, int], version: str, seen: Sequence[Observation]
    ) -> None:
        record = RunRecord(version, NOW, NOW, {}, tuple(seen), is_blind=self.is_blind)
        self.run(self.store.captures.finish(capture_id, *fence, record))

    def process(self, capture_id: str, version: str, seen: Sequence[Observation]) -> None:
        self.finish(capture_id, self.start(capture_id), version, seen)

    def choose(self, capture_id: str, version: str) -> None:
        self.run(self.store.inventory.choose_run(capture_id, version))

    def decide(self, capture_id: str, version: str, index: int, *, is_accepted: bool) -> None:
        ids = self.rows(
            "SELECT o.id FROM observation o JOIN run r ON r.id = o.run_id"
            " WHERE r.capture_id = :capture AND r.fingerprint = :version ORDER BY o.id",
            capture=capture_id,
            version=version,
        )
        inventory = self.store.inventory
        decide = inventory.accept if is_accepted else inventory.reject
        self.run(decide(int(str(ids[index][0])), "someone"))

    def move(self, key: str, new: NewMovement, at: float) -> str:
        said = replace(new, key=key, at=at, may_go_negative=True)
        return self.run(self.store.inventory.move(said))[0].id

    def void(self, movement_id: str) -> None:
        self.run(self.store.inventory.void(movement_id))

    def assign(self, code: str, item: str, units: int) -> None:
        self.run(self.store.inventory.assign_code(code, item, units))

    def refold_all(self) -> None:
        keys = [Key(*key) for key in self.look().stock if not key[1].startswith("~")]
        again = partial(refold, keys=keys, cause=Cause("test", "again", NOW))
        self.run(self.database.write(again))

    def rows(self, query: str, **values: object) -> list[tuple[object, ...]]:
        return self.runner.run(self.database.read(partial(_rows, query=query, values=values)))

    def look(self) -> "Look":
        """What the tables hold now; read once between two commands."""
        if self._look is None:
            self._look = self.runner.run(self.database.read(_look))
        return self._look

    def figures(self) -> list[tuple[object, ...]]:
        """Real stock and all that is said about it, apart from ids and versions."""
        return self.rows(
            "SELECT item_id, location_id, quantity, confidence, counted_at, last_seen_at"
            " FROM stock WHERE substr(location_id, 1, 1) <> '~'"
            " AND (quantity <> 0 OR last_seen_at IS NOT NULL) ORDER BY 1, 2"
        )


# The machine

_times = st.integers(1, 6).map(float)
_sightings = st.lists(
    st.builds(
        lambda name, **rest: Observation(analyser="made", **name, **rest),
        st.sampled_from([{"code": code} for code in CODES] + [{"item": "X"}, {"item": "A"}]),
        quantity=st.integers(0, 4),
        confidence=st.sampled_from([0.2, 0.49, 0.5, 0.9]),
        location=st.sampled_from([None, None, "cam", "bin"]),
    ),
    max_size=4,
)


class LedgerMachine(RuleBasedStateMachine):
    world_class: ClassVar[type[World]] = World

    @initialize(seed=st.integers(0, 2**16))
    def open(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.facts = Facts()
        self.world = self.world_class()
        self.capture_ids: list[str] = []
        self.movement_ids: list[str] = []
        self.ledger: list[tuple[object, ...]] = []

    @rule(device=st.sampled_from(DEVICES), key=st.sampled_from("abc"), at=_times)
    def upload(self, device: str, key: str, at: float) -> None:
        capture_id = self.world.upload(device, key, at)
        if not any((shot.device, shot.key) == (device, key) for shot in self.facts.shots):
            self.facts.shots.append(Shot(device, key, at))
            self.capture_ids.append(capture_id)
        assert capture_id in self.capture_ids, "a retry of an upload made a second capture"
        assert self.world.jobs == len(self.facts.shots), "a retry of an upload made a second job"

    @precondition(lambda self: self.facts.shots)
    @rule(data=st.data(), version=st.sampled_from(VERSIONS), seen=_sightings)
    def process(self, data: st.DataObject, version: str, seen: list[Observation]) -> None:
        number = data.draw(_index(self.facts.shots))
        self.world.process(self.capture_ids[number], version, seen)
        self._ran(number, version, seen)

    @precondition(lambda self: self.facts.shots)
    @rule(data=st.data(), device=st.sampled_from(DEVICES), key=st.sampled_from("xyz"), at=_times)
    def picture(self, data: st.DataObject, device: str, key: str, at: float) -> None:
        """An upload that is processed at once, which is what happens most."""
        self.upload(device, key, at)
        number = next(
            index
            for index, shot in enumerate(self.facts.shots)
            if (shot.device, shot.key) == (device, key)
        )
        seen = data.draw(_sightings)
        self.world.process(self.capture_ids[number], "v1", seen)
        self._ran(number, "v1", seen)

    @precondition(lambda self: self._processed())
    @rule(data=st.data(), seen=st.just([]) | _sightings)
    def reprocess(self, data: st.DataObject, seen: list[Observation]) -> None:
        """By the other version; one that is known already speaks again as it did."""
        number = data.draw(st.sampled_from(self._processed()))
        other = "v1" if self.facts.shots[number].current == "v2" else "v2"
        self.world.process(self.capture_ids[number], other, seen)
        self._ran(number, other, seen)

    @precondition(lambda self: self._processed())
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """I5: the same job again, whatever the pipeline says this time."""
        number = data.draw(st.sampled_from(self._processed()))
        shot, before = self.facts.shots[number], self.world.figures()
        assert shot.current is not None
        self.world.process(self.capture_ids[number], shot.current, shot.runs[shot.current])
        assert self.world.figures() == before, "a redelivery had an effect"

    @precondition(lambda self: self.facts.shots)
    @rule(data=st.data(), version=st.sampled_from(VERSIONS), seen=_sightings)
    def cancel(self, data: st.DataObject, version: str, seen: list[Observation]) -> None:
        """I9: a run that is cancelled, and finishes all the same."""
        capture_id = self.capture_ids[data.draw(_index(self.facts.shots))]
        before = self.world.figures()
        fence = self.world.start(capture_id)
        self.world.run(self.world.store.captures.release(capture_id, *fence))
        with pytest.raises(LeaseLost):
            self.world.finish(capture_id, fence, version, seen)
        assert self.world.figures() == before, "a cancelled run had an effect"

    @precondition(lambda self: self._processed(2))
    @rule(data=st.data())
    def choose(self, data: st.DataObject) -> None:
        """I6: the other version and back is the identity; then the other stays."""
        number = data.draw(st.sampled_from(self._processed(2)))
        shot, capture_id, before = (
            self.facts.shots[number],
            self.capture_ids[number],
            self.world.figures(),
        )
        other = next(version for version in VERSIONS if version != shot.current)
        self.world.choose(capture_id, other)
        self.world.choose(capture_id, str(shot.current))
        assert self.world.figures() == before, "there and back is not the identity"
        self.world.choose(capture_id, other)
        shot.current = other

    @precondition(lambda self: self._sightings())
    @rule(data=st.data(), is_accepted=st.booleans())
    def decide(self, data: st.DataObject, is_accepted: bool) -> None:  # noqa: FBT001 - Hypothesis
        seen = data.draw(st.sampled_from(self._sightings()))
        self.world.decide(
            self.capture_ids[seen.shot], seen.version, seen.place, is_accepted=is_accepted
        )
        self.facts.verdicts[seen] = is_accepted

    @rule(
        kind=st.sampled_from(MovementKind),
        item=st.sampled_from(ITEMS),
        quantity=st.integers(1, 4),
        ends=st.permutations(LOCATIONS),
        at=_times,
    )
    def move(
        self, kind: MovementKind, item: str, quantity: int, ends: list[str], at: float
    ) -> None:
        has_source = kind in (MovementKind.USE, MovementKind.MOVE, MovementKind.WRITE_OFF)
        has_target = kind in (MovementKind.RECEIVE, MovementKind.MOVE, MovementKind.COUNT)
        source, target = ends[0] if has_source else None, ends[1] if has_target else None
        deed = Deed(
            str(len(self.facts.deeds)), NewMovement(kind, item, quantity, source, target), at
        )
        self.facts.deeds.append(deed)
        self.movement_ids.append(self.world.move(deed.key, deed.new, at))
        again = self.world.move(deed.key, deed.new, at)
        assert again == self.movement_ids[-1], "a movement said twice was done twice"

    @precondition(lambda self: self.facts.deeds)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        number = data.draw(_index(self.facts.deeds))
        self.world.void(self.movement_ids[number])
        self.facts.deeds[number].is_voided = True

    @rule(code=st.sampled_from(CODES), item=st.sampled_from(ITEMS), units=st.integers(1, 3))
    def assign(self, code: str, item: str, units: int) -> None:
        self.world.assign(code, item, units)
        self.facts.codes[code] = (item, units)

    @rule()
    def refold(self) -> None:
        # All but how far it looked for silence: from today's facts that may be further.
        query = (
            "SELECT item_id, location_id, quantity, version, confidence, counted_at, last_seen_at,"
            " basis_run_id, basis_movement_id FROM stock ORDER BY 1, 2"
        )
        before = self.world.rows(query)
        self.world.refold_all()
        after = self.world.rows(query)
        assert after == before, "folding again wrote something"

    @invariant()
    def every_unit_is_accounted_for(self) -> None:
        """I1 and I2: moves add up to stock, and over all places to nothing."""
        moved: Counter[tuple[str, str]] = Counter()
        for _, item, source, target, quantity, *_ in self.world.look().lines:
            moved[str(item), str(source)] -= int(str(quantity))
            moved[str(item), str(target)] += int(str(quantity))
        stock = self.world.look().stock
        assert {key: units for key, units in moved.items() if units} == {
            key: units for key, units in stock.items() if units
        }
        totals: Counter[str] = Counter()
        for (item, _), units in stock.items():
            totals[item] += units
        assert not any(totals.values())

    @invariant()
    def stock_is_what_the_oracle_says(self) -> None:
        """I3, and I7 with it: the oracle counts nothing doubtful that nobody accepted."""
        stock = self.world.look().stock
        for item, location in product((*ITEMS, "C"), LOCATIONS):
            expected = self.facts.quantity(item, location)
            assert stock.get((item, location), 0) == expected, (item, location)

    @invariant()
    def low_stock_is_told_once(self) -> None:
        """I10."""
        look = self.world.look()
        assert check_alerts(look.events) == look.alerts

    @invariant()
    def the_ledger_only_grows(self) -> None:
        """I8."""
        ledger = self.world.look().lines
        assert ledger[: len(self.ledger)] == self.ledger
        self.ledger = ledger

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            proof = self.world.run(self.world.store.inventory.verify())
            assert proof.findings == (), "what nobody touched is not proved"
            self._tell_again()
        finally:
            self.world.close()

    def _tell_again(self) -> None:
        """I4: the same facts in another order end in the same stock."""
        other = self.world_class()
        try:
            told = [
                partial(self._tell_shot, other, index) for index in range(len(self.facts.shots))
            ]
            told += [partial(self._tell_deed, other, deed) for deed in self.facts.deeds]
            given = [(code, to) for code, to in self.facts.codes.items() if to != (code, 1)]
            told += [partial(other.assign, code, *to) for code, to in given]
            self.random.shuffle(told)
            for tell in told:
                tell()
            assert other.figures() == self.world.figures(), "another order, another stock"
        finally:
            other.close()

    def _tell_shot(self, world: World, number: int) -> None:
        shot = self.facts.shots[number]
        capture_id = world.upload(shot.device, shot.key, shot.at)
        versions = list(shot.runs)
        self.random.shuffle(versions)
        for version in versions:
            world.process(capture_id, version, shot.runs[version])
        if shot.current is not None:
            world.choose(capture_id, shot.current)
        for seen, is_accepted in self.facts.verdicts.items():
            if seen.shot == number:
                world.decide(capture_id, seen.version, seen.place, is_accepted=is_accepted)

    @staticmethod
    def _tell_deed(world: World, deed: Deed) -> None:
        movement_id = world.move(deed.key, deed.new, deed.at)
        if deed.is_voided:
            world.void(movement_id)

    def _ran(self, number: int, version: str, seen: list[Observation]) -> None:
        shot = self.facts.shots[number]
        shot.runs.setdefault(version, seen)
        shot.current = version
        for one in seen:
            if one.code is not None:
                self.facts.codes.setdefault(one.code, (one.code, 1))

    def _processed(self, versions: int = 1) -> list[int]:
        shots = enumerate(self.facts.shots)
        return [number for number, shot in shots if len(shot.runs) >= versions]

    def _sightings(self) -> list[Seen]:
        return [
            Seen(number, version, index)
            for number, shot in enumerate(self.facts.shots)
            for version, seen in shot.runs.items()
            for index in range(len(seen))
        ]


def _index(things: Sequence[object]) -> st.SearchStrategy[int]:
    return st.integers(0, len(things) - 1)


_SEARCH = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    # Shrinking stories of files and threads takes minutes; the story itself is short.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_extra("postgres"))],
)
def place(request: pytest.FixtureRequest) -> SqlitePlace | PostgresPlace:
    """Where the ledgers of a test are."""
    if request.param == "sqlite":
        return SqlitePlace()
    return PostgresPlace(request.getfixturevalue("postgres"))


def _machine(world: type[World], place: SqlitePlace | PostgresPlace) -> type[LedgerMachine]:
    here = type(world.__name__, (world,), {"place": place})
    return type("Machine", (LedgerMachine,), {"world_class": here})


@pytest.mark.timeout(300)
def test_stock_is_what_the_facts_say_in_any_order(place: SqlitePlace | PostgresPlace) -> None:
    examples = 40 if isinstance(place, SqlitePlace) else 15
    run_state_machine_as_test(
        _machine(World, place), settings=settings(_SEARCH, max_examples=examples)
    )


# Planted faults


class NoDedupe(World):
    """Every upload is a capture."""

    def upload(self, device: str, key: str, at: float) -> str:
        return super().upload(device, f"{key}.{self.jobs}", at)


class RedeliveryAdds(World):
    """A run that is kept already is written a second time."""

    def finish(
        self, capture_id: str, fence: tuple[int, int], version: str, seen: Sequence[Observation]
    ) -> None:
        known = "SELECT id FROM run WHERE capture_id = :capture AND fingerprint = :version"
        for (run_id,) in self.rows(known, capture=capture_id, version=version):
            self.run(self.database.write(partial(self._write_again, str(run_id), capture_id)))
        super().finish(capture_id, fence, version, seen)

    @staticmethod
    def _write_again(run_id: str, capture_id: str, connection: Connection) -> None:
        columns = (
            "run_id, analyser, location_id, code, item, quantity, confidence, is_confident,"
            " item_id, units"
        )
        again = f"INSERT INTO observation ({columns}) SELECT {columns} FROM observation"  # noqa: S608
        connection.execute(text(f"{again} WHERE run_id = :id"), {"id": run_id})
        index_captures(connection, [capture_id])
        refold(connection, keys_of_runs(connection, [run_id]), Cause("test", run_id, NOW))


class ArrivalOrder(World):
    """The capture that came last wins, whenever it was taken."""

    def upload(self, device: str, key: str, at: float) -> str:
        return super().upload(device, key, at * 0 + self.jobs)


class ConfidenceIgnored(World):
    """Every observation counts."""

    threshold = 0.0


class NoImpliedZero(World):
    """What is not reported stays as it was."""

    is_blind = True


class UndoWithoutEffect(World):
    """A movement is marked as voided, and that is all."""

    def void(self, movement_id: str) -> None:
        mark = text("UPDATE movement SET voided_at = 1 WHERE id = :id")
        self.run(self.database.write(lambda c: c.execute(mark, {"id": movement_id}).close()))


class AlertsAreRepeated(World):
    """What is low is told at every look."""

    def refold_all(self) -> None:
        super().refold_all()
        forget = text("UPDATE par_level SET is_low = FALSE")
        self.run(self.database.write(lambda connection: connection.execute(forget).close()))


def _found(world: type[World], place: SqlitePlace | PostgresPlace) -> bool:
    """Whether the machine finds something wrong with this world.

    With this seed quickly; with that of the test's name one of them took a minute.
    """
    machine = seed(6)(_machine(world, place))
    search = settings(_SEARCH, max_examples=200, database=None)
    try:
        run_state_machine_as_test(machine, settings=search)
    except AssertionError:
        return True
    return False


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "fault",
    [
        NoDedupe,
        RedeliveryAdds,
        ArrivalOrder,
        ConfidenceIgnored,
        NoImpliedZero,
        UndoWithoutEffect,
        AlertsAreRepeated,
    ],
)
def test_a_planted_fault_is_found(fault: type[World], place: SqlitePlace | PostgresPlace) -> None:
    assert _found(fault, place)


@pytest.mark.timeout(300)
def test_an_old_run_that_is_kept_is_found(
    place: SqlitePlace | PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_newest(connection: Connection, which: Sequence[str]) -> set[Key]:
        return keys_of_runs(connection, which[-1:])

    monkeypatch.setattr(runs, "keys_of_runs", of_the_newest)

    assert _found(World, place)


@pytest.mark.timeout(300)
def test_a_count_that_is_added_is_found(
    place: SqlitePlace | PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fold._folded  # noqa: SLF001 - the seam where the fault is planted

    def added(row: RowMapping) -> object:
        balance = right(row)
        is_new = balance.counted_at != row["counted_at"]
        return replace(balance, quantity=balance.quantity + row["quantity"]) if is_new else balance

    monkeypatch.setattr(fold, "_folded", added)

    assert _found(World, place)
