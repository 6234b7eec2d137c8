"""What a process counts and times, until it is written down with what others counted.

Sums only: adding up what all processes counted is what makes one figure of them. Counting costs
a microsecond, takes no input or output, and may be done in any thread.
"""

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

_REQUEST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_JOB_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STEP_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LAG_S: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is counted, or timed when it has bounds."""

    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in seconds, ascending; one more has none. Those of
    a released version stay: sums are kept by their places."""


MEASURES: Final[Mapping[str, Measure]] = {
    "captures_received": Measure(
        "Uploads by where they came from and what became of them.", ("device_class", "outcome")
    ),
    "upload_bytes": Measure("Bytes of the pictures that were stored."),
    "http_request_duration_seconds": Measure(
        "From the head of a request to the end of its answer.",
        ("route", "method", "status"),
        _REQUEST_S,
    ),
    "jobs": Measure("Attempts of jobs by how they ended.", ("queue", "outcome")),
    "job_duration_seconds": Measure("One attempt of a job.", ("queue",), _JOB_S),
    "job_queue_wait_seconds": Measure(
        "From an upload to the first attempt at processing it.", ("queue",), _LAG_S
    ),
    "step_duration_seconds": Measure("One step of a pipeline.", ("step",), _STEP_S),
    "observations": Measure(
        "What was seen, and whether it counts or waits for a person.", ("analyser", "decision")
    ),
    "stock_moves": Measure("Lines of the ledger by their cause.", ("cause",)),
    "capture_to_stock_seconds": Measure("From an upload to the stock that it says.", (), _LAG_S),
}
"""All there are, by their names without ``capturekit_`` and ``_total``."""


class Series(NamedTuple):
    """A measure with values for its labels, in their order."""

    name: str
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """What is known of a series."""

    total: float = 0.0
    """The count, or the sum of what was timed."""
    buckets: tuple[int, ...] = ()
    """How many were up to each bound and above the one before; the last have no bound."""


class Telemetry:
    """The tallies of one process since they were last taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Series, float] = {}
        self._times: dict[Series, list[float]] = {}
        """A number for each bucket, then the sum."""

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to a count. Raises KeyError for a name that is none."""
        series = Series(name, _checked(name, labels))
        with self._lock:
            self._counts[series] = self._counts.get(series, 0) + amount

    def time(self, name: str, seconds: float, *labels: str) -> None:
        """Note how long something took; less than nothing, by a clock set back, is 0."""
        series = Series(name, _checked(name, labels))
        bounds = MEASURES[name].bounds
        seconds = max(0.0, seconds)
        with self._lock:
            times = self._times.get(series)
            if times is None:
                times = self._times[series] = [0.0] * (len(bounds) + 2)
            times[bisect_left(bounds, seconds)] += 1
            times[-1] += seconds

    def take(self) -> dict[Series, Tally]:
        """What was counted since the last call; it is the caller's now."""
        with self._lock:
            counts, self._counts = self._counts, {}
            times, self._times = self._times, {}
        taken = {series: Tally(amount) for series, amount in counts.items()}
        for series, numbers in times.items():
            taken[series] = Tally(numbers[-1], tuple(int(number) for number in numbers[:-1]))
        return taken

    def give_back(self, taken: Mapping[Series, Tally]) -> None:
        """Keep what was taken and could not be written down."""
        with self._lock:
            for series, tally in taken.items():
                if not tally.buckets:
                    self._counts[series] = self._counts.get(series, 0) + tally.total
                    continue
                times = self._times.setdefault(series, [0.0] * (len(tally.buckets) + 1))
                for index, number in enumerate((*tally.buckets, tally.total)):
                    times[index] += number


def _checked(name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    expected = MEASURES[name].labels
    if len(labels) != len(expected):
        raise ValueError(f"{name} has the labels {expected}, and was given {labels}")
    return labels
