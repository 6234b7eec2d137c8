"""Tells filled from empty zones on made shelves: ours beside a plain difference of pixels.

Every shelf is photographed empty, and again with goods under other light, with shadows, noise
and JPEG, and with the camera moved by up to 3 px and turned by up to a degree. Then registration
with hidden markers. Usage, from the root of the repository:
``python tests/benchmarks/bench_occupancy.py [SHELVES]``.
"""

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame
from capturekit.pipeline import ModelFile
from capturekit.steps.markers import Marker, Markers, locate
from capturekit.steps.occupancy import Fill, MeasureOccupancy, Occupancy
from capturekit.steps.zones import AssignZones, Zone, Zones
from tests.pictures import jpeg
from tests.pictures_shelf import (
    CAPACITY,
    MARKER,
    MARKERS,
    Camera,
    Rack,
    random_camera,
    slot,
    stocked,
)

SIZES = ((640, 480), (1600, 1200), (2592, 1944))
SHELF = Markers(tuple(Marker(mark, x, y, MARKER) for mark, x, y in MARKERS))
ZONES = tuple(Zone(f"slot {n}", slot(n), "thing", CAPACITY) for n in range(8))
ZONING = AssignZones(ZONES, SHELF)


class Seen(NamedTuple):
    """One zone of one picture: the truth and what each way says."""

    pieces: int
    by_pixels: float
    by_aligned_pixels: float
    by_levelled_pixels: float
    chance: float | None
    quantity: int | None
    confidence: float


def shelf(number: int, random: np.random.Generator, folder: Path) -> list[Seen]:
    """Photograph one shelf twice and look at its zones."""
    width, height = SIZES[number % len(SIZES)]
    base = Camera(width, height, view=number, barrel=float(random.choice([0, 0.02])), seed=1)
    empty = base.picture(Rack(wall=number))
    file = folder / f"{number}.jpg"
    file.write_bytes(jpeg(empty, 90))
    rack = replace(stocked(random, number), is_untidy=True)
    there = moved(base, random).picture(rack)
    frame = MeasureOccupancy(ModelFile(file))(ZONING(Frame.from_pixels(there)))
    fills = frame.find(Occupancy).fills
    back = turned_back(there, empty)
    pixels = zip(
        differences(empty, there, base),
        differences(empty, back, base),
        differences(empty, back, base, is_levelled=True),
        strict=True,
    )
    return [
        Seen(len(rack.goods[n]), *by, chance(fill), fill.quantity, sure(fill))
        for n, (by, fill) in enumerate(zip(pixels, fills, strict=True))
    ]


def moved(base: Camera, random: np.random.Generator) -> Camera:
    shift = random.uniform(-3, 3, 2) * base.width / 1600
    other = replace(
        random_camera(random, base),
        shift_px=(float(shift[0]), float(shift[1])),
        degrees=float(random.uniform(-1, 1)),
    )
    return replace(
        other,
        penumbra=float(random.choice([0.01, 0.04])),
        noise=float(random.uniform(1, 9)),
        gain=float(random.uniform(0.35, 1.5)),
    )


def chance(fill: Fill) -> float | None:
    if fill.occupied is None:
        return None
    return fill.confidence if fill.occupied else 1 - fill.confidence


def sure(fill: Fill) -> float:
    return fill.quantity_confidence


