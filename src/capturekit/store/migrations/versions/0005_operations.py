"""What running it in earnest needs: sums of all processes, how far stock looked, roles."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NAME = sa.Text().with_variant(sa.dialects.postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Make what is new."""
    _give_tokens_roles()
    _create_people()
    with op.batch_alter_table("stock") as stock:
        stock.add_column(sa.Column("silence_capture_id", NAME))
        stock.add_column(sa.Column("silence_from", sa.Float))
    op.create_table(
        "telemetry",
        sa.Column("name", NAME, nullable=False),
        sa.Column("labels", NAME, nullable=False),
        sa.Column("bucket", sa.Integer, nullable=False),
        sa.Column("sum", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", "bucket", name="pk_telemetry"),
    )
    _create_device_config()
    _create_claim()
    _create_used_nonce()
    _create_kept_answer()


def _create_device_config() -> None:
    op.create_table(
        "device_config",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_device_config_device_id"),
        sa.PrimaryKeyConstraint("device_id", name="pk_device_config"),
    )


def _create_people() -> None:
    op.create_table(
        "person",
        sa.Column("name", NAME, nullable=False),
        sa.Column("role", NAME, nullable=False),
        sa.Column("password", NAME, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("disabled_at", sa.Float),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="ck_person_role"),
        sa.PrimaryKeyConstraint("name", name="pk_person"),
    )
    op.create_table(
        "session",
        sa.Column("id_hash", NAME, nullable=False),
        sa.Column("person", NAME, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["person"], ["person.name"], name="fk_session_person"),
        sa.PrimaryKeyConstraint("id_hash", name="pk_session"),
    )
    op.create_index("ix_session_person", "session", ["person"])


def _give_tokens_roles() -> None:
    """Whoever had a token of the API was an administrator, and stays one."""
    with op.batch_alter_table("credential") as table:
        table.drop_constraint("ck_credential_kind", type_="check")
        for name in ("id", "name", "role"):
            table.add_column(sa.Column(name, NAME))
    op.execute("UPDATE credential SET id = substr(token_hash, 1, 12)")
    op.execute(
        "UPDATE credential SET kind = 'token', name = 'admin', role = 'admin' WHERE kind = 'admin'"
    )
    with op.batch_alter_table("credential") as table:
        table.alter_column("id", existing_type=NAME, nullable=False)
        table.create_unique_constraint("uq_credential_id", ["id"])
        table.create_check_constraint("ck_credential_kind", "kind IN ('device', 'token')")
        table.create_check_constraint(
            "ck_credential_role", "role IN ('viewer', 'operator', 'admin')"
        )
        table.create_check_constraint(
            "ck_credential_has_role", "(kind = 'token') = (role IS NOT NULL)"
        )


def _create_claim() -> None:
    op.create_table(
        "claim",
        sa.Column("id", NAME, nullable=False),
        sa.Column("code_hash", NAME, nullable=False),
        sa.Column("device_id", NAME),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float),
        sa.Column("claimed_id", NAME),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_claim_device_id"),
        sa.ForeignKeyConstraint(["claimed_id"], ["device.id"], name="fk_claim_claimed_id"),
        sa.PrimaryKeyConstraint("id", name="pk_claim"),
        sa.UniqueConstraint("code_hash", name="uq_claim_code_hash"),
    )
    op.create_index("ix_claim_device_id", "claim", ["device_id"])
    op.create_index("ix_claim_expires_at", "claim", ["expires_at"])


def _create_used_nonce() -> None:
    # No batch: that would make the table anew, to which others refer.
    is_signed_only = sa.Column(
        "is_signed_only", sa.Boolean, nullable=False, server_default=sa.false()
    )
    op.add_column("device", is_signed_only)
    op.create_table(
        "used_nonce",
        sa.Column("nonce", NAME, nullable=False),
        sa.Column("signature", NAME, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("nonce", name="pk_used_nonce"),
    )
    op.create_index("ix_used_nonce_expires_at", "used_nonce", ["expires_at"])


def _create_kept_answer() -> None:
    op.create_table(
        "kept_answer",
        sa.Column("id", NAME, nullable=False),
        sa.Column("request_digest", NAME, nullable=False),
        sa.Column("turn", NAME, nullable=False),
        sa.Column("begun_at", sa.Float, nullable=False),
        sa.Column("sealed", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_kept_answer"),
    )
    op.create_index("ix_kept_answer_begun_at", "kept_answer", ["begun_at"])
