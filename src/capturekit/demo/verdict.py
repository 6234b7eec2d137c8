"""What was true, what the ledger says, and whether nothing was lost, doubled or let in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Stock: TypeAlias = Mapping[tuple[str, str], int]
"""Pieces by shelf and code."""


@dataclass(slots=True)
class Tally:
    """What the cameras' side knows of a run while it goes on."""

    taken: int = 0
    """Pictures that had to be stored."""
    acknowledged: int = 0
    """Those of them that the server answered for, repeats not counted."""
    ended: dict[str, str | None] = field(default_factory=dict)
    """How each acknowledged capture ended, by id; None while nobody knows."""
    latencies_ms: list[float] = field(default_factory=list)
    """From sending a picture to reading that it is processed."""
    repeats: int = 0
    repeats_told: int = 0
    """Repeated uploads that got the first one's capture id and ``duplicate``."""
    hostile: int = 0
    refused: int = 0
    """Hostile uploads that were refused as such."""
    kills: int | None = None
    """Workers that were killed; None when none was to be."""


@dataclass(frozen=True, slots=True)
class Row:
    """One product on one shelf."""

    shelf: str
    code: str
    true: int
    ledger: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run."""

    seed: int
    rows: tuple[Row, ...]
    """Everything that stood on a shelf at some time or that the ledger has."""
    captures: int
    """Distinct captures that were acknowledged."""
    lost: int
    """Acknowledged pictures that have no completed capture of their own."""
    refused: int
    p50_ms: float | None
    p95_ms: float | None
    complaints: tuple[str, ...]
    """What went wrong, a sentence each; none when all is well."""
    kills: int | None = None
    """Workers that were killed meanwhile; None when none was to be."""

    @property
    def ok(self) -> bool:
        """Nothing went wrong and something happened at all."""
        return not self.complaints

    @property
    def accuracy(self) -> float:
        """Share of the rows whose numbers agree, 0 to 1; 0 without rows."""
        return sum(row.true == row.ledger for row in self.rows) / max(len(self.rows), 1)

    @property
    def double_counts(self) -> int:
        """Rows where the ledger has more than there is."""
        return sum(row.ledger > row.true for row in self.rows)

    def as_json(self) -> dict[str, object]:
        """What ``capturekit demo --json`` prints."""
        killed = {} if self.kills is None else {"kills": self.kills}
        return {
            "ok": self.ok,
            "accuracy": round(self.accuracy, 4),
            "double_counts": self.double_counts,
            "lost": self.lost,
            "captures": self.captures,
            "refused": self.refused,
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "seed": self.seed,
            **killed,
        }


def judge(truth: Stock, ledger: Stock, tally: Tally, seed: int) -> Verdict:
    """Compare what the last picture taken of each shelf shows with what the ledger says."""
    rows = _rows(truth, ledger)
    lost = tally.acknowledged - sum(state == "completed" for state in tally.ended.values())
    return Verdict(
        seed=seed,
        rows=rows,
        captures=len(tally.ended),
        lost=lost,
        refused=tally.refused,
        p50_ms=_percentile(tally.latencies_ms, 50),
        p95_ms=_percentile(tally.latencies_ms, 95),
        complaints=(*_stock_complaints(rows), *_upload_complaints(tally, lost)),
        kills=tally.kills,
    )


def _rows(truth: Stock, ledger: Stock) -> tuple[Row, ...]:
    keys = sorted({*truth, *ledger})
    return tuple(Row(*key, truth.get(key, 0), ledger.get(key, 0)) for key in keys)


def _stock_complaints(rows: tuple[Row, ...]) -> list[str]:
    return [
        f"{row.code} on {row.shelf}: {row.true} there, {row.ledger} in the ledger"
        for row in rows
        if row.true != row.ledger
    ]


def _upload_complaints(tally: Tally, lost: int) -> list[str]:
    counts = {
        "acknowledged pictures have no completed capture": lost,
        "pictures were not taken by the server": tally.taken - tally.acknowledged,
        "repeated uploads were not told as duplicates": tally.repeats - tally.repeats_told,
        "hostile uploads were not refused": tally.hostile - tally.refused,
    }
    complaints = [f"{count} {what}" for what, count in counts.items() if count]
    if tally.kills == 0:
        complaints.append("no worker was killed: let it run for longer")
    return complaints if tally.acknowledged else [*complaints, "no picture was stored at all"]


def _percentile(values: list[float], percent: int) -> float | None:
    """The nearest-rank percentile, to a tenth; None without values."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)
    return round(sorted(values)[rank - 1], 1)
