"""Captures of a device by the time they were taken: what came before a picture is found at once."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_capture_device_id_captured_at", "capture", ["device_id", "captured_at"])
