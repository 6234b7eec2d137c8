"""The queue's tables. Times are seconds since 1970, UTC.

A job is one row, its history included. Indexes cover only the rows that somebody looks for,
so that what waits costs nothing while other jobs come and go.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

ALL_QUEUES: Final = ""
"""The row of ``queue_control`` that counts for every queue. No queue is called so."""

metadata: Final = MetaData()

# SQLite numbers rows by itself only where the type is spelled INTEGER; it holds 64 bits, too.
_Long: Final = BigInteger().with_variant(Integer(), "sqlite")

job: Final = Table(
    "job",
    metadata,
    # Order of submission; the id is the caller's.
    Column("seq", _Long, nullable=False),
    Column("id", String(200), nullable=False),
    Column("kind", String(100), nullable=False),
    Column("queue", String(100), nullable=False),
    Column("batch", String(200)),
    # JSON as text: SQLite would turn a bare number in a JSON column into a float.
    Column("payload", Text, nullable=False),
    Column("priority", _Long, nullable=False),
    Column("delay_s", Float, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("backoff_base_s", Float, nullable=False),
    Column("backoff_cap_s", Float, nullable=False),
    # A JobState, or "blocked": queued, and its concurrency key has no turn left for it.
    Column("state", String(20), nullable=False),
    # May run from then on; what it waits for while scheduled.
    Column("due_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("finished_at", Float),
    # Number of the newest attempt, never reused: the fence.
    Column("attempt", Integer, nullable=False, server_default="0"),
    # Attempts that count against max_attempts.
    Column("tries", Integer, nullable=False, server_default="0"),
    # These three are set while it runs, and only then.
    Column("worker", String(200)),
    Column("started_at", Float),
    Column("lease_until", Float),
    Column("progress", Float, nullable=False, server_default="0"),
    Column("result", Text),
    Column("error", Text),
    Column("is_cancel_requested", Boolean, nullable=False, server_default=text("FALSE")),
    # Of the form in which kind, payload and the rest are kept.
    Column("version", Integer, nullable=False, server_default="1"),
    # Attempts that ended, each a line of JSON: to end one is to append.
    Column("attempts", Text, nullable=False, server_default=""),
    Column("unique_key", String(200)),
    Column("unique_for_s", Float),
    # The unique key, as long as this job holds it.
    Column("held_key", String(200)),
    Column("concurrency_key", String(200)),
    Column("max_running", Integer, nullable=False, server_default="1"),
    PrimaryKeyConstraint("seq", name="pk_job"),
    UniqueConstraint("id", name="uq_job_id"),
)


def _index(index: str, *columns: str, where: str | None = None, is_unique: bool = False) -> None:
    condition = None if where is None else text(where)
    Index(
        index,
        *(job.c.priority.desc() if name == "priority DESC" else job.c[name] for name in columns),
        unique=is_unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


_index("ix_job_ready", "priority DESC", "due_at", "seq", where="state = 'queued'")
_index("ix_job_ready_queue", "queue", "priority DESC", "due_at", "seq", where="state = 'queued'")
_index("ix_job_waiting", "due_at", where="state IN ('queued', 'blocked')")
_index("ix_job_scheduled", "due_at", where="state = 'scheduled'")
_index("ix_job_lease_until", "lease_until", where="lease_until IS NOT NULL")
_index("ix_job_state", "state", "seq")
_index("ix_job_finished_at", "finished_at", where="finished_at IS NOT NULL")
_index("ix_job_batch", "batch", "seq", where="batch IS NOT NULL")
_index("ix_job_held_key", "held_key", where="held_key IS NOT NULL", is_unique=True)
_index(
    "ix_job_turn",
    *("concurrency_key", "priority DESC", "due_at", "seq"),
    where="concurrency_key IS NOT NULL AND state IN ('queued', 'blocked')",
)
_index(
    "ix_job_on_turn",
    *("concurrency_key", "state"),
    where="concurrency_key IS NOT NULL AND state IN ('queued', 'running')",
)

tally: Final = Table(
    "job_tally",
    metadata,
    Column("seq", _Long, nullable=False),
    Column("queue", String(100), nullable=False),
    # When, rounded down; 0 for what is too long ago to count in any rate.
    Column("at", Float, nullable=False),
    # What changed in the number of jobs in each state.
    *(
        Column(state, _Long, nullable=False)
        for state in ("queued", "scheduled", "running", "succeeded", "failed", "cancelled")
    ),
    # Jobs that came in and that ended.
    Column("came", _Long, nullable=False),
    Column("went", _Long, nullable=False),
    PrimaryKeyConstraint("seq", name="pk_job_tally"),
)
"""What each transaction changed, appended; sums tell the depth without a look at the jobs."""

worker: Final = Table(
    "worker",
    metadata,
    Column("id", String(200), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    # What it was asked to run at once.
    Column("wanted", Integer),
    PrimaryKeyConstraint("id", name="pk_worker"),
)

control: Final = Table(
    "queue_control",
    metadata,
    Column("queue", String(100), nullable=False),
    Column("is_paused", Boolean, nullable=False),
    PrimaryKeyConstraint("queue", name="pk_queue_control"),
)
