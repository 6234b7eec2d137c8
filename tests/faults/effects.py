"""What jobs really did, in a SQLite file beside the queue, fenced as the kit's ledger is.

Every start, every effect with its verdict, and every end that the queue acknowledged is a row,
in the order in which it happened.
"""

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS started (job TEXT, attempt INTEGER, worker TEXT, at REAL);
CREATE INDEX IF NOT EXISTS started_by_job ON started (job, attempt);
CREATE TABLE IF NOT EXISTS effect (job TEXT, attempt INTEGER, verdict TEXT);
CREATE INDEX IF NOT EXISTS effect_by_job ON effect (job);
CREATE TABLE IF NOT EXISTS ended (job TEXT, attempt INTEGER, at REAL);
"""


class Verdict(StrEnum):
    """What became of an effect."""

    ACCEPTED = "accepted"
    FENCED = "fenced"
    """A newer attempt has started."""
    KNOWN = "known"
    """An earlier attempt, whose worker died before it could say so, had this effect."""


@dataclass(frozen=True, slots=True)
class Row:
    """One of the three; ``verdict`` is that of an effect."""

    job: str
    attempt: int
    verdict: str = ""
    at: float = 0.0


class Effects:
    """The file. Its writes survive the process, not the machine: nobody pulls that plug here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=20)
        # SQLite does not wait when two turn the log on at once: one was "locked", and died of it.
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def start(self, job: str, attempt: int, worker: str) -> None:
        """The attempt begins."""
        row = (job, attempt, worker, time.monotonic())
        self._connection.execute("INSERT INTO started VALUES (?, ?, ?, ?)", row)

    def apply(self, job: str, attempt: int) -> Verdict:
        """The attempt's effect: accepted if none newer has started and there is none yet."""
        with self._transaction():
            verdict = self._verdict(job, attempt)
            self._connection.execute("INSERT INTO effect VALUES (?, ?, ?)", (job, attempt, verdict))
        return verdict

    def end(self, job: str, attempt: int) -> None:
        """The queue said that it knows of the job's success."""
        row = (job, attempt, time.monotonic())
        self._connection.execute("INSERT INTO ended VALUES (?, ?, ?)", row)

    def _verdict(self, job: str, attempt: int) -> Verdict:
        ask = self._connection.execute
        ((newest,),) = ask("SELECT MAX(attempt) FROM started WHERE job = ?", (job,))
        if newest > attempt:
            return Verdict.FENCED
        accepted = (job, Verdict.ACCEPTED)
        ((count,),) = ask("SELECT COUNT(*) FROM effect WHERE job = ? AND verdict = ?", accepted)
        return Verdict.KNOWN if count else Verdict.ACCEPTED

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def count(self) -> int:
        """How many effects there were, whatever their verdict."""
        ((count,),) = self._connection.execute("SELECT MAX(rowid) FROM effect")
        return int(count or 0)

    def starts(self) -> list[Row]:
        rows = self._connection.execute("SELECT job, attempt, at FROM started ORDER BY rowid")
        return [Row(job, attempt, at=at) for job, attempt, at in rows]

    def effects(self) -> list[Row]:
        rows = self._connection.execute("SELECT job, attempt, verdict FROM effect ORDER BY rowid")
        return [Row(*row) for row in rows]

    def ends(self) -> list[Row]:
        rows = self._connection.execute("SELECT job, attempt, at FROM ended ORDER BY rowid")
        return [Row(job, attempt, at=at) for job, attempt, at in rows]


@contextmanager
def opened(path: Path) -> Iterator[Effects]:
    with closing(Effects(path)) as effects:
        yield effects
