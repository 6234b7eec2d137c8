"""A job is one row with its history; turns of keys, unique keys, and counts that need no counting.

On Postgres two integers become long ones, as SQLite's are.
"""

import json
from collections import defaultdict

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

STATES = ("queued", "scheduled", "running", "succeeded", "failed", "cancelled")
OLD_INDEXES = (
    *("ix_job_claim", "ix_job_claim_queue", "ix_job_due", "ix_job_lease_until"),
    *("ix_job_finished_at", "ix_job_queued_at", "ix_job_batch"),
)


def upgrade() -> None:
    """Add the columns, move the history into them, and make the new indexes."""
    for name in OLD_INDEXES:
        op.drop_index(name, "job")
    _add_columns()
    _move_history()
    op.drop_table("job_attempt")
    # Only now: SQLite makes the table anew for it, and attempts would go with the old one.
    _change_columns()
    _create_indexes()
    _create_tally()
    # The row for all queues has a name that no queue can have, and only pauses are kept.
    op.execute("DELETE FROM queue_control WHERE NOT is_paused")
    op.execute("UPDATE queue_control SET queue = '' WHERE queue = '*'")
    op.add_column("worker", sa.Column("wanted", sa.Integer()))


def _add_columns() -> None:
    for column in (
        sa.Column("started_at", sa.Float()),
        sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("attempts", sa.Text(), nullable=False, server_default=""),
        sa.Column("unique_key", sa.String(200)),
        sa.Column("unique_for_s", sa.Float()),
        sa.Column("held_key", sa.String(200)),
        sa.Column("concurrency_key", sa.String(200)),
        sa.Column("max_running", sa.Integer(), nullable=False, server_default="1"),
    ):
        op.add_column("job", column)


def _change_columns() -> None:
    defaults = {"attempt": "0", "tries": "0", "progress": "0", "is_cancel_requested": "FALSE"}
    with op.batch_alter_table("job") as job:
        for name, default in defaults.items():
            job.alter_column(name, server_default=sa.text(default))
        if op.get_context().dialect.name == "postgresql":
            job.alter_column("seq", type_=sa.BigInteger())
            job.alter_column("priority", type_=sa.BigInteger())
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER SEQUENCE job_seq_seq AS bigint")


def _move_history() -> None:
    """Attempts that ended become lines; of the one that runs only the start is kept."""
    connection = op.get_bind()
    lines: defaultdict[str, list[str]] = defaultdict(list)
    rows = connection.execute(
        sa.text(
            "SELECT a.job_id, a.number, a.worker, a.started_at, a.finished_at, a.error,"
            " j.state = 'running' AND j.attempt = a.number AS is_running"
            " FROM job_attempt a JOIN job j ON j.id = a.job_id ORDER BY a.job_id, a.number"
        )
    )
    started = sa.text("UPDATE job SET started_at = :started_at WHERE id = :id")
    for row in rows.all():
        if row.is_running:
            connection.execute(started, {"started_at": row.started_at, "id": row.job_id})
            continue
        line = {
            "number": row.number,
            "worker": row.worker,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "error": None if row.error is None else json.loads(row.error),
        }
        lines[row.job_id].append(json.dumps(line, separators=(",", ":")) + "\n")
    if lines:
        connection.execute(
            sa.text("UPDATE job SET attempts = :attempts WHERE id = :id"),
            [{"id": job_id, "attempts": "".join(each)} for job_id, each in lines.items()],
        )


def _create_indexes() -> None:
    priority = sa.text("priority DESC")
    _index("ix_job_ready", priority, "due_at", "seq", where="state = 'queued'")
    _index("ix_job_ready_queue", "queue", priority, "due_at", "seq", where="state = 'queued'")
    _index("ix_job_waiting", "due_at", where="state IN ('queued', 'blocked')")
    _index("ix_job_scheduled", "due_at", where="state = 'scheduled'")
    _index("ix_job_lease_until", "lease_until", where="lease_until IS NOT NULL")
    op.create_index("ix_job_state", "job", ["state", "seq"])
    _index("ix_job_finished_at", "finished_at", where="finished_at IS NOT NULL")
    _index("ix_job_batch", "batch", "seq", where="batch IS NOT NULL")
    _index("ix_job_held_key", "held_key", where="held_key IS NOT NULL", is_unique=True)
    _index(
        "ix_job_turn",
        *("concurrency_key", priority, "due_at", "seq"),
        where="concurrency_key IS NOT NULL AND state IN ('queued', 'blocked')",
    )
    _index(
        "ix_job_on_turn",
        *("concurrency_key", "state"),
        where="concurrency_key IS NOT NULL AND state IN ('queued', 'running')",
    )


def _index(name: str, *columns: str | sa.TextClause, where: str, is_unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(
        name,
        "job",
        list(columns),
        unique=is_unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _create_tally() -> None:
    long = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "job_tally",
        sa.Column("seq", long, nullable=False),
        sa.Column("queue", sa.String(100), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        *(sa.Column(name, long, nullable=False) for name in (*STATES, "came", "went")),
        sa.PrimaryKeyConstraint("seq", name="pk_job_tally"),
    )
    counts = ", ".join(f"sum(CASE WHEN state = '{state}' THEN 1 ELSE 0 END)" for state in STATES)
    # Only fixed words are put into the text. Rates begin anew.
    op.execute(
        f"INSERT INTO job_tally (queue, at, {', '.join(STATES)}, came, went)"  # noqa: S608
        f" SELECT queue, 0, {counts}, 0, 0 FROM job GROUP BY queue"
    )
