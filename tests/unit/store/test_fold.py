from functools import partial

import pytest
from sqlalchemy import Connection, Select, event

from capturekit.database import Database
from capturekit.store.changes import Key, key_values
from capturekit.store.fold import FOLD, FOLD_NEAR

pytestmark = pytest.mark.anyio


def _plan(connection: Connection, query: Select[tuple[object, ...]], **more: object) -> list[str]:
    @event.listens_for(connection, "before_cursor_execute", retval=True)
    def explain(*call: object) -> tuple[str, object]:
        _connection, _cursor, statement, parameters, *_ = call
        return f"EXPLAIN QUERY PLAN {statement}", parameters

    # Two, for which SQLite plans otherwise than for one.
    keys = [Key("tea", "cam"), Key("salt", "cam")]
    with connection.execute(query, key_values(keys) | more) as result:
        assert result.cursor is not None
        return [str(row[3]) for row in result.cursor.fetchall()]


async def test_the_fold_looks_things_up_and_scans_nothing(sqlite_database: Database) -> None:
    plan = "\n".join(await sqlite_database.read(partial(_plan, query=FOLD)))
    near = partial(_plan, query=FOLD_NEAR, changed="capture")
    plan_near = "\n".join(await sqlite_database.read(near))

    assert "SEARCH live_scope USING INDEX ix_live_scope_capture_id (capture_id=?)" in plan_near
    _require_searches(plan, "(location_id=? AND counted_at>?)")
    assert "TEMP B-TREE" not in plan, plan
    # It sorts the two captures that it looks up.
    _require_searches(plan_near)


def _require_searches(plan: str, *more: str) -> None:
    for searched in (
        *more,
        "SEARCH stock USING INDEX sqlite_autoindex_stock_1 (item_id=?)",
        "SEARCH live_count USING INDEX sqlite_autoindex_live_count_1 (item_id=? AND location_id=?)",
        "SEARCH live_count USING INDEX ix_live_count_seen (item_id=? AND location_id=?)",
        "SEARCH observation USING COVERING INDEX ix_observation_run_id_location_id_item_id",
        "SEARCH verdict USING COVERING INDEX ix_verdict_item_id (item_id=?)",
        "SEARCH movement USING COVERING INDEX ix_movement_item_id_to_id_moved_at_voided_at_units",
        "SEARCH movement USING COVERING INDEX ix_movement_item_id_from_id_moved_at_voided_at_units",
    ):
        assert searched in plan, plan
    scans = [line for line in plan.splitlines() if line.startswith("SCAN")]
    assert all("CONSTANT ROW" in line or "SUBQUERY" in line for line in scans), plan
