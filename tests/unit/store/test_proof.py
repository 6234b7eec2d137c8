"""A database that was changed behind our back says so, on SQLite and on Postgres."""

import pytest
from sqlalchemy import text

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import Store
from capturekit.store.proof import Doubt
from tests.unit.store.conftest import Photograph

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("told")
async def test_what_was_not_touched_is_proved(store: Store) -> None:
    proof = await store.inventory.verify()

    assert proof.findings == ()
    assert proof.is_proved
    assert proof.checked == {"lines": 7, "runs": 4, "movements": 3, "figures": 1}


CHANGES = [
    ("UPDATE move SET quantity = quantity + 1 WHERE seq = 2", Doubt.LEDGER, "2"),
    ("UPDATE move SET recorded_at = recorded_at + 1 WHERE seq = 3", Doubt.LEDGER, "3"),
    ("DELETE FROM move WHERE seq = 2", Doubt.LEDGER, "3"),
    ("UPDATE run SET result = '{}' WHERE id = (SELECT min(id) FROM run)", Doubt.RUN, None),
    ("UPDATE observation SET quantity = 9 WHERE id = 1", Doubt.RUN, None),
    ("UPDATE observation SET confidence = 0.91 WHERE id = 3", Doubt.RUN, None),
    ("UPDATE observation SET box = NULL WHERE id = 2", Doubt.RUN, None),
    ("DELETE FROM observation WHERE id = 2", Doubt.RUN, None),
    ("DELETE FROM run_scope", Doubt.RUN, None),
    ("UPDATE movement SET reason = 'theft' WHERE kind = 'receive'", Doubt.MOVEMENT, None),
    ("UPDATE movement SET moved_at = 8.5 WHERE kind = 'receive'", Doubt.MOVEMENT, None),
    ("UPDATE observation SET units = 7 WHERE id = 1", Doubt.MEANING, "1"),
    ("UPDATE item_code SET quantity = 5 WHERE code = '400'", Doubt.MEANING, "1"),
    ("UPDATE movement SET units = 17 WHERE kind = 'count'", Doubt.MEANING, None),
    ("UPDATE live_count SET quantity = 17 WHERE counted_at = 10", Doubt.INDEX, None),
    ("UPDATE live_count SET counted_at = 2.5 WHERE counted_at = 2", Doubt.INDEX, None),
    ("DELETE FROM live_scope WHERE counted_at = 2", Doubt.INDEX, None),
    ("UPDATE movement SET voided_at = 12 WHERE kind = 'use'", Doubt.STOCK, "tea in cam"),
    ("UPDATE stock SET quantity = 18 WHERE location_id = 'cam'", Doubt.STOCK, "tea in cam"),
    ("UPDATE stock SET quantity = 18 WHERE location_id = 'cam'", Doubt.SUM, "tea in cam"),
    ("UPDATE stock SET quantity = 18 WHERE location_id = 'cam'", Doubt.SUM, "tea"),
    ("UPDATE stock SET quantity = 0 WHERE location_id = '~consumed'", Doubt.SUM, None),
    ("UPDATE stock SET last_seen_at = 1 WHERE location_id = 'cam'", Doubt.STOCK, "tea in cam"),
]


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(("change", "doubt", "name"), CHANGES)
async def test_a_change_behind_our_back_is_found(
    store: Store, database: Database, change: str, doubt: Doubt, name: str | None
) -> None:
    changed = await database.write(lambda connection: connection.execute(text(change)).rowcount)
    assert changed, "the test changed nothing"

    proof = await store.inventory.verify()

    found = [(finding.doubt, finding.name) for finding in proof.findings]
    assert any(kind is doubt and name in (None, which) for kind, which in found), found
    assert not proof.is_proved


@pytest.mark.usefixtures("told")
async def test_more_than_a_page_is_read(store: Store, photograph: Photograph) -> None:
    seen = [Observation(analyser="codes", code="500", confidence=0.9)]
    for number in range(12):
        await photograph("cam", f"m{number}", 20.0 + number, seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capturekit.store.proof.ROWS_AT_ONCE", 5)
        proof = await store.inventory.verify()

    assert proof.findings == ()
    assert proof.checked["runs"] == 16
