"""How many calls, and what they may cost, in a day (UTC).

A call counts before it is made, so a process that dies during one has not had it for nothing.
"""

import fcntl
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from capturekit.errors import StorageCorrupt, StorageError
from capturekit.steps.describe.errors import BudgetExhausted

DAYS_KEPT: Final = 8
"""Days remembered, the latest used last. When the clock is set back, that day's own count
goes on: no day ever starts again from nothing."""
MICROS: Final = 1_000_000
"""Costs are counted in millionths of the currency, as integers."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in one day, midnight to midnight UTC; None is no limit.

    Equal budgets share one count in a process. With a ``path``, all processes that name the
    file share it, and it outlives them; its folder must exist.
    """

    max_calls_per_day: int | None = None
    """Requests sent, whatever came of them."""
    max_cost_per_day: float | None = None
    """In the currency of the providers' prices."""
    path: Path | None = None

    def __post_init__(self) -> None:
        for limit in (self.max_calls_per_day, self.max_cost_per_day):
            if limit is not None and not (limit >= 0 and math.isfinite(limit)):
                raise ValueError(f"a budget is a number from 0 up, not {limit}")


@dataclass(frozen=True, slots=True)
class Reservation:
    """One call that was counted."""

    day: str
    micros: int
    """The most it was expected to cost."""


@dataclass(slots=True)
class _Spent:
    calls: int = 0
    micros: int = 0


_Days = dict[str, _Spent]
_DAYS = TypeAdapter(_Days)


class Ledger:
    """Counts against one budget. Safe from several threads, and processes if it has a path.

    Args:
        budget: The limits.
        wall: Seconds since 1970.
    """

    def __init__(self, budget: Budget, *, wall: Callable[[], float]) -> None:
        self._budget = budget
        self._wall = wall
        self._lock = threading.Lock()
        self._days: _Days = {}

    def reserve(self, micros: int) -> Reservation:
        """Count one call that may cost so much, durably; raises BudgetExhausted instead.

        Also raises a StorageError when the file cannot be kept: then no call may be made.
        """
        now = datetime.fromtimestamp(self._wall(), UTC)
        day = now.date().isoformat()
        with self._opened() as days:
            spent = days.pop(day, _Spent())
            days[day] = spent
            self._check(spent, micros, now)
            spent.calls += 1
            spent.micros += micros
        return Reservation(day, micros)

    def settle(self, reservation: Reservation, micros: int) -> None:
        """Replace what was reserved by what it did cost."""
        with self._opened() as days:
            spent = days.get(reservation.day)
            if spent is not None:
                spent.micros = max(0, spent.micros + micros - reservation.micros)

    def spent(self) -> tuple[int, float]:
        """Calls and cost of today so far, calls under way at their reserved cost."""
        day = datetime.fromtimestamp(self._wall(), UTC).date().isoformat()
        with self._opened() as days:
            spent = days.get(day, _Spent())
        return spent.calls, spent.micros / MICROS

    def _check(self, spent: _Spent, micros: int, now: datetime) -> None:
        max_calls, max_cost = self._budget.max_calls_per_day, self._budget.max_cost_per_day
        if max_calls is not None and spent.calls >= max_calls:
            what = f"{max_calls} calls"
        # A provider that costs nothing goes on when the money is spent.
        elif max_cost is not None and micros and spent.micros + micros > max_cost * MICROS:
            what = f"a cost of {max_cost:g}"
        else:
            return
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        raise BudgetExhausted(
            f"the budget of {what} a day is spent until midnight UTC",
            (midnight - now).total_seconds(),
        )

    @contextmanager
    def _opened(self) -> Iterator[_Days]:
        path = self._budget.path
        with self._lock:
            if path is None:
                yield self._days
                _prune(self._days)
                return
            with _locked(path):
                days = _read(path)
                yield days
                _prune(days)
                _write(path, days)


def _prune(days: _Days) -> None:
    for day in list(days)[:-DAYS_KEPT]:
        del days[day]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        file = path.with_name(f"{path.name}.lock").open("a")
    except OSError as error:
        raise _unkept(path, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> _Days:
    try:
        return _DAYS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unkept(path, error) from error
    except ValidationError as error:
        raise StorageCorrupt(f"{path} is no budget file; delete it to count anew") from error


def _write(path: Path, days: _Days) -> None:
    temporary = path.with_name(f"{path.name}.new")
    plain = {day: {"calls": spent.calls, "micros": spent.micros} for day, spent in days.items()}
    try:
        with temporary.open("w") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unkept(path, error) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unkept(path: Path, error: OSError) -> StorageError:
    return StorageError(f"the budget {path} cannot be kept: {error.strerror or error}")
