"""How often a change is missed, and how often an unchanged picture is skipped.

Made shelves, photographed again under other light (x 0.6 to 1.6), colour, soft shadows, noise
and JPEG 30 to 90, moved by up to 3 px. Usage, from the root of the repository:
``python tests/benchmarks/bench_change.py [SHELVES [LONG_SIDE [THRESHOLD]]]``.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import zxingcpp

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame, Reference
from capturekit.steps.change import Change, DetectChange
from tests.pictures import Pixels, ean13
from tests.pictures_shelf import Camera, Rack, label, pasted, random_camera, stocked

SAME = ("same", "same, hard shadows")


def code(number: int, module_px: int) -> Pixels:
    made = zxingcpp.create_barcode(ean13(number), zxingcpp.BarcodeFormat.EAN13)
    lines = np.array(made.to_image(scale=module_px))
    middle = len(lines) // 2
    return np.asarray(cv2.cvtColor(lines[middle - 40 : middle + 40], cv2.COLOR_GRAY2BGR), np.uint8)


def scenes(shelf: int, random: np.random.Generator) -> Iterator[tuple[str, Pixels, Pixels, float]]:
    """Name, drawing before, drawing after, softness of shadows."""
    rack = stocked(random, shelf, [int(n) for n in random.integers(1, 4, 8)])
    at = (int(random.integers(100, 1300)), int(random.choice([90, 480])))
    place = (40 + int(random.integers(0, 900)), 500 + int(random.integers(0, 150)))
    one, other = (int(n) for n in random.integers(10**11, 10**12, 2))

    def drawn(rack: Rack, tag: int | None = shelf, number: int = one, module: int = 2) -> Pixels:
        picture = pasted(rack.drawn(), code(number, module), *place)
        return picture if tag is None else pasted(picture, label(tag), *at)

    before = drawn(rack)
    yield "same", before, before, 0.04
    yield "same", before, before, 0.04
    yield "same, hard shadows", before, before, 0.01
    yield "2 % label gone", before, drawn(rack, None), 0.04
    yield "2 % label new", drawn(rack, None), before, 0.04
    yield "2 % label, other digits", before, drawn(rack, shelf + 5000), 0.04
    yield "other EAN-13, 2 px bars", before, drawn(rack, number=other), 0.04
    wide = drawn(rack, module=3)
    yield "other EAN-13, 3 px bars", wide, drawn(rack, number=other, module=3), 0.04
    yield "piece taken", before, drawn(rack.holding(1, *rack.goods[1][:-1])), 0.04
    swapped = rack.holding(0, *rack.goods[1]).holding(1, *rack.goods[0])
    yield "goods moved a slot", before, drawn(swapped), 0.04


def camera(base: Camera, penumbra: float, random: np.random.Generator) -> Camera:
    shift = random.uniform(-3, 3, 2)
    return replace(
        random_camera(random, base),
        gain=float(random.uniform(0.6, 1.6)),
        quality=int(random.integers(30, 91)),
        shift_px=(float(shift[0]), float(shift[1])),
        degrees=float(random.uniform(-0.1, 0.1)),
        penumbra=penumbra,
    )


def main(shelves: int, detect: DetectChange) -> None:
    random = np.random.default_rng(21)
    found: dict[str, list[Change]] = defaultdict(list)
    times = []
    for shelf in range(shelves):
        base = Camera(view=shelf, seed=shelf, noise=float(random.uniform(1, 5)))
        for name, before, after, penumbra in scenes(shelf, random):
            old = cv2.cvtColor(base.photograph(before), cv2.COLOR_BGR2GRAY)
            new = camera(base, penumbra, random).photograph(after)
            frame = replace(
                Frame.from_pixels(new), reference=Reference("old", np.asarray(old, np.uint8))
            )
            frame.gray_within(detect.long_side)
            started = time.process_time()
            found[name].append(detect(frame).find(Change))
            times.append(time.process_time() - started)
    print(f"{'pictures':24} {'number':>6} {'skipped':>8}  score p5   p50   p95, threshold ", end="")
    print(detect.threshold)
    for name, changes in found.items():
        scores = [change.score for change in changes if change.score is not None] or [np.nan]
        skipped = sum(not change.changed for change in changes)
        low, middle, high = np.percentile(scores, [5, 50, 95])
        line = f"{name:24} {len(changes):>6} {skipped / len(changes):>8.1%}"
        print(f"{line}  {low:8.2f} {middle:5.2f} {high:5.2f}")
    reasons = [change.reason for name in SAME for change in found[name]]
    print("unchanged pictures:", {reason: reasons.count(reason) for reason in sorted(set(reasons))})
    print(f"{np.median(times) * 1e3:.1f} ms CPU at 1600 x 1200, reference of that size given")


if __name__ == "__main__":
    shelves, long_side, threshold = (*sys.argv[1:], *["60", "640", "0.4"][len(sys.argv) - 1 :])
    main(int(shelves), DetectChange(int(long_side), float(threshold)))
