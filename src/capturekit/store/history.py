"""The ledger as a story: each line with what it did to its places, and who or what caused it.

Lines are in the order in which they were written. That is not the order in which things
happened: a picture may arrive late. What was there at a time is ``past``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

from pydantic import JsonValue
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    bindparam,
    cast,
    func,
    select,
)

from capturekit.store import movements
from capturekit.store.changes import Key, is_among, key_values
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import capture, item, move, movement, observation, run, stock, verdict
from capturekit.times import iso

KEYS_AT_ONCE: Final = 300
"""Keys asked for by one statement, three parameters each; old SQLites take 999."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which lines are asked for; see ``Inventory.history``."""

    item: str | None = None
    location: str | None = None
    since: float | None = None
    until: float | None = None
    cursor: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Origin:
    """Who or what caused a line of the ledger. None is what does not apply."""

    kind: str
    """``run`` of a pipeline, ``choice`` of another run, ``verdict`` on an observation,
    ``movement``, ``void`` of one, ``code`` that was assigned, or ``import`` of a file."""
    id: str
    """Of the run, observation or movement; the code; or the file's digest."""
    by: str | None = None
    """The person who moved, took back or decided."""
    reason: str | None = None
    movement_kind: str | None = None
    device_id: str | None = None
    capture_id: str | None = None
    captured_at: float | None = None
    run_id: str | None = None
    fingerprint: str | None = None
    """Of the pipeline."""

    def as_json(self) -> dict[str, JsonValue]:
        """What applies, as the HTTP API and the command line show it."""
        said = asdict(self) | {"captured_at": iso(self.captured_at)}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class HistoryEnd:
    """What a line did to one real place."""

    location_id: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """A line of the ledger, explained. Virtual locations begin with a tilde."""

    seq: int
    item_id: str
    name: str
    unit: str | None
    source: str
    target: str
    quantity: int
    recorded_at: float
    ends: tuple[HistoryEnd, ...]
    """One, or two where stock went from one real place to another."""
    origin: Origin

    def as_json(self) -> dict[str, JsonValue]:
        """The line as the HTTP API and the command line show it."""
        ends: list[JsonValue] = [
            {"location": end.location_id, "before": end.before, "after": end.after}
            for end in self.ends
        ]
        return {
            "seq": self.seq,
            "item_id": self.item_id,
            "name": self.name,
            "unit": self.unit,
            "from": self.source,
            "to": self.target,
            "quantity": self.quantity,
            "recorded_at": iso(self.recorded_at),
            "ends": ends,
            "cause": self.origin.as_json(),
        }


def page(connection: Connection, query: HistoryQuery) -> Page[HistoryLine]:
    """Lines, newest first; see ``Inventory.history``."""
    found = _found(connection, query)
    shown = found[: query.limit]
    balances = _balances_after(connection, shown)
    origins = _origins(connection, shown)
    lines = tuple(
        HistoryLine(
            row["seq"],
            row["item_id"],
            row["name"],
            row["unit"],
            row["from_id"],
            row["to_id"],
            row["quantity"],
            row["recorded_at"],
            tuple(_step_back(row, balances)),
            origins.get((row["cause"], row["cause_id"]), Origin(row["cause"], row["cause_id"])),
        )
        for row in shown
    )
    return Page(lines, to_cursor([lines[-1].seq]) if len(found) > query.limit else None)


# Which lines


def _found(connection: Connection, query: HistoryQuery) -> list[RowMapping]:
    lines = select(move, item.c.name, item.c.unit).join(item, item.c.id == move.c.item_id)
    for bound in _bounds(query):
        lines = lines.where(bound)
    if query.item is not None:
        lines = lines.where(move.c.item_id == query.item)
    if query.location is None:
        return _newest(connection, lines, query.limit)
    # Asked for one by one, so that each is read from its index in order.
    ends = (move.c.from_id, move.c.to_id)
    each = [_newest(connection, lines.where(end == query.location), query.limit) for end in ends]
    return sorted((*each[0], *each[1]), key=lambda row: -row["seq"])[: query.limit + 1]


def _newest(
    connection: Connection, lines: Select[tuple[object, ...]], limit: int
) -> list[RowMapping]:
    newest = lines.order_by(move.c.seq.desc()).limit(limit + 1)
    return list(connection.execute(newest).mappings())


def _bounds(query: HistoryQuery) -> Iterator[ColumnElement[bool]]:
    """Conditions on time, and on numbers beside them: in those the lines are kept in order."""
    if query.cursor is not None:
        yield move.c.seq < from_cursor(query.cursor, 1)[0]
    if query.since is not None:
        since = move.c.recorded_at >= query.since
        first = select(move.c.seq).where(since).order_by(move.c.recorded_at, move.c.seq)
        yield since
        yield move.c.seq >= func.coalesce(first.limit(1).scalar_subquery(), _BEYOND)
    if query.until is not None:
        until = move.c.recorded_at <= query.until
        last = select(move.c.seq).where(until)
        last = last.order_by(move.c.recorded_at.desc(), move.c.seq.desc())
        yield until
        yield move.c.seq <= func.coalesce(last.limit(1).scalar_subquery(), 0)


_BEYOND: Final = 2**62
"""A number that no line has."""


# What they did


