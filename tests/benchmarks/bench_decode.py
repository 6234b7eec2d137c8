"""What decoding in a child costs beside decoding in the same process.

Run it with ``python tests/benchmarks/bench_decode.py [--seconds 4]``. CPU of both processes is
added; the two ways take turns on the same picture, and the median counts.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from capturekit.picture import decode, verify
from capturekit.picture.child import DecodingChildren
from tests.pictures import Label, ean13, jpeg, shelf

SIZES = ((640, 480), (1600, 1200), (2592, 1944))
Work = Callable[[], object]


def child_cpu_ms() -> float:
    """CPU time of this process's children so far."""
    total = 0
    for listing in Path("/proc/self/task").glob("*/children"):
        for pid in listing.read_text().split():
            total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return total / 1e6


def timed(work: Work) -> tuple[float, float]:
    """CPU of both processes and wall, in ms."""
    before, cpu, wall = child_cpu_ms(), time.process_time_ns(), time.perf_counter_ns()
    made = work()
    wall_ms, cpu_ms = (time.perf_counter_ns() - wall) / 1e6, (time.process_time_ns() - cpu) / 1e6
    del made
    return cpu_ms + child_cpu_ms() - before, wall_ms


def compared(here: Work, child: Work, seconds: float) -> tuple[tuple[float, float], ...]:
    for work in (here, child):
        work()
    runs: tuple[list[tuple[float, float]], ...] = ([], [])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(runs[0]) < 5:
        for kept, work in zip(runs, (here, child), strict=True):
            kept.append(timed(work))
    return tuple(
        (statistics.median(cpu for cpu, _ in kept), statistics.median(wall for _, wall in kept))
        for kept in runs
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="for each row")
    seconds = parser.parse_args().seconds
    started = time.perf_counter()
    with DecodingChildren(1) as children:
        children.verify(jpeg(shelf(width=160, height=120)))
        print(f"starting a child: {(time.perf_counter() - started) * 1e3:.0f} ms, once\n")
        print(
            "| work | picture | in process, CPU ms (wall) | in a child | CPU ratio | wall ratio |"
        )
        print("|---|---|---|---|---|---|")
        for width, height in SIZES:
            data = jpeg(shelf(Label(ean13(1)), width=width, height=height))
            rows: dict[str, tuple[Work, Work]] = {
                "colour": (partial(decode, data), partial(children.decode, data)),
                "gray": (
                    partial(decode, data, colour=False),
                    partial(children.decode, data, colour=False),
                ),
                "verify": (partial(verify, data), partial(children.verify, data)),
            }
            for name, (here, child) in rows.items():
                (cpu, wall), (cpu_c, wall_c) = compared(here, child, seconds)
                print(f"| {name} | {width}×{height} | {cpu:.2f} ({wall:.2f}) | "
                      f"{cpu_c:.2f} ({wall_c:.2f}) | {cpu_c / cpu:.2f} | {wall_c / wall:.2f} |",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