def turned_back(there: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The picture brought onto the empty one by the markers in both."""
    places = [locate(Frame.from_pixels(one), SHELF).matrix for one in (there, empty)]
    if places[0] is None or places[1] is None:
        return there
    to_empty = np.array(places[1]) @ np.linalg.inv(np.array(places[0]))
    return cv2.warpPerspective(there, to_empty, (there.shape[1], there.shape[0]))


def differences(
    one: np.ndarray, other: np.ndarray, camera: Camera, *, is_levelled: bool = False
) -> list[float]:
    """Mean absolute difference of luma in the box of each zone; levelled, without its mean."""
    grays = (cv2.cvtColor(each, cv2.COLOR_BGR2GRAY) for each in (one, other))
    gap = np.subtract(*grays, dtype=np.float32)
    found = []
    for number in range(8):
        corners = np.array(slot(number), np.float64)[None]
        outline = cv2.perspectiveTransform(corners, camera.homography())[0].astype(np.float32)
        x, y, width, height = cv2.boundingRect(outline)
        inside = gap[y : y + height, x : x + width]
        found.append(float(np.abs(inside - inside.mean() * is_levelled).mean()))
    return found


def auc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Chance that a filled zone scores higher than an empty one; ties count half."""
    full = np.array([s for s, is_full in zip(scores, truth, strict=True) if is_full])
    bare = np.array([s for s, is_full in zip(scores, truth, strict=True) if not is_full])
    above = (full[:, None] > bare).mean() + 0.5 * (full[:, None] == bare).mean()
    return float(above)


def tell(seen: Iterable[Seen]) -> None:
    """Print how often each way is right."""
    known = [one for one in seen if one.chance is not None]
    full = [one.pieces > 0 for one in known]
    print(f"{len(known)} zones, {sum(full)} of them filled. AUC, filled against empty:")
    print(f"  difference of pixels              {auc([s.by_pixels for s in known], full):.4f}")
    print(
        f"  the same, aligned by the markers  {auc([s.by_aligned_pixels for s in known], full):.4f}"
    )
    levelled = [s.by_levelled_pixels for s in known]
    print(f"  without the mean of each zone     {auc(levelled, full):.4f}")
    print(f"  ours                              {auc([s.chance or 0.0 for s in known], full):.4f}")
    wrong_empty = sum(s.quantity == 0 and s.pieces > 0 for s in known)
    wrong_full = sum(bool(s.quantity) and not s.pieces for s in known)
    right = sum(s.quantity == s.pieces for s in known)
    print(f"filled taken for empty {wrong_empty}, empty for filled {wrong_full}, ", end="")
    print(f"pieces counted right {right / len(known):.1%}")
    print(f"{'confidence':>12} {'zones':>6} {'right':>7}")
    for low, high in ((0, 0.5), (0.5, 0.8), (0.8, 0.9), (0.9, 0.97), (0.97, 1.01)):
        some = [s for s in known if low <= s.confidence < high]
        if some:
            share = sum(s.quantity == s.pieces for s in some) / len(some)
            print(f"{low:5.2f} - {min(high, 1):4.2f} {len(some):>6} {share:>7.1%}")


def registration(shelves: int, random: np.random.Generator) -> None:
    """Print how far zones are off, and how many are known, by number of markers seen."""
    print(
        f"{'markers seen':>12} {'zones known':>11} {'off p50':>8} {'p95':>6} {'max':>6} px at 1600"
    )
    places = np.concatenate([np.array(slot(n), np.float64) for n in range(8)])
    for hidden in range(6):
        known, off = 0, []
        for number in range(shelves):
            away = tuple(int(mark) for mark in random.permutation(6)[:hidden])
            camera = random_camera(random, Camera(view=number, quarter_turns=number % 4))
            frame = Frame.from_pixels(camera.picture(replace(stocked(random), hidden=away)))
            truth = cv2.perspectiveTransform(places[None], camera.homography())[0].reshape(8, 4, 2)
            for zone, corners in zip(ZONING(frame).find(Zones), truth, strict=True):
                if zone.polygon is not None:
                    known += 1
                    off.append(np.linalg.norm(np.array(zone.polygon) - corners, axis=1).max())
        middle = np.percentile(off, [50, 95, 100]) if off else np.full(3, np.nan)
        share = known / (8 * shelves)
        print(
            f"{6 - hidden:>12} {share:>11.0%} {middle[0]:>8.2f} {middle[1]:>6.2f} {middle[2]:>6.2f}"
        )


def cost(folder: Path) -> None:
    """Print CPU milliseconds of the steps at 1600 x 1200."""
    base = Camera(seed=1)
    file = folder / "cost.jpg"
    file.write_bytes(jpeg(base.picture(Rack()), 90))
    measure = MeasureOccupancy(ModelFile(file))
    random = np.random.default_rng(1)
    for name, rack in (("all markers", stocked(random)), ("one hidden", Rack(hidden=(2,)))):
        pixels = base.picture(rack)
        times: list[tuple[float, float]] = []
        for _ in range(9):
            frame = Frame.from_pixels(pixels)
            frame.picture("gray_800")
            start = time.process_time()
            zoned = ZONING(frame)
            middle = time.process_time()
            measure(zoned)
            times.append((middle - start, time.process_time() - middle))
        zoning, measuring = np.median(np.array(times), axis=0) * 1e3
        print(f"{name}: zones {zoning:.1f} ms CPU, occupancy of 8 zones {measuring:.1f} ms CPU")


def main(shelves: int) -> None:
    random = np.random.default_rng(5)
    with tempfile.TemporaryDirectory() as folder:
        tell(one for n in range(shelves) for one in shelf(n, random, Path(folder)))
        registration(max(4, shelves // 5), random)
        cost(Path(folder))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
