"""What running it in earnest needs: sums of what all processes count, and how far stock looked."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NAME = sa.Text().with_variant(sa.dialects.postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Make what is new."""
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
