"""The tables of captures, devices and stock.

Facts (capture, run, observation, verdict, movement) are never changed by the ledger; live_count,
live_scope and stock are projections of them; move is append-only. Quantities are integers
in the item's base unit, times are seconds since 1970, UTC.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

MAX_QUANTITY: Final = 10**9
"""More of an item than this is not plausible."""

MAX_CODE_QUANTITY: Final = 10**6
"""Most units that one code may stand for. Sums of both stay far below 63 bits."""

SUPPLIER: Final = "~supplier"
CONSUMED: Final = "~consumed"
LOST: Final = "~lost"
ADJUSTED: Final = "~adjusted"
"""The virtual locations, other ends of what enters and leaves the real ones. Nothing else
may have an id that begins with a tilde."""

BY_HAND: Final = "~"
"""In place of a device's id where a person counted. Sorts after every device, so that at
the same instant a person is believed."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

location = Table(
    "location",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("parent_id", Text, ForeignKey("location.id"), index=True),
    Column("is_virtual", Boolean, nullable=False),
)

device = Table(
    "device",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("location_id", Text, ForeignKey("location.id"), nullable=False),
    Column("is_exhaustive", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("last_seen_at", Float),
    Column("battery_v", Float),
    Column("rssi", Integer),
)

credential = Table(
    "credential",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("device_id", Text, ForeignKey("device.id"), index=True),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    CheckConstraint("kind IN ('device', 'admin')", name="kind"),
)

view = Table(
    "view",
    metadata,
    Column("device_id", Text, ForeignKey("device.id"), primary_key=True),
    Column("location_id", Text, ForeignKey("location.id"), primary_key=True),
    Column("polygon", JSON(none_as_null=True)),
    Column("is_exhaustive", Boolean, nullable=False),
)

item = Table(
    "item",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("unit", Text),
    Column("created_at", Float, nullable=False),
)

item_code = Table(
    "item_code",
    metadata,
    Column("code", Text, primary_key=True),
    Column("item_id", Text, ForeignKey("item.id"), nullable=False, index=True),
    Column("quantity", BigInteger, nullable=False),
    CheckConstraint("quantity > 0", name="quantity"),
)

capture = Table(
    "capture",
    metadata,
    Column("id", Text, primary_key=True),
    Column("device_id", Text, ForeignKey("device.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("flags", JSON, nullable=False),
    Column("captured_at", Float, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("trigger_type", Text),
    Column("battery_v", Float),
    Column("rssi", Integer),
    Column("metadata", JSON, nullable=False),
    Column("state", Text, nullable=False),
    Column("series", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    # No foreign key: run points at capture, and SQLite cannot add the second later.
    Column("current_run_id", Text),
    Column("error", JSON(none_as_null=True)),
    Column("thumbnail_sha256", Text),
    UniqueConstraint("device_id", "key"),
    CheckConstraint("state IN ('pending', 'processing', 'completed', 'failed')", name="state"),
    Index(None, "state", "id"),
    Index(None, "device_id", "id"),
    Index(None, "device_id", "captured_at"),
)

run = Table(
    "run",
    metadata,
    Column("id", Text, primary_key=True),
    Column("capture_id", Text, ForeignKey("capture.id"), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("result", JSON, nullable=False),
    Column("thumbnail_sha256", Text),
    UniqueConstraint("capture_id", "fingerprint"),
)

run_scope = Table(
    "run_scope",
    metadata,
    Column("run_id", Text, ForeignKey("run.id"), primary_key=True),
    Column("location_id", Text, ForeignKey("location.id"), primary_key=True),
)
"""Locations that a run saw whole: an item it did not report there is not there."""

observation = Table(
    "observation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Text, ForeignKey("run.id"), nullable=False),
    Column("analyser", Text, nullable=False),
    Column("location_id", Text, ForeignKey("location.id"), nullable=False),
    Column("code", Text, index=True),
    Column("item", Text, index=True),
    Column("quantity", BigInteger, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("box", JSON(none_as_null=True)),
    # Frozen when the run is recorded: another threshold later does not rewrite the past.
    Column("is_confident", Boolean, nullable=False),
    # What code or item mean today; assigning a code rewrites these two.
    Column("item_id", Text, ForeignKey("item.id"), nullable=False),
    Column("units", BigInteger, nullable=False),
    Index(None, "run_id", "location_id", "item_id"),
    Index(None, "is_confident", "id"),
)

verdict = Table(
    "verdict",
    metadata,
    Column("observation_id", Integer, ForeignKey("observation.id"), primary_key=True),
    Column("is_accepted", Boolean, nullable=False),
    Column("by", Text, nullable=False),
    Column("decided_at", Float, nullable=False),
)

movement = Table(
    "movement",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("item", Text, nullable=False, index=True),
    Column("amount", BigInteger, nullable=False),
    Column("from_id", Text, ForeignKey("location.id")),
    Column("to_id", Text, ForeignKey("location.id")),
    Column("counted_id", Text, ForeignKey("location.id")),
    Column("moved_at", Float, nullable=False),
    Column("by", Text, nullable=False),
    Column("recorded_at", Float, nullable=False),
    Column("voided_at", Float),
    # What item and amount mean today; assigning a code rewrites these two.
    Column("item_id", Text, ForeignKey("item.id"), nullable=False),
    Column("units", BigInteger, nullable=False),
    CheckConstraint("kind IN ('receive', 'use', 'move', 'count', 'write_off')", name="kind"),
    # Covering, so that a sum reads the index alone.
    Index(None, "item_id", "to_id", "moved_at", "voided_at", "units"),
    Index(None, "item_id", "from_id", "moved_at", "voided_at", "units"),
)

move = Table(
    "move",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("item_id", Text, ForeignKey("item.id"), nullable=False),
    Column("from_id", Text, ForeignKey("location.id"), nullable=False),
    Column("to_id", Text, ForeignKey("location.id"), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("cause_id", Text, nullable=False),
    Column("recorded_at", Float, nullable=False),
    CheckConstraint("quantity > 0", name="quantity"),
    Index(None, "item_id", "from_id", "seq"),
    Index(None, "item_id", "to_id", "seq"),
)

live_count = Table(
    "live_count",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item_id", Text, ForeignKey("item.id"), nullable=False),
    Column("location_id", Text, ForeignKey("location.id"), nullable=False),
    Column("counted_at", Float, nullable=False),
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("capture_id", Text, ForeignKey("capture.id"), index=True),
    Column("run_id", Text, ForeignKey("run.id")),
    Column("movement_id", Text, ForeignKey("movement.id"), index=True),
    UniqueConstraint("item_id", "location_id", "counted_at", "source", "key"),
    Index(
        "ix_live_count_seen",
        "item_id",
        "location_id",
        "counted_at",
        sqlite_where=text("quantity > 0"),
        postgresql_where=text("quantity > 0"),
    ),
)
"""Counts that hold, of current runs and of people, in the order in which the newest wins."""

live_scope = Table(
    "live_scope",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("location_id", Text, ForeignKey("location.id"), nullable=False),
    Column("counted_at", Float, nullable=False),
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("capture_id", Text, ForeignKey("capture.id"), nullable=False, index=True),
    Column("run_id", Text, ForeignKey("run.id"), nullable=False),
    UniqueConstraint("location_id", "counted_at", "source", "key"),
)
"""Locations that current runs saw whole, in the same order as live_count."""

stock = Table(
    "stock",
    metadata,
    Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
    Column("location_id", Text, ForeignKey("location.id"), primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("confidence", Float),
    Column("counted_at", Float),
    Column("last_seen_at", Float),
    Column("basis_run_id", Text, ForeignKey("run.id")),
    Column("basis_movement_id", Text, ForeignKey("movement.id")),
    Index(None, "location_id"),
)


def insert_new(connection: Connection, table: Table, rows: Sequence[dict[str, object]]) -> None:
    """Insert the rows, leaving those whose key is there already as they are."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), list(rows))
    else:
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), list(rows))
