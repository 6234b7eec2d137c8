"""Digests, policies, par levels, lots, the outbox; texts that sort alike on every server.

On Postgres all text of the store gets the collation C, and numbers of rows become long ones, as
SQLite's are.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NAME = sa.Text().with_variant(sa.dialects.postgresql.TEXT(collation="C"), "postgresql")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TABLES = (
    *("capture", "credential", "device", "item", "item_code", "live_count", "live_scope"),
    *(
        "location",
        "move",
        "movement",
        "observation",
        "run",
        "run_scope",
        "stock",
        "verdict",
        "view",
    ),
)
"""Of the store, as revision 0001 made them."""

NUMBERED = {"observation": "id", "move": "seq", "live_count": "id", "live_scope": "id"}


def upgrade() -> None:
    """Change what is there, then make what is new."""
    if op.get_context().dialect.name == "postgresql":
        _change_types()
    _create_lots()
    _create_alerts()
    _create_outbox()
    _create_rest()
    _add_columns()
    _create_indexes()
    _seal_lines()
    _seal_movements()
    _seal_runs()


def _change_types() -> None:
    inspector = sa.inspect(op.get_bind())
    for table in TABLES:
        for column in inspector.get_columns(table):
            if isinstance(column["type"], sa.Text):
                op.alter_column(table, column["name"], type_=NAME)
    for table, number in NUMBERED.items():
        op.alter_column(table, number, type_=sa.BigInteger())
        op.execute(f"ALTER SEQUENCE {table}_{number}_seq AS bigint")
    op.alter_column("verdict", "observation_id", type_=sa.BigInteger())


def _create_lots() -> None:
    op.create_table(
        "lot",
        sa.Column("id", LONG, nullable=False),
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("expires_on", NAME),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_lot_item_id"),
        sa.PrimaryKeyConstraint("id", name="pk_lot"),
        sa.UniqueConstraint("item_id", "name", name="uq_lot_item_id_name"),
    )


def _create_alerts() -> None:
    op.create_table(
        "par_level",
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("location_id", NAME, nullable=False),
        sa.Column("minimum", sa.BigInteger(), nullable=False),
        sa.Column("restocked_at", sa.BigInteger(), nullable=False),
        sa.Column("min_confidence", sa.Float(), nullable=False),
        sa.Column("is_low", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.CheckConstraint("restocked_at > minimum", name="ck_par_level_restocked_at"),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_par_level_item_id"),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_par_level_location_id"),
        sa.PrimaryKeyConstraint("item_id", "location_id", name="pk_par_level"),
    )
    op.create_table(
        "alert",
        sa.Column("id", LONG, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("location_id", NAME, nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("raised_at", sa.Float(), nullable=False),
        sa.Column("cleared_at", sa.Float()),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_alert_item_id"),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_alert_location_id"),
        sa.PrimaryKeyConstraint("id", name="pk_alert"),
    )
    op.create_index("ix_alert_item_id_location_id_id", "alert", ["item_id", "location_id", "id"])
    _index("ix_alert_open", "alert", "id", where="cleared_at IS NULL")


def _create_outbox() -> None:
    op.create_table(
        "event",
        sa.Column("seq", LONG, nullable=False),
        sa.Column("id", NAME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("item_id", NAME),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_event"),
        sa.UniqueConstraint("id", name="uq_event_id"),
    )
    op.create_index("ix_event_recorded_at", "event", ["recorded_at"])
    op.create_table(
        "outlet",
        sa.Column("id", NAME, nullable=False),
        sa.Column("cursor", LONG, nullable=False),
        sa.Column("holder", NAME),
        sa.Column("held_until", sa.Float()),
        sa.PrimaryKeyConstraint("id", name="pk_outlet"),
    )
    op.create_table(
        "webhook",
        sa.Column("id", NAME, nullable=False),
        sa.Column("url", NAME, nullable=False),
        sa.Column("secret", NAME, nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("disabled_at", sa.Float()),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.Float()),
        sa.Column("next_try_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["outlet.id"], name="fk_webhook_id"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook"),
    )
    op.create_table(
        "webhook_attempt",
        sa.Column("id", LONG, nullable=False),
        sa.Column("webhook_id", NAME, nullable=False),
        sa.Column("event_seq", LONG, nullable=False),
        sa.Column("tried_at", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", NAME),
        sa.Column("took_ms", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhook.id"], name="fk_webhook_attempt_webhook_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_attempt"),
    )
    op.create_index("ix_webhook_attempt_webhook_id_id", "webhook_attempt", ["webhook_id", "id"])


def _create_rest() -> None:
    op.create_table(
        "policy",
        sa.Column("analyser", NAME, nullable=False),
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("threshold", sa.Float()),
        sa.Column("max_step_per_hour", sa.Float()),
        sa.Column("is_monotone", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.PrimaryKeyConstraint("analyser", "item_id", name="pk_policy"),
    )
    op.create_table(
        "doomed_blob",
        sa.Column("sha256", NAME, nullable=False),
        sa.Column("doomed_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float()),
        sa.PrimaryKeyConstraint("sha256", name="pk_doomed_blob"),
    )
    op.create_index("ix_doomed_blob_deleted_at", "doomed_blob", ["deleted_at"])
    op.create_table(
        "installation",
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", NAME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_installation"),
    )


def _add_columns() -> None:
    op.add_column("capture", sa.Column("picture_removed_at", sa.Float()))
    op.add_column("observation", sa.Column("lot", NAME))
    op.add_column("observation", sa.Column("expires_on", NAME))
    op.add_column("verdict", sa.Column("reason", NAME))
    op.add_column("verdict", sa.Column("units", sa.BigInteger()))
    op.add_column("movement", sa.Column("reason", NAME))
    op.add_column("movement", sa.Column("voided_by", NAME))
    op.add_column(
        "live_count",
        sa.Column("is_plausible", sa.Boolean(), nullable=False, server_default=sa.true()),
    )
    for table in ("run", "movement", "move"):
        op.add_column(table, sa.Column("digest", NAME, nullable=False, server_default=""))
    # In words, for Alembic would have SQLite make these tables anew.
    is_postgres = op.get_context().dialect.name == "postgresql"
    name, long = ('TEXT COLLATE "C"', "BIGINT") if is_postgres else ("TEXT", "INTEGER")
    for table, column, kind, target in (
        ("verdict", "item_id", name, "item"),
        ("verdict", "carried_from_id", long, "observation"),
        ("movement", "lot_id", long, "lot"),
        ("run", "reference_id", name, "capture"),
    ):
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN {column} {kind}"
            f" CONSTRAINT fk_{table}_{column} REFERENCES {target} (id)"
        )


def _create_indexes() -> None:
    op.create_index("ix_verdict_item_id", "verdict", ["item_id"])
    op.create_index("ix_movement_lot_id", "movement", ["lot_id"])
    op.create_index("ix_capture_sha256", "capture", ["sha256"])
    op.create_index("ix_capture_thumbnail_sha256", "capture", ["thumbnail_sha256"])
    op.drop_index("ix_observation_is_confident_id", "observation")
    is_not = "IS FALSE" if op.get_context().dialect.name == "postgresql" else "IS 0"
    _index("ix_observation_doubtful", "observation", "id", where=f"is_confident {is_not}")
    op.create_index("ix_capture_current_run_id", "capture", ["current_run_id"])
    op.create_index("ix_run_thumbnail_sha256", "run", ["thumbnail_sha256"])
    op.create_index("ix_run_fingerprint", "run", ["fingerprint"])
    op.create_index("ix_run_reference_id", "run", ["reference_id"])
    op.create_index("ix_move_cause_id", "move", ["cause_id"])
    for column in ("item_id", "from_id", "to_id", "recorded_at"):
        op.create_index(f"ix_move_{column}_seq", "move", [column, "seq"])
    op.create_index("ix_lot_expires_on", "lot", ["expires_on"])
    op.create_index("ix_item_name_id", "item", ["name", "id"])
    op.create_index(
        "ix_stock_quantity_item_id_location_id", "stock", ["quantity", "item_id", "location_id"]
    )
    op.create_index("ix_par_level_location_id", "par_level", ["location_id"])
    _index(
        "ix_live_count_empty",
        "live_count",
        "item_id",
        "location_id",
        "counted_at",
        where="quantity = 0",
    )
    _index("ix_movement_of_lots", "movement", "item_id", where="lot_id IS NOT NULL")
    op.create_index("ix_stock_basis_run_id", "stock", ["basis_run_id"])
    _index("ix_capture_kept", "capture", "received_at", where="picture_removed_at IS NULL")
    _index("ix_live_count_doubted", "live_count", "capture_id", where=f"is_plausible {is_not}")


def _index(name: str, table: str, *columns: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


# The digests of what is there already. This is how they are made as of this revision.

ROWS_AT_ONCE = 500

LINE = ("seq", "item_id", "from_id", "to_id", "quantity", "cause", "cause_id", "recorded_at")
MOVEMENT = (
    *("id", "key", "kind", "item", "amount", "from_id", "to_id", "counted_id"),
    *("moved_at", "by", "recorded_at", "reason", "lot_id"),
)
RUN = (
    *("id", "capture_id", "fingerprint", "started_at", "finished_at", "result"),
    "thumbnail_sha256",
)
SEEN = (
    *("analyser", "location_id", "code", "item", "quantity", "confidence", "box"),
    *("lot", "expires_on", "is_confident"),
)
JSONS = ("result", "box")
BOOLEANS = ("is_confident",)


def _seal_lines() -> None:
    """Lines of the ledger, each chained to the one before."""
    digest = ""
    for page in _pages("move", "seq", LINE):
        sealed = []
        for row in page:
            digest = _digest([digest, *row.values()])
            sealed.append({"name": row["seq"], "seal": digest})
        _seal("move", "seq", sealed)


def _seal_movements() -> None:
    for page in _pages("movement", "id", MOVEMENT):
        sealed = [{"name": row["id"], "seal": _digest([*row.values()])} for row in page]
        _seal("movement", "id", sealed)


def _seal_runs() -> None:
    for page in _pages("run", "id", RUN):
        ids = [row["id"] for row in page]
        seen: defaultdict[str, list[str]] = defaultdict(list)
        for one in _rows_of_runs("observation", SEEN, ids):
            seen[one.pop("run_id")].append(_text([*one.values()]))
        scopes: defaultdict[str, list[str]] = defaultdict(list)
        for one in _rows_of_runs("run_scope", ("location_id",), ids):
            scopes[one["run_id"]].append(one["location_id"])
        sealed = []
        for row in page:
            said = [sorted(scopes[row["id"]]), sorted(seen[row["id"]])]
            sealed.append({"name": row["id"], "seal": _digest([*row.values(), *said])})
        _seal("run", "id", sealed)


def _table(name: str, columns: Sequence[str]) -> sa.TableClause:
    kinds = dict.fromkeys(JSONS, sa.JSON(none_as_null=True)) | dict.fromkeys(BOOLEANS, sa.Boolean())
    return sa.table(name, *(sa.column(one, kinds.get(one)) for one in columns))


def _pages(name: str, key: str, columns: Sequence[str]) -> Iterator[list[Mapping[str, Any]]]:
    table = _table(name, columns)
    page = sa.select(table).order_by(table.c[key]).limit(ROWS_AT_ONCE)
    rows = op.get_bind().execute(page).mappings().all()
    while rows:
        yield [dict(row) for row in rows]
        after = page.where(table.c[key] > rows[-1][key])
        rows = op.get_bind().execute(after).mappings().all()


def _rows_of_runs(
    name: str, columns: Sequence[str], ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    table = _table(name, ("run_id", *columns))
    found = op.get_bind().execute(sa.select(table).where(table.c.run_id.in_(ids)))
    return (dict(row) for row in found.mappings())


def _seal(name: str, key: str, sealed: Sequence[Mapping[str, object]]) -> None:
    table = _table(name, (key, "digest"))
    named = sa.update(table).where(table.c[key] == sa.bindparam("name"))
    op.get_bind().execute(named.values(digest=sa.bindparam("seal")), sealed)


def _digest(values: list[object]) -> str:
    return hashlib.sha256(_text(values).encode()).hexdigest()


def _text(values: list[object]) -> str:
    return json.dumps(values, separators=(",", ":"), sort_keys=True)
