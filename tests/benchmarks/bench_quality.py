"""What the quality step says of made pictures: a line a scene, and how long it takes.

The seeds from 1,000 on were not looked at when the thresholds were chosen (0 to 3 were). ``read``
is the share of the six bar codes that zxing still reads. ``right`` is the share of pictures with
the verdict they should have, for the scenes that have one.

Run it from the root of the repository: ``python tests/benchmarks/bench_quality.py [seeds]``.
"""

import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import zxingcpp

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame
from capturekit.steps.quality import JudgeQuality, Quality, Verdict
from tests.pictures_quality import FAULTS, SCENES, USABLE

HELD_OUT = 1000
ROUNDS = 100


def line(scene: str, seeds: range) -> tuple[int, int]:
    """Prints the scene's line; returns how many verdicts were right, and of how many."""
    frames = [Frame.from_pixels(SCENES[scene](seed)) for seed in seeds]
    found = [JudgeQuality()(frame).find(Quality) for frame in frames]
    read = statistics.mean(len(zxingcpp.read_barcodes(frame.gray)) / 6 for frame in frames)
    allowed = FAULTS.get(scene, (Verdict.GOOD,) if scene in USABLE else ())
    right = sum(one.verdict in allowed for one in found)
    means = [
        statistics.mean(getattr(one, name) for one in found)
        for name in ("brightness", "edges", "focus", "covered")
    ]
    verdicts = ", ".join(f"{v} {n}" for v, n in Counter(one.verdict for one in found).items())
    numbers = "{:6.1f}  {:6.4f}  {:5.3f}  {:5.2f}".format(*means)
    share = f"{right / len(found):5.2f}" if allowed else "    -"
    print(f"{scene:20} {numbers}  {read:5.2f}  {share}  {verdicts}", flush=True)
    return (right, len(found)) if allowed else (0, 0)


def cost_ms(scene: str) -> float:
    """Median of one thread, from luma of 1600 x 1200 on."""
    frame = Frame.from_pixels(SCENES[scene](0))
    step, times = JudgeQuality(), []
    frame.picture("gray")
    for _ in range(ROUNDS):
        frame.forget("gray_half", "gray_640")
        started = time.perf_counter()
        step(frame)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main(seeds: int) -> None:
    """The table, then the cost where there is much to see and where there is little."""
    cv2.setNumThreads(1)
    print(f"{'scene':20} bright   edges  focus  cover   read  right  verdicts")
    lines = [line(scene, range(HELD_OUT, HELD_OUT + seeds)) for scene in SCENES]
    right, of = (sum(column) for column in zip(*lines, strict=True))
    print(f"right {right} of {of}")
    for scene in ("sharp", "empty shelf"):
        print(f"{scene}: {cost_ms(scene):.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
