"""The first schema: captures, devices, stock, and the queue.

Frozen: what these tables look like today is told by later revisions, never by the models.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table, and the virtual locations that moves begin and end in."""
    _create_item()
    _create_location()
    _create_device()
    _create_item_code()
    _create_move()
    _create_movement()
    _create_capture()
    _create_credential()
    _create_view()
    _create_run()
    _create_live_count()
    _create_live_scope()
    _create_observation()
    _create_run_scope()
    _create_stock()
    _create_verdict()
    _create_job()
    _create_queue_control()
    _create_worker()
    _create_job_attempt()
    _add_virtual_locations()


def _create_item() -> None:
    op.create_table(
        "item",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_item"),
    )


def _create_location() -> None:
    op.create_table(
        "location",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text()),
        sa.Column("is_virtual", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["location.id"], name="fk_location_parent_id"),
        sa.PrimaryKeyConstraint("id", name="pk_location"),
    )
    op.create_index("ix_location_parent_id", "location", ["parent_id"])


def _create_device() -> None:
    op.create_table(
        "device",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.Column("is_exhaustive", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float()),
        sa.Column("last_seen_at", sa.Float()),
        sa.Column("battery_v", sa.Float()),
        sa.Column("rssi", sa.Integer()),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_device_location_id"),
        sa.PrimaryKeyConstraint("id", name="pk_device"),
    )


def _create_item_code() -> None:
    op.create_table(
        "item_code",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name="ck_item_code_quantity"),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_item_code_item_id"),
        sa.PrimaryKeyConstraint("code", name="pk_item_code"),
    )
    op.create_index("ix_item_code_item_id", "item_code", ["item_id"])


