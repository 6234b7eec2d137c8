"""``ProcessingPipeline.map``: what two workers bring, and how much memory many pictures take.

Run it from the root of the repository: ``python tests/benchmarks/bench_map.py [pictures]``.
The memory part runs in a process of its own, so that nothing else is in its peak.
"""

import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import simplejpeg

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps import default_pipeline
from tests.pictures import Label, ean13, jpeg, shelf, small

FIVE_MEGAPIXELS = (2592, 1944)
EMPTY_STEPS = 20


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """A shelf with a dozen codes."""
    labels = [Label(ean13(number), degrees=90 * (number % 4)) for number in range(12)]
    return jpeg(shelf(*labels, width=width, height=height, seed=seed))


def unchanged(frame: Frame) -> Frame:
    return frame


def empty_steps() -> float:
    """Milliseconds that 20 steps cost which do nothing, decode apart."""
    frame = Frame.from_pixels(small())
    pipelines = ProcessingPipeline((unchanged,) * EMPTY_STEPS), ProcessingPipeline()
    times: list[list[float]] = [[], []]
    for _ in range(300):
        for pipeline, taken in zip(pipelines, times, strict=True):
            started = time.perf_counter()
            pipeline.run(frame)
            taken.append(time.perf_counter() - started)
    full, none = (statistics.median(taken) for taken in times)
    return (full - none) * 1e3


def two_workers(rounds: int) -> tuple[float, float]:
    """How many times as fast two threads are as one: the pipeline, and what the cores allow.

    The latter is a decoder that needs nothing of Python while it works. All four take turns, and
    of each the quickest round counts: the one that other work on the machine disturbed least.
    """
    pipeline, sources = default_pipeline(), [picture(1600, 1200, seed) for seed in range(32)]

    def run(workers: int) -> None:
        assert all(result.error is None for result in pipeline.map(sources, workers=workers))

    def decode(workers: int) -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(partial(simplejpeg.decode_jpeg, strict=True), 2 * sources))

    ways = [partial(work, workers) for work in (run, decode) for workers in (1, 2)]
    quickest = [math.inf] * len(ways)
    for _ in range(rounds):
        for place, way in enumerate(ways):
            started = time.perf_counter()
            way()
            quickest[place] = min(quickest[place], time.perf_counter() - started)
    return quickest[0] / quickest[1], quickest[2] / quickest[3]


def many_big_pictures(files: list[Path], count: int) -> None:
    """Run them from files, two at a time, and print the peak of the whole process."""
    results = default_pipeline().map(_many(files, count), workers=2)
    done = sum(result.error is None for result in results)
    print(f"{done} pictures of 5 Mpx, 2 workers: peak {peak_mb():.0f} MB resident")


def peak_mb() -> float:
    """Of this process since it began; getrusage would tell its parent's if that was more."""
    status = Path("/proc/self/status").read_text()
    [line] = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _many(files: list[Path], count: int) -> Iterator[Path]:
    for number in range(count):
        yield files[number % len(files)]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{EMPTY_STEPS} empty steps: {empty_steps():.3f} ms")
    print("two threads: {:.2f} x one; a decoder alone {:.2f} x".format(*two_workers(12)))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{seed}.jpg") for seed in range(4)]
        for seed, file in enumerate(files):
            file.write_bytes(picture(*FIVE_MEGAPIXELS, seed))
        start = multiprocessing.get_context("spawn").Process
        process = start(target=many_big_pictures, args=(files, count))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
