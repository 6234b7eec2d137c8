"""Digests of what is never changed, so that a flipped bit or a rewritten line is seen.

SHA-256 over compact JSON. A line of the ledger is digested with the digest of the line before,
so that none can be changed, left out or put in without all after it. A database's own integrity
check does not see a bit that flips inside a value.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final

MOVE_COLUMNS: Final = (
    *("seq", "item_id", "from_id", "to_id", "quantity", "cause", "cause_id", "recorded_at"),
)
MOVEMENT_COLUMNS: Final = (
    *("id", "key", "kind", "item", "amount", "from_id", "to_id", "counted_id"),
    *("moved_at", "by", "recorded_at", "reason", "lot_id"),
)
RUN_COLUMNS: Final = (
    *("id", "capture_id", "fingerprint", "started_at", "finished_at", "result"),
    "thumbnail_sha256",
)
OBSERVATION_COLUMNS: Final = (
    *("analyser", "location_id", "code", "item", "quantity", "confidence", "box"),
    *("lot", "expires_on", "is_confident"),
)
TIMES: Final = ("moved_at", "recorded_at", "started_at", "finished_at")


def of_move(row: Mapping[str, object], before: str) -> str:
    """Of a line of the ledger; ``before`` is the digest of the line before, empty for the first."""
    return _digest([before, *_values(row, MOVE_COLUMNS)])


def of_movement(row: Mapping[str, object]) -> str:
    """Of what a person said."""
    return _digest(_values(row, MOVEMENT_COLUMNS))


def of_run(
    row: Mapping[str, object],
    scopes: Iterable[str],
    observations: Iterable[Mapping[str, object]],
) -> str:
    """Of all that a run said; observations in any order."""
    seen = sorted(_text(_values(one, OBSERVATION_COLUMNS)) for one in observations)
    return _digest([*_values(row, RUN_COLUMNS), sorted(scopes), seen])


def _values(row: Mapping[str, object], columns: Iterable[str]) -> list[object]:
    return [_value(name, row[name]) for name in columns]


def _value(name: str, value: object) -> object:
    # A database gives back every time as a float.
    return float(value) if name in TIMES and isinstance(value, int) else value


def _digest(values: list[object]) -> str:
    return hashlib.sha256(_text(values).encode()).hexdigest()


def _text(values: list[object]) -> str:
    return json.dumps(values, separators=(",", ":"), sort_keys=True)