def _real_ends(row: RowMapping) -> Iterator[tuple[Key, int]]:
    for end, sign in (("from_id", -1), ("to_id", 1)):
        if not row[end].startswith("~"):
            yield Key(row["item_id"], row[end]), sign * row["quantity"]


def _step_back(row: RowMapping, balances: dict[Key, int]) -> Iterator[HistoryEnd]:
    """The line's ends; leaves in ``balances`` what was there before it."""
    for key, delta in _real_ends(row):
        after = balances[key]
        balances[key] = after - delta
        yield HistoryEnd(key.location_id, after - delta, after)


def _balances_after(connection: Connection, rows: Sequence[RowMapping]) -> dict[Key, int]:
    """What there was of each key after the newest of these lines: stock, less all later ones."""
    keys = sorted({key for row in rows for key, _ in _real_ends(row)})
    balances: dict[Key, int] = {}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        of_keys = key_values(keys[start : start + KEYS_AT_ONCE])
        for item_id, location_id, quantity in connection.execute(_STOCK_OF, of_keys):
            balances[Key(item_id, location_id)] = quantity
        for sign, query in _LATER:
            for row in connection.execute(query, of_keys | {"seq": rows[0]["seq"]}):
                balances[Key(row.item_id, row.location_id)] -= sign * row.quantity
    return balances


def _later(end: ColumnElement[str]) -> Select[str, str, int]:
    return (
        select(
            move.c.item_id,
            end.label("location_id"),
            cast(func.sum(move.c.quantity), BigInteger).label("quantity"),
        )
        .where(is_among(move.c.item_id, end), move.c.seq > bindparam("seq"))
        .group_by(move.c.item_id, end)
    )


_STOCK_OF: Final = select(stock.c.item_id, stock.c.location_id, stock.c.quantity).where(
    is_among(stock.c.item_id, stock.c.location_id)
)
_LATER: Final = ((1, _later(move.c.to_id)), (-1, _later(move.c.from_id)))


# Who or what caused them

_Cause: TypeAlias = tuple[str, str]
"""Kind and id, as lines name their causes."""


def _origins(connection: Connection, rows: Iterable[RowMapping]) -> dict[_Cause, Origin]:
    causes = sorted({(row["cause"], row["cause_id"]) for row in rows})
    found: dict[_Cause, Origin] = {}
    for kinds, read in _READERS:
        some = [cause for cause in causes if cause[0] in kinds]
        if some:
            found |= read(connection, some)
    return found


_BY_RUN: Final = ("run", "choice")
_BY_VERDICT: Final = ("verdict",)
_BY_HAND: Final = ("movement", "void")
_BY_IMPORT: Final = ("import",)
_SEEN: Final = (
    capture.c.device_id,
    capture.c.id.label("capture_id"),
    capture.c.captured_at,
    run.c.id.label("run_id"),
    run.c.fingerprint,
)


def _by_run(connection: Connection, causes: Collection[_Cause]) -> dict[_Cause, Origin]:
    query = (
        select(*_SEEN)
        .join(capture, capture.c.id == run.c.capture_id)
        .where(run.c.id.in_({run_id for _, run_id in causes}))
    )
    seen = {row["run_id"]: dict(row) for row in connection.execute(query).mappings()}
    return {cause: Origin(*cause, **seen[cause[1]]) for cause in causes if cause[1] in seen}


def _by_verdict(connection: Connection, causes: Collection[_Cause]) -> dict[_Cause, Origin]:
    """By the verdict as it is now: the last word replaces the one before."""
    numbers = {int(number) for _, number in causes if number.isdecimal()}
    query = (
        select(observation.c.id, verdict.c.by, verdict.c.reason, *_SEEN)
        .join(run, run.c.id == observation.c.run_id)
        .join(capture, capture.c.id == run.c.capture_id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(observation.c.id.in_(numbers))
    )
    seen = {str(row["id"]): dict(row) for row in connection.execute(query).mappings()}
    return {
        (kind, number): Origin(kind, **seen[number] | {"id": number})
        for kind, number in causes
        if number in seen
    }


def _by_hand(connection: Connection, causes: Collection[_Cause]) -> dict[_Cause, Origin]:
    done = movements.of_ids(connection, {movement_id for _, movement_id in causes})
    found: dict[_Cause, Origin] = {}
    for kind, movement_id in causes:
        if one := done.get(movement_id):
            by = one.voided_by if kind == "void" else one.by
            found[kind, movement_id] = Origin(
                kind, movement_id, by=by, reason=one.reason, movement_kind=one.kind
            )
    return found


def _by_import(connection: Connection, causes: Collection[_Cause]) -> dict[_Cause, Origin]:
    """By whoever made the file's counts, of which any tells."""
    found: dict[_Cause, Origin] = {}
    for kind, name in causes:
        query = select(movement.c.by, movement.c.reason).where(
            movement.c.key > f"import:{name}:", movement.c.key < f"import:{name};"
        )
        row = connection.execute(query.limit(1)).one_or_none()
        if row is not None:
            found[kind, name] = Origin(kind, name, by=row.by, reason=row.reason)
    return found


_Read: TypeAlias = Callable[[Connection, Collection[_Cause]], dict[_Cause, Origin]]
_READERS: Final[tuple[tuple[tuple[str, ...], _Read], ...]] = (
    (_BY_RUN, _by_run),
    (_BY_VERDICT, _by_verdict),
    (_BY_HAND, _by_hand),
    (_BY_IMPORT, _by_import),
)
