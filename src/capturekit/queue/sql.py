"""A durable queue in the application's own database.

A job can be submitted in the transaction that stores what it is about, so there is never
a capture without its job. Any number of processes may share the database.
"""

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData()
"""The queue's tables. Times are seconds since 1970, UTC."""

_job: Final = Table(
    "job",
    metadata,
    # Order of submission; the id is the caller's.
    Column("seq", Integer, nullable=False),
    Column("id", String(200), nullable=False),
    Column("kind", String(100), nullable=False),
    Column("queue", String(100), nullable=False),
    Column("batch", String(200)),
    # JSON as text: SQLite would turn a bare number in a JSON column into a float.
    Column("payload", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("delay_s", Float, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("backoff_base_s", Float, nullable=False),
    Column("backoff_cap_s", Float, nullable=False),
    Column("state", String(20), nullable=False),
    # May run from then on; what it waits for while scheduled.
    Column("due_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    # Number of the newest attempt, never reused: the fence.
    Column("attempt", Integer, nullable=False),
    # Attempts that count against max_attempts.
    Column("tries", Integer, nullable=False),
    # Both are set while it runs, and only then.
    Column("worker", String(200)),
    Column("lease_until", Float),
    Column("progress", Float, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("is_cancel_requested", Boolean, nullable=False),
    PrimaryKeyConstraint("seq", name="pk_job"),
    UniqueConstraint("id", name="uq_job_id"),
)
Index("ix_job_claim", _job.c.state, _job.c.priority.desc(), _job.c.due_at)
Index("ix_job_claim_queue", _job.c.state, _job.c.queue, _job.c.priority.desc(), _job.c.due_at)
Index("ix_job_due", _job.c.state, _job.c.due_at)
Index("ix_job_lease_until", _job.c.lease_until)
Index("ix_job_finished_at", _job.c.finished_at)
Index("ix_job_batch", _job.c.batch)

_attempt: Final = Table(
    "job_attempt",
    metadata,
    Column("job_id", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("error", Text),
    PrimaryKeyConstraint("job_id", "number", name="pk_job_attempt"),
    ForeignKeyConstraint(
        ["job_id"], ["job.id"], name="fk_job_attempt_job_id_job", ondelete="CASCADE"
    ),
)

_worker: Final = Table(
    "worker",
    metadata,
    Column("id", String(200), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    PrimaryKeyConstraint("id", name="pk_worker"),
)

_control: Final = Table(
    "queue_control",
    metadata,
    # "*" is all queues.
    Column("queue", String(100), nullable=False),
    Column("is_paused", Boolean, nullable=False),
    PrimaryKeyConstraint("queue", name="pk_queue_control"),
)
