"""From facts to stock: the index of live counts, the fold, and the moves that record it.

Stock of an item in a location is its newest live count plus later movements. That is a
function of the facts alone: it may be run again at any time, and facts may come in any order.
A key costs a few index look-ups, however many counts it has.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    RowMapping,
    ScalarSelect,
    Select,
    Subquery,
    Table,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)

from capturekit.store import alerts, digests, outbox, plausible
from capturekit.store.changes import Cause, Key, StockChange, is_among, key_values
from capturekit.store.schema import (
    BY_HAND,
    NAME,
    capture,
    insert_new,
    live_count,
    live_scope,
    move,
    movement,
    observation,
    run_scope,
    stock,
    verdict,
)
from capturekit.store.seen import ITEM_SEEN, UNITS_SEEN, is_live

KEYS_AT_ONCE: Final = 300
"""Keys folded by one statement, three parameters each; old SQLites take 999."""

BEFORE_ALL: Final = -1e300
"""A time before every other."""

Ids: TypeAlias = Collection[str] | Select[str]
"""Ids given one by one, or as the query that finds them."""


@dataclass(frozen=True, slots=True)
class Balance:
    """A row of stock, as it is or as the facts say it should be."""

    quantity: int
    confidence: float | None
    counted_at: float | None
    last_seen_at: float | None
    basis_run_id: str | None
    basis_movement_id: str | None


# The index of live counts


def index_captures(connection: Connection, which: Ids) -> set[str]:
    """Make the index hold what the current runs of these captures say, and nothing else.

    Returns the runs of which a count cannot be true any more, as the item's policy has it.
    """
    of_captures = live_count.c.capture_id.in_(which)
    changed = plausible.ruled(connection, of_captures)
    for table in (live_count, live_scope):
        connection.execute(delete(table).where(table.c.capture_id.in_(which)))
    _insert_found(connection, live_count, counts_of_runs().where(capture.c.id.in_(which)))
    _insert_found(connection, live_scope, scopes_of_runs().where(capture.c.id.in_(which)))
    return plausible.judge(connection, changed | plausible.ruled(connection, of_captures))


def index_movements(connection: Connection, which: Ids) -> None:
    """Make the index hold the counts among these movements, unless they are voided."""
    of_movements = live_count.c.movement_id.in_(which)
    changed = plausible.ruled(connection, of_movements)
    connection.execute(delete(live_count).where(of_movements))
    _insert_found(connection, live_count, counts_by_hand().where(movement.c.id.in_(which)))
    plausible.judge(connection, changed | plausible.ruled(connection, of_movements))


def _insert_found(connection: Connection, table: Table, found: Select[tuple[object, ...]]) -> None:
    names = [column.name for column in found.selected_columns]
    connection.execute(table.insert().from_select(names, found))


def counts_of_runs() -> Select[tuple[object, ...]]:
    """What the index should hold of captures; narrow it by the capture's id."""
    confidence = case((verdict.c.is_accepted, 1.0), else_=observation.c.confidence)
    return (
        select(
            ITEM_SEEN.label("item_id"),
            observation.c.location_id,
            capture.c.captured_at.label("counted_at"),
            capture.c.device_id.label("source"),
            capture.c.key,
            # Cast: Postgres adds long integers up to a decimal.
            cast(func.sum(UNITS_SEEN), BigInteger).label("quantity"),
            func.min(confidence).label("confidence"),
            capture.c.id.label("capture_id"),
            observation.c.run_id,
        )
        .join(capture, capture.c.current_run_id == observation.c.run_id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(is_live())
        .group_by(ITEM_SEEN, observation.c.location_id, observation.c.run_id, capture.c.id)
    )


def scopes_of_runs() -> Select[tuple[object, ...]]:
    """The same of scopes."""
    return select(
        run_scope.c.location_id,
        capture.c.captured_at.label("counted_at"),
        capture.c.device_id.label("source"),
        capture.c.key,
        capture.c.id.label("capture_id"),
        run_scope.c.run_id,
    ).join(capture, capture.c.current_run_id == run_scope.c.run_id)


def counts_by_hand() -> Select[tuple[object, ...]]:
    """What the index should hold of movements; narrow it by the movement's id."""
    return select(
        movement.c.item_id,
        movement.c.counted_id.label("location_id"),
        movement.c.moved_at.label("counted_at"),
        literal(BY_HAND).label("source"),
        movement.c.key,
        movement.c.units.label("quantity"),
        literal(1.0).label("confidence"),
        movement.c.id.label("movement_id"),
    ).where(movement.c.counted_id.is_not(None), movement.c.voided_at.is_(None))


# Which keys facts concern


def keys_of_runs(connection: Connection, which: Ids) -> set[Key]:
    """Keys on which these runs may have a say: what they saw, and what they saw missing."""
    seen = _seen(which)
    missing = (
        select(stock.c.item_id, stock.c.location_id)
        .join(run_scope, run_scope.c.location_id == stock.c.location_id)
        .where(run_scope.c.run_id.in_(which))
    )
    found = connection.execute(seen.union(missing))
    return {Key(item_id, location_id) for item_id, location_id in found}


def keys_seen(connection: Connection, which: Ids) -> set[Key]:
    """Keys that these runs saw something of."""
    return {Key(*row) for row in connection.execute(_seen(which).distinct())}


def _seen(which: Ids) -> Select[str, str]:
    return (
        select(ITEM_SEEN.label("item_id"), observation.c.location_id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(observation.c.run_id.in_(which))
    )


# The fold


def refold(
    connection: Connection, keys: Iterable[Key], cause: Cause, *, changed: str | None = None
) -> list[StockChange]:
    """Make stock of these keys what the facts say; where it is already, nothing is written.

    Every change of a quantity is a move, written with it. Returns the changes of quantities.
    ``changed`` is a capture, where facts changed of no other since the keys were folded last: then
    what was silent on them before is not looked for again.
    """
    changes: list[StockChange] = []
    touched: list[Key] = []
    ordered = sorted(set(keys))
    for start in range(0, len(ordered), KEYS_AT_ONCE):
        some = ordered[start : start + KEYS_AT_ONCE]
        changes += _refold_some(connection, some, changed, touched)
    _record(connection, changes, cause)
    outbox.tell_changes(connection, changes, cause)
    alerts.watch(connection, touched, changes, cause.at)
    return changes


def _refold_some(
    connection: Connection, keys: Sequence[Key], changed: str | None, touched: list[Key]
) -> list[StockChange]:
    """Rewrite these rows of stock where they are wrong, and add the keys of those to touched."""
    insert_new(connection, stock, [key._asdict() | {"quantity": 0, "version": 0} for key in keys])
    changes: list[StockChange] = []
    rewritten: list[dict[str, object]] = []
    for row, looked in _looked_up(connection, keys, changed):
        before, after = _stored(row), _folded(row)
        key = Key(row["item_id"], row["location_id"])
        if after != before or looked != (row["silence_capture_id"], row["silence_from"]):
            rewritten.append(_new_values(row, after, looked, step=int(after != before)))
        if after != before:
            touched.append(key)
        if after.quantity != before.quantity:
            changes.append(StockChange(*key, before.quantity, after.quantity, after.confidence))
    if rewritten:
        connection.execute(_REWRITE, rewritten)
    return changes


class _Looked(NamedTuple):
    """Which capture is known to be the newest silent one, of those taken since when."""

    capture_id: str | None
    since: float | None


def _looked_up(
    connection: Connection, keys: Sequence[Key], changed: str | None
) -> Iterator[tuple[RowMapping, _Looked]]:
    """The rows of a fold, by the short way where it will do."""
    left = keys
    if changed is not None:
        left = []
        values = key_values(keys) | {"changed": changed}
        for row in connection.execute(FOLD_NEAR, values).mappings():
            if _is_near_enough(row):
                known = row["newest_silent_id"] or row["silence_capture_id"]
                yield row, _Looked(known, row["silence_from"])
            else:
                left.append(Key(row["item_id"], row["location_id"]))
    if left:
        for row in connection.execute(FOLD, key_values(left)).mappings():
            yield row, _Looked(row["newest_silent_id"], row["count_at"] or BEFORE_ALL)


def _is_near_enough(row: RowMapping) -> bool:
    """Whether the silent capture that is known, and the one that changed, are all that matter.

    They are unless nobody has looked, the newest count is older than where the look began, or
    what was known is silent no more.
    """
    if row["silence_from"] is None or (row["count_at"] or BEFORE_ALL) < row["silence_from"]:
        return False
    return row["silence_capture_id"] is None or row["newest_silent_id"] is not None


def compared(connection: Connection, keys: Sequence[Key]) -> Iterator[tuple[Key, Balance, Balance]]:
    """Stock of these keys as it is, and as the facts say it should be; changes nothing."""
    for row in connection.execute(FOLD, key_values(keys)).mappings():
        yield Key(row["item_id"], row["location_id"]), _stored(row), _folded(row)


_REWRITE: Final = (
    update(stock)
    .where(stock.c.item_id == bindparam("of_item"), stock.c.location_id == bindparam("of_location"))
    .values(version=stock.c.version + bindparam("step", type_=Integer))
)


def _new_values(
    row: RowMapping, balance: Balance, looked: _Looked, *, step: int
) -> dict[str, object]:
    return {
        "of_item": row["item_id"],
        "of_location": row["location_id"],
        "step": step,
        "silence_capture_id": looked.capture_id,
        "silence_from": looked.since,
        **{name: getattr(balance, name) for name in Balance.__slots__},
    }


def _stored(row: RowMapping) -> Balance:
    return Balance(**{name: row[name] for name in Balance.__slots__})


def _folded(row: RowMapping) -> Balance:
    """The rule itself: the newer of count and silence, then what was moved after it."""
    moved = row["received"] - row["given"]
    if row["silence_run_id"] is not None:
        return Balance(
            quantity=moved,
            confidence=None,
            counted_at=row["silence_at"],
            last_seen_at=row["seen_at"],
            basis_run_id=row["silence_run_id"],
            basis_movement_id=None,
        )
    return Balance(
        quantity=(row["count_quantity"] or 0) + moved,
        confidence=row["count_confidence"],
        counted_at=row["count_at"],
        last_seen_at=row["seen_at"],
        basis_run_id=row["count_run_id"],
        basis_movement_id=row["count_movement_id"],
    )


def fold_query(
    *which: ColumnElement[bool],
    until: ColumnElement[float] | None = None,
    near: ColumnElement[str] | None = None,
) -> Select[tuple[object, ...]]:
    """Those rows of stock, with all that the fold needs to know beside them.

    ``until`` leaves out all facts of a later time. ``near`` looks for silence at this capture and
    the one that is known of the row alone.
    """
    counted = _with_newest_count(which, until)
    silent = _with_newest_silence(counted, until, near)
    scope = live_scope.alias("silence")
    # The newest silent one; if that is no later than the count, none is.
    is_later = tuple_(scope.c.counted_at, scope.c.source, scope.c.key) > tuple_(
        func.coalesce(silent.c.count_at, BEFORE_ALL),
        func.coalesce(silent.c.count_source, ""),
        func.coalesce(silent.c.count_key, ""),
    )
    silence_at = case((is_later, scope.c.counted_at))
    basis_at = func.coalesce(silence_at, silent.c.count_at, BEFORE_ALL)
    return select(
        silent,
        silence_at.label("silence_at"),
        case((is_later, scope.c.run_id)).label("silence_run_id"),
        scope.c.capture_id.label("newest_silent_id"),
        _moved_since(silent, movement.c.to_id, basis_at, until).label("received"),
        _moved_since(silent, movement.c.from_id, basis_at, until).label("given"),
    ).outerjoin_from(silent, scope, scope.c.id == silent.c.silence_id)


def _by(
    time: ColumnElement[float], until: ColumnElement[float] | None
) -> tuple[ColumnElement[bool], ...]:
    return () if until is None else (time <= until,)


def _with_newest_count(
    which: tuple[ColumnElement[bool], ...], until: ColumnElement[float] | None
) -> Subquery:
    of_key = (
        live_count.c.item_id == stock.c.item_id,
        live_count.c.location_id == stock.c.location_id,
        *_by(live_count.c.counted_at, until),
    )
    newest = (
        select(live_count.c.id)
        .where(*of_key, live_count.c.is_plausible)
        .order_by(
            live_count.c.counted_at.desc(), live_count.c.source.desc(), live_count.c.key.desc()
        )
        .limit(1)
        .scalar_subquery()
    )
    # Text, not a parameter: only then can the planner prove that the partial index fits.
    seen_at = select(func.max(live_count.c.counted_at)).where(
        *of_key, text("live_count.quantity > 0"), live_count.c.is_plausible
    )
    return (
        select(stock, newest.label("count_id"), seen_at.scalar_subquery().label("seen_at"))
        .where(*which)
        .subquery("counted")
    )


def _with_newest_silence(
    counted: Subquery, until: ColumnElement[float] | None, near: ColumnElement[str] | None
) -> Subquery:
    """Add the newest exhaustive scope, not older than the newest count, that is silent on it."""
    count = live_count.alias("newest_count")
    looked_at: tuple[ColumnElement[bool], ...] = (
        live_scope.c.location_id == counted.c.location_id,
        live_scope.c.counted_at >= func.coalesce(count.c.counted_at, BEFORE_ALL),
    )
    if near is not None:
        looked_at = (
            live_scope.c.capture_id.in_([counted.c.silence_capture_id, near]),
            # Joined to nothing, so that the two captures are looked up, not all of the location.
            live_scope.c.location_id.concat("") == counted.c.location_id,
        )
    newest = (
        select(live_scope.c.id)
        .where(*looked_at, *_by(live_scope.c.counted_at, until), ~_is_reported(counted))
        .order_by(
            live_scope.c.counted_at.desc(), live_scope.c.source.desc(), live_scope.c.key.desc()
        )
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(
            counted,
            count.c.counted_at.label("count_at"),
            count.c.source.label("count_source"),
            count.c.key.label("count_key"),
            count.c.quantity.label("count_quantity"),
            count.c.confidence.label("count_confidence"),
            count.c.run_id.label("count_run_id"),
            count.c.movement_id.label("count_movement_id"),
            newest.label("silence_id"),
        )
        .outerjoin_from(counted, count, count.c.id == counted.c.count_id)
        .subquery("silent")
    )


def _is_reported(counted: FromClause) -> ColumnElement[bool]:
    """Whether the scope's run reported the item there at all, be it doubtfully.

    What a person corrected was reported as what it was corrected to.
    """
    seen = (
        select(observation.c.id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(
            observation.c.run_id == live_scope.c.run_id,
            observation.c.location_id == live_scope.c.location_id,
            observation.c.item_id == counted.c.item_id,
            counted.c.item_id == ITEM_SEEN,
        )
    )
    corrected = (
        select(observation.c.id)
        .join(verdict, verdict.c.observation_id == observation.c.id)
        .where(
            verdict.c.item_id == counted.c.item_id,
            # Joined to nothing, so that few verdicts are looked through, not all of the run.
            observation.c.run_id.concat("") == live_scope.c.run_id,
            observation.c.location_id.concat("") == live_scope.c.location_id,
        )
    )
    # Said aloud: by itself SQLAlchemy correlates with the nearest query alone.
    return or_(*(one.correlate(live_scope, counted).exists() for one in (seen, corrected)))


def _moved_since(
    key: FromClause,
    end: ColumnElement[str],
    at: ColumnElement[float],
    until: ColumnElement[float] | None,
) -> ScalarSelect[int]:
    # Cast: Postgres adds long integers up to a decimal.
    return (
        select(cast(func.coalesce(func.sum(movement.c.units), 0), BigInteger))
        .where(
            movement.c.item_id == key.c.item_id,
            end == key.c.location_id,
            movement.c.moved_at > at,
            *_by(movement.c.moved_at, until),
            movement.c.voided_at.is_(None),
        )
        .scalar_subquery()
    )


FOLD: Final = fold_query(is_among(stock.c.item_id, stock.c.location_id))
"""Built once: building it costs more than running it."""

FOLD_NEAR: Final = fold_query(
    is_among(stock.c.item_id, stock.c.location_id), near=bindparam("changed", type_=NAME)
)


# The ledger


class _Move(NamedTuple):
    item_id: str
    from_id: str
    to_id: str
    quantity: int


def _record(connection: Connection, changes: Sequence[StockChange], cause: Cause) -> None:
    moves = list(_moves(changes, cause))
    if not moves:
        return
    connection.execute(move.insert(), _lines(connection, moves, cause))
    _settle_elsewhere(connection, moves, cause.elsewhere)


def _lines(connection: Connection, moves: Sequence[_Move], cause: Cause) -> list[dict[str, object]]:
    """The lines to add, numbered on and chained to the last. Needs the ledger's lock."""
    last = connection.execute(_LAST_LINE).one_or_none()
    seq, digest = (last.seq, last.digest) if last else (0, "")
    shared = {"cause": cause.kind, "cause_id": cause.id, "recorded_at": cause.at}
    lines: list[dict[str, object]] = []
    for one in moves:
        seq += 1
        line: dict[str, object] = {"seq": seq, **one._asdict(), **shared}
        digest = digests.of_move(line, digest)
        lines.append(line | {"digest": digest})
    return lines


_LAST_LINE: Final = select(move.c.seq, move.c.digest).order_by(move.c.seq.desc()).limit(1)


def _moves(changes: Sequence[StockChange], cause: Cause) -> Iterator[_Move]:
    ordered = sorted(changes, key=lambda change: change.item_id)
    for item_id, of_item in groupby(ordered, key=lambda change: change.item_id):
        left = {change.location_id: change.delta for change in of_item}
        if cause.is_transfer:
            yield from _transfers(item_id, left)
        for location_id, delta in left.items():
            if delta > 0:
                yield _Move(item_id, cause.elsewhere, location_id, delta)
            elif delta < 0:
                yield _Move(item_id, location_id, cause.elsewhere, -delta)


def _transfers(item_id: str, left: dict[str, int]) -> Iterator[_Move]:
    """Moves between real locations; takes what they explain off ``left``."""
    if len(left) != 2:
        return
    giver, taker = sorted(left, key=lambda location_id: left[location_id])
    quantity = min(-left[giver], left[taker])
    if quantity > 0:
        left[giver] += quantity
        left[taker] -= quantity
        yield _Move(item_id, giver, taker, quantity)


def _settle_elsewhere(connection: Connection, moves: Sequence[_Move], elsewhere: str) -> None:
    """Book what came from and went to the virtual location, so that every item sums to zero."""
    deltas: dict[str, int] = {}
    for one in moves:
        sign = (one.to_id == elsewhere) - (one.from_id == elsewhere)
        deltas[one.item_id] = deltas.get(one.item_id, 0) + sign * one.quantity
    keys = [Key(item_id, elsewhere) for item_id, delta in deltas.items() if delta]
    insert_new(connection, stock, [key._asdict() | {"quantity": 0, "version": 0} for key in keys])
    for item_id, delta in deltas.items():
        if delta:
            _add(connection, Key(item_id, elsewhere), delta)


def _add(connection: Connection, key: Key, delta: int) -> None:
    connection.execute(
        update(stock)
        .where(stock.c.item_id == key.item_id, stock.c.location_id == key.location_id)
        .values(quantity=stock.c.quantity + delta, version=stock.c.version + 1)
    )
