"""The tables of captures, devices and stock.

Facts (capture, run, observation, verdict, movement) are never changed by the ledger; live_count,
live_scope and stock are projections of them; move is append-only. Quantities are integers
in the item's base unit, times are seconds since 1970, UTC.

On Postgres every text is compared byte by byte (collation C), as SQLite does: which of two
counts wins must not depend on the language of a server.
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
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
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

NAME: Final = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
LONG: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER, whose values are long, too."""

location = Table(
    "location",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("parent_id", NAME, ForeignKey("location.id"), index=True),
    Column("is_virtual", Boolean, nullable=False),
)

device = Table(
    "device",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("location_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("is_exhaustive", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("last_seen_at", Float),
    Column("battery_v", Float),
    Column("rssi", Integer),
    Column("is_signed_only", Boolean, nullable=False, server_default=false()),
)

credential = Table(
    "credential",
    metadata,
    Column("token_hash", NAME, primary_key=True),
    Column("kind", NAME, nullable=False),
    Column("device_id", NAME, ForeignKey("device.id"), index=True),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    # Names it where it is managed: the hash is for looking it up.
    Column("id", NAME, nullable=False, unique=True),
    Column("name", NAME),
    Column("role", NAME),
    CheckConstraint("kind IN ('device', 'token')", name="kind"),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
    CheckConstraint("(kind = 'token') = (role IS NOT NULL)", name="has_role"),
)

device_config = Table(
    "device_config",
    metadata,
    Column("device_id", NAME, ForeignKey("device.id"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("config", JSON, nullable=False),
    Column("changed_at", Float, nullable=False),
)
"""What devices should do. A device without a row was never told."""

used_nonce = Table(
    "used_nonce",
    metadata,
    Column("nonce", NAME, primary_key=True),
    Column("signature", NAME, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)
"""Nonces that a signed request had, and its signature: no other may have them."""

claim = Table(
    "claim",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("code_hash", NAME, nullable=False, unique=True),
    Column("device_id", NAME, ForeignKey("device.id"), index=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Column("used_at", Float),
    Column("claimed_id", NAME, ForeignKey("device.id")),
)
"""Tokens that are offered: whoever has the code may take one."""

kept_answer = Table(
    "kept_answer",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("request_digest", NAME, nullable=False),
    Column("turn", NAME, nullable=False),
    Column("begun_at", Float, nullable=False, index=True),
    Column("sealed", Text),
)
"""What was answered to requests that have an Idempotency-Key; null while it is being done."""

person = Table(
    "person",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("role", NAME, nullable=False),
    Column("password", NAME, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)
"""Who may sign in; ``password`` is a hash that says how it was made."""

session = Table(
    "session",
    metadata,
    Column("id_hash", NAME, primary_key=True),
    Column("person", NAME, ForeignKey("person.name"), nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

view = Table(
    "view",
    metadata,
    Column("device_id", NAME, ForeignKey("device.id"), primary_key=True),
    Column("location_id", NAME, ForeignKey("location.id"), primary_key=True),
    Column("polygon", JSON(none_as_null=True)),
    Column("is_exhaustive", Boolean, nullable=False),
)

item = Table(
    "item",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("unit", NAME),
    Column("created_at", Float, nullable=False),
    Index(None, "name", "id"),
)

item_code = Table(
    "item_code",
    metadata,
    Column("code", NAME, primary_key=True),
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False, index=True),
    Column("quantity", BigInteger, nullable=False),
    CheckConstraint("quantity > 0", name="quantity"),
)

capture = Table(
    "capture",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("device_id", NAME, ForeignKey("device.id"), nullable=False),
    Column("key", NAME, nullable=False),
    Column("sha256", NAME, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("media_type", NAME, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("flags", JSON, nullable=False),
    Column("captured_at", Float, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("trigger_type", NAME),
    Column("battery_v", Float),
    Column("rssi", Integer),
    Column("metadata", JSON, nullable=False),
    Column("state", NAME, nullable=False),
    Column("series", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    # No foreign key: run points at capture, and SQLite cannot add the second later.
    Column("current_run_id", NAME, index=True),
    Column("error", JSON(none_as_null=True)),
    Column("thumbnail_sha256", NAME),
    # When retention removed its pictures. The facts about it stay.
    Column("picture_removed_at", Float),
    UniqueConstraint("device_id", "key"),
    CheckConstraint("state IN ('pending', 'processing', 'completed', 'failed')", name="state"),
    Index(None, "state", "id"),
    Index(None, "device_id", "id"),
    Index(None, "device_id", "captured_at"),
    Index(None, "sha256"),
    Index(None, "thumbnail_sha256"),
    Index(
        "ix_capture_kept",
        "received_at",
        sqlite_where=text("picture_removed_at IS NULL"),
        postgresql_where=text("picture_removed_at IS NULL"),
    ),
)

run = Table(
    "run",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("capture_id", NAME, ForeignKey("capture.id"), nullable=False),
    Column("fingerprint", NAME, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("result", JSON, nullable=False),
    Column("thumbnail_sha256", NAME, index=True),
    # The capture whose observations it took over, because nothing had changed since.
    Column("reference_id", NAME, ForeignKey("capture.id"), index=True),
    # Of all that the run said, its observations included.
    Column("digest", NAME, nullable=False),
    UniqueConstraint("capture_id", "fingerprint"),
    Index(None, "fingerprint"),
)

run_scope = Table(
    "run_scope",
    metadata,
    Column("run_id", NAME, ForeignKey("run.id"), primary_key=True),
    Column("location_id", NAME, ForeignKey("location.id"), primary_key=True),
)
"""Locations that a run saw whole: an item it did not report there is not there."""

observation = Table(
    "observation",
    metadata,
    Column("id", LONG, primary_key=True),
    Column("run_id", NAME, ForeignKey("run.id"), nullable=False),
    Column("analyser", NAME, nullable=False),
    Column("location_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("code", NAME, index=True),
    Column("item", NAME, index=True),
    Column("quantity", BigInteger, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("box", JSON(none_as_null=True)),
    # Of the package, where it is printed there: a lot's name, and a day as YYYY-MM-DD.
    Column("lot", NAME),
    Column("expires_on", NAME),
    # Frozen when the run is recorded: another threshold later does not rewrite the past.
    Column("is_confident", Boolean, nullable=False),
    # What code or item mean today; assigning a code rewrites these two.
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False),
    Column("units", BigInteger, nullable=False),
    Index(None, "run_id", "location_id", "item_id"),
    Index(
        "ix_observation_doubtful",
        "id",
        sqlite_where=text("is_confident IS 0"),
        postgresql_where=text("is_confident IS FALSE"),
    ),
)

verdict = Table(
    "verdict",
    metadata,
    Column("observation_id", LONG, ForeignKey("observation.id"), primary_key=True),
    Column("is_accepted", Boolean, nullable=False),
    Column("by", NAME, nullable=False),
    Column("decided_at", Float, nullable=False),
    Column("reason", NAME),
    # What a person saw there instead; None where the observation was right.
    Column("item_id", NAME, ForeignKey("item.id"), index=True),
    Column("units", BigInteger),
    # The observation of an earlier run that was decided about; of this one nobody was asked.
    Column("carried_from_id", LONG, ForeignKey("observation.id")),
)

movement = Table(
    "movement",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("key", NAME, nullable=False, unique=True),
    Column("kind", NAME, nullable=False),
    Column("item", NAME, nullable=False, index=True),
    Column("amount", BigInteger, nullable=False),
    Column("from_id", NAME, ForeignKey("location.id")),
    Column("to_id", NAME, ForeignKey("location.id")),
    Column("counted_id", NAME, ForeignKey("location.id")),
    Column("moved_at", Float, nullable=False),
    Column("by", NAME, nullable=False),
    Column("recorded_at", Float, nullable=False),
    Column("reason", NAME),
    Column("lot_id", LONG, ForeignKey("lot.id"), index=True),
    Column("voided_at", Float),
    Column("voided_by", NAME),
    # Of what was said, which is all but the columns around it.
    Column("digest", NAME, nullable=False),
    # What item and amount mean today; assigning a code rewrites these two.
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False),
    Column("units", BigInteger, nullable=False),
    CheckConstraint("kind IN ('receive', 'use', 'move', 'count', 'write_off')", name="kind"),
    # Covering, so that a sum reads the index alone.
    Index(None, "item_id", "to_id", "moved_at", "voided_at", "units"),
    Index(None, "item_id", "from_id", "moved_at", "voided_at", "units"),
    Index(
        "ix_movement_of_lots",
        "item_id",
        sqlite_where=text("lot_id IS NOT NULL"),
        postgresql_where=text("lot_id IS NOT NULL"),
    ),
)

move = Table(
    "move",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False),
    Column("from_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("to_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("cause", NAME, nullable=False),
    Column("cause_id", NAME, nullable=False),
    Column("recorded_at", Float, nullable=False),
    # Of this line and the one before, so that no line can be changed unseen.
    Column("digest", NAME, nullable=False),
    CheckConstraint("quantity > 0", name="quantity"),
    Index(None, "item_id", "from_id", "seq"),
    Index(None, "item_id", "to_id", "seq"),
    Index(None, "item_id", "seq"),
    Index(None, "from_id", "seq"),
    Index(None, "to_id", "seq"),
    Index(None, "recorded_at", "seq"),
    Index(None, "cause_id"),
)

live_count = Table(
    "live_count",
    metadata,
    Column("id", LONG, primary_key=True),
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False),
    Column("location_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("counted_at", Float, nullable=False),
    Column("source", NAME, nullable=False),
    Column("key", NAME, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("confidence", Float, nullable=False),
    # False where the step from the counts before it is larger than the item's policy believes.
    Column("is_plausible", Boolean, nullable=False, server_default=true()),
    Column("capture_id", NAME, ForeignKey("capture.id"), index=True),
    Column("run_id", NAME, ForeignKey("run.id")),
    Column("movement_id", NAME, ForeignKey("movement.id"), index=True),
    UniqueConstraint("item_id", "location_id", "counted_at", "source", "key"),
    Index(
        "ix_live_count_doubted",
        "capture_id",
        sqlite_where=text("is_plausible IS 0"),
        postgresql_where=text("is_plausible IS FALSE"),
    ),
    Index(
        "ix_live_count_empty",
        "item_id",
        "location_id",
        "counted_at",
        sqlite_where=text("quantity = 0"),
        postgresql_where=text("quantity = 0"),
    ),
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
    Column("id", LONG, primary_key=True),
    Column("location_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("counted_at", Float, nullable=False),
    Column("source", NAME, nullable=False),
    Column("key", NAME, nullable=False),
    Column("capture_id", NAME, ForeignKey("capture.id"), nullable=False, index=True),
    Column("run_id", NAME, ForeignKey("run.id"), nullable=False),
    UniqueConstraint("location_id", "counted_at", "source", "key"),
)
"""Locations that current runs saw whole, in the same order as live_count."""

stock = Table(
    "stock",
    metadata,
    Column("item_id", NAME, ForeignKey("item.id"), primary_key=True),
    Column("location_id", NAME, ForeignKey("location.id"), primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("confidence", Float),
    Column("counted_at", Float),
    Column("last_seen_at", Float),
    Column("basis_run_id", NAME, ForeignKey("run.id"), index=True),
    Column("basis_movement_id", NAME, ForeignKey("movement.id")),
    # The newest capture that saw the location whole and not the item, among those taken since
    # silence_from; None when there is none. Where silence_from is None nobody has looked.
    Column("silence_capture_id", NAME),
    Column("silence_from", Float),
    Index(None, "location_id"),
    Index(None, "quantity", "item_id", "location_id"),
)

policy = Table(
    "policy",
    metadata,
    Column("analyser", NAME, primary_key=True),
    Column("item_id", NAME, primary_key=True),
    Column("threshold", Float),
    Column("max_step_per_hour", Float),
    Column("is_monotone", Boolean, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("by", NAME, nullable=False),
)
"""From when on an observation is believed. An empty analyser or item means any."""

lot = Table(
    "lot",
    metadata,
    Column("id", LONG, primary_key=True),
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False),
    Column("name", NAME, nullable=False),
    Column("expires_on", NAME),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("item_id", "name"),
    Index(None, "expires_on"),
)
"""Units of an item that came together; ``expires_on`` is a day as YYYY-MM-DD."""

par_level = Table(
    "par_level",
    metadata,
    Column("item_id", NAME, ForeignKey("item.id"), primary_key=True),
    Column("location_id", NAME, ForeignKey("location.id"), primary_key=True, index=True),
    Column("minimum", BigInteger, nullable=False),
    Column("restocked_at", BigInteger, nullable=False),
    Column("min_confidence", Float, nullable=False),
    Column("is_low", Boolean, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("by", NAME, nullable=False),
    CheckConstraint("restocked_at > minimum", name="restocked_at"),
)
"""How little of an item there may be in a place and all below it. It is low from ``minimum``
down, until it is at ``restocked_at`` again."""

alert = Table(
    "alert",
    metadata,
    Column("id", LONG, primary_key=True),
    Column("kind", NAME, nullable=False),
    Column("item_id", NAME, ForeignKey("item.id"), nullable=False),
    Column("location_id", NAME, ForeignKey("location.id"), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("raised_at", Float, nullable=False),
    Column("cleared_at", Float),
    Index(None, "item_id", "location_id", "id"),
    Index(
        "ix_alert_open",
        "id",
        sqlite_where=text("cleared_at IS NULL"),
        postgresql_where=text("cleared_at IS NULL"),
    ),
)

event = Table(
    "event",
    metadata,
    Column("seq", LONG, primary_key=True),
    Column("id", NAME, nullable=False, unique=True),
    Column("kind", NAME, nullable=False),
    Column("item_id", NAME),
    Column("payload", JSON, nullable=False),
    Column("recorded_at", Float, nullable=False, index=True),
)
"""The outbox: what happened, written with it. Numbers grow in the order of commits."""

outlet = Table(
    "outlet",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("cursor", LONG, nullable=False),
    Column("holder", NAME),
    Column("held_until", Float),
)
"""Who tells events to others: up to which number it has, and which process does it now."""

webhook = Table(
    "webhook",
    metadata,
    Column("id", NAME, ForeignKey("outlet.id"), primary_key=True),
    Column("url", NAME, nullable=False),
    Column("secret", NAME, nullable=False),
    Column("kinds", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
    Column("failures", Integer, nullable=False),
    Column("failing_since", Float),
    Column("next_try_at", Float, nullable=False),
)

webhook_attempt = Table(
    "webhook_attempt",
    metadata,
    Column("id", LONG, primary_key=True),
    Column("webhook_id", NAME, ForeignKey("webhook.id"), nullable=False),
    Column("event_seq", LONG, nullable=False),
    Column("tried_at", Float, nullable=False),
    Column("status", Integer),
    Column("error", NAME),
    Column("took_ms", Float, nullable=False),
    Index(None, "webhook_id", "id"),
)

doomed_blob = Table(
    "doomed_blob",
    metadata,
    Column("sha256", NAME, primary_key=True),
    Column("doomed_at", Float, nullable=False),
    # Kept for a while: who put the blob before then must put it again.
    Column("deleted_at", Float, index=True),
)
"""Blobs that nothing needs and that are or were just deleted; nothing may come to need one
without it being put again."""

installation = Table(
    "installation",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("value", NAME, nullable=False),
)
"""Facts about this database as a whole, such as which blobs belong to it."""

telemetry = Table(
    "telemetry",
    metadata,
    Column("name", NAME, nullable=False),
    Column("labels", NAME, nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("sum", Float, nullable=False),
    PrimaryKeyConstraint("name", "labels", "bucket"),
)
"""What all processes counted. Bucket -1 is the count itself, or the sum of what was timed."""


def insert_new(connection: Connection, table: Table, rows: Sequence[dict[str, object]]) -> None:
    """Insert the rows, leaving those whose key is there already as they are."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), list(rows))
    else:
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), list(rows))


def lock_ledger(connection: Connection) -> None:
    """Let no other transaction change stock until this one ends. First in each that does.

    SQLite has one writer anyhow. On Postgres it makes the lines of the ledger and the events of
    the outbox appear in the order of their numbers, and readers never skip one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)


_LOCK: Final = text("SELECT pg_advisory_xact_lock(1667330676)")
"""The number is "capt" in ASCII; whoever else locks by number in this database takes another."""