def _create_move() -> None:
    op.create_table(
        "move",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("from_id", sa.Text(), nullable=False),
        sa.Column("to_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("cause_id", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.CheckConstraint("quantity > 0", name="ck_move_quantity"),
        sa.ForeignKeyConstraint(["from_id"], ["location.id"], name="fk_move_from_id"),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_move_item_id"),
        sa.ForeignKeyConstraint(["to_id"], ["location.id"], name="fk_move_to_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_move"),
    )
    op.create_index("ix_move_item_id_from_id_seq", "move", ["item_id", "from_id", "seq"])
    op.create_index("ix_move_item_id_to_id_seq", "move", ["item_id", "to_id", "seq"])


def _create_movement() -> None:
    op.create_table(
        "movement",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("from_id", sa.Text()),
        sa.Column("to_id", sa.Text()),
        sa.Column("counted_id", sa.Text()),
        sa.Column("moved_at", sa.Float(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.Column("voided_at", sa.Float()),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('receive', 'use', 'move', 'count', 'write_off')", name="ck_movement_kind"
        ),
        sa.ForeignKeyConstraint(["counted_id"], ["location.id"], name="fk_movement_counted_id"),
        sa.ForeignKeyConstraint(["from_id"], ["location.id"], name="fk_movement_from_id"),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_movement_item_id"),
        sa.ForeignKeyConstraint(["to_id"], ["location.id"], name="fk_movement_to_id"),
        sa.PrimaryKeyConstraint("id", name="pk_movement"),
        sa.UniqueConstraint("key", name="uq_movement_key"),
    )
    op.create_index("ix_movement_item", "movement", ["item"])
    op.create_index(
        "ix_movement_item_id_from_id_moved_at_voided_at_units",
        "movement",
        ["item_id", "from_id", "moved_at", "voided_at", "units"],
    )
    op.create_index(
        "ix_movement_item_id_to_id_moved_at_voided_at_units",
        "movement",
        ["item_id", "to_id", "moved_at", "voided_at", "units"],
    )


def _create_capture() -> None:
    op.create_table(
        "capture",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("captured_at", sa.Float(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("trigger_type", sa.Text()),
        sa.Column("battery_v", sa.Float()),
        sa.Column("rssi", sa.Integer()),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("current_run_id", sa.Text()),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("thumbnail_sha256", sa.Text()),
        sa.CheckConstraint(
            "state IN ('pending', 'processing', 'completed', 'failed')", name="ck_capture_state"
        ),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_capture_device_id"),
        sa.PrimaryKeyConstraint("id", name="pk_capture"),
        sa.UniqueConstraint("device_id", "key", name="uq_capture_device_id_key"),
    )
    op.create_index("ix_capture_device_id_id", "capture", ["device_id", "id"])
    op.create_index("ix_capture_state_id", "capture", ["state", "id"])


def _create_credential() -> None:
    op.create_table(
        "credential",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float()),
        sa.CheckConstraint("kind IN ('device', 'admin')", name="ck_credential_kind"),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_credential_device_id"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_credential"),
    )
    op.create_index("ix_credential_device_id", "credential", ["device_id"])


def _create_view() -> None:
    op.create_table(
        "view",
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.Column("polygon", sa.JSON(none_as_null=True)),
        sa.Column("is_exhaustive", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_view_device_id"),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_view_location_id"),
        sa.PrimaryKeyConstraint("device_id", "location_id", name="pk_view"),
    )


def _create_run() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("capture_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("thumbnail_sha256", sa.Text()),
        sa.ForeignKeyConstraint(["capture_id"], ["capture.id"], name="fk_run_capture_id"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("capture_id", "fingerprint", name="uq_run_capture_id_fingerprint"),
    )


def _create_live_count() -> None:
    op.create_table(
        "live_count",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.Column("counted_at", sa.Float(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("capture_id", sa.Text()),
        sa.Column("run_id", sa.Text()),
        sa.Column("movement_id", sa.Text()),
        sa.ForeignKeyConstraint(["capture_id"], ["capture.id"], name="fk_live_count_capture_id"),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_live_count_item_id"),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_live_count_location_id"),
        sa.ForeignKeyConstraint(["movement_id"], ["movement.id"], name="fk_live_count_movement_id"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_live_count_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_live_count"),
        sa.UniqueConstraint(
            "item_id",
            "location_id",
            "counted_at",
            "source",
            "key",
            name="uq_live_count_item_id_location_id_counted_at_source_key",
        ),
    )
    op.create_index("ix_live_count_capture_id", "live_count", ["capture_id"])
    op.create_index("ix_live_count_movement_id", "live_count", ["movement_id"])
    op.create_index(
        "ix_live_count_seen",
        "live_count",
        ["item_id", "location_id", "counted_at"],
        sqlite_where=sa.text("quantity > 0"),
        postgresql_where=sa.text("quantity > 0"),
    )


def _create_live_scope() -> None:
    op.create_table(
        "live_scope",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.Column("counted_at", sa.Float(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("capture_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["capture_id"], ["capture.id"], name="fk_live_scope_capture_id"),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_live_scope_location_id"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_live_scope_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_live_scope"),
        sa.UniqueConstraint(
            "location_id",
            "counted_at",
            "source",
            "key",
            name="uq_live_scope_location_id_counted_at_source_key",
        ),
    )
    op.create_index("ix_live_scope_capture_id", "live_scope", ["capture_id"])


def _create_observation() -> None:
    op.create_table(
        "observation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("analyser", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text()),
        sa.Column("item", sa.Text()),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("box", sa.JSON(none_as_null=True)),
        sa.Column("is_confident", sa.Boolean(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_observation_item_id"),
        sa.ForeignKeyConstraint(
            ["location_id"], ["location.id"], name="fk_observation_location_id"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_observation_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_observation"),
    )
    op.create_index("ix_observation_code", "observation", ["code"])
    op.create_index("ix_observation_is_confident_id", "observation", ["is_confident", "id"])
    op.create_index("ix_observation_item", "observation", ["item"])
    op.create_index(
        "ix_observation_run_id_location_id_item_id",
        "observation",
        ["run_id", "location_id", "item_id"],
    )


def _create_run_scope() -> None:
    op.create_table(
        "run_scope",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_run_scope_location_id"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_run_scope_run_id"),
        sa.PrimaryKeyConstraint("run_id", "location_id", name="pk_run_scope"),
    )


def _create_stock() -> None:
    op.create_table(
        "stock",
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Float()),
        sa.Column("counted_at", sa.Float()),
        sa.Column("last_seen_at", sa.Float()),
        sa.Column("basis_run_id", sa.Text()),
        sa.Column("basis_movement_id", sa.Text()),
        sa.ForeignKeyConstraint(
            ["basis_movement_id"], ["movement.id"], name="fk_stock_basis_movement_id"
        ),
        sa.ForeignKeyConstraint(["basis_run_id"], ["run.id"], name="fk_stock_basis_run_id"),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name="fk_stock_item_id"),
        sa.ForeignKeyConstraint(["location_id"], ["location.id"], name="fk_stock_location_id"),
        sa.PrimaryKeyConstraint("item_id", "location_id", name="pk_stock"),
    )
    op.create_index("ix_stock_location_id", "stock", ["location_id"])


def _create_verdict() -> None:
    op.create_table(
        "verdict",
        sa.Column("observation_id", sa.Integer(), nullable=False),
        sa.Column("is_accepted", sa.Boolean(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["observation_id"], ["observation.id"], name="fk_verdict_observation_id"
        ),
        sa.PrimaryKeyConstraint("observation_id", name="pk_verdict"),
    )


def _create_job() -> None:
    op.create_table(
        "job",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("queue", sa.String(length=100), nullable=False),
        sa.Column("batch", sa.String(length=200)),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("delay_s", sa.Float(), nullable=False),
        sa.Column("timeout_s", sa.Float(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("backoff_base_s", sa.Float(), nullable=False),
        sa.Column("backoff_cap_s", sa.Float(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("queued_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=200)),
        sa.Column("lease_until", sa.Float()),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("is_cancel_requested", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_job"),
        sa.UniqueConstraint("id", name="uq_job_id"),
    )
    op.create_index("ix_job_batch", "job", ["batch"])
    op.create_index("ix_job_claim", "job", ["state", sa.literal_column("priority DESC"), "due_at"])
    op.create_index(
        "ix_job_claim_queue",
        "job",
        ["state", "queue", sa.literal_column("priority DESC"), "due_at"],
    )
    op.create_index("ix_job_due", "job", ["state", "due_at"])
    op.create_index("ix_job_finished_at", "job", ["finished_at"])
    op.create_index("ix_job_queued_at", "job", ["queued_at"])
    op.create_index("ix_job_lease_until", "job", ["lease_until"])


def _create_queue_control() -> None:
    op.create_table(
        "queue_control",
        sa.Column("queue", sa.String(length=100), nullable=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name="pk_queue_control"),
    )


def _create_worker() -> None:
    op.create_table(
        "worker",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("heartbeat_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )


def _create_job_attempt() -> None:
    op.create_table(
        "job_attempt",
        sa.Column("job_id", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float()),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name="fk_job_attempt_job_id_job", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_job_attempt"),
    )


def _add_virtual_locations() -> None:
    location = sa.table("location", sa.column("id"), sa.column("name"), sa.column("is_virtual"))
    names = ("supplier", "consumed", "lost", "adjusted")
    op.bulk_insert(
        location, [{"id": f"~{name}", "name": name, "is_virtual": True} for name in names]
    )
