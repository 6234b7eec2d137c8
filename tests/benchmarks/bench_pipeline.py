"""Pictures a second: the default pipeline beside code written by hand and beside the naive way.

The three take turns on the same pictures, so that a busy machine slows all of them. Run it from
the root of the repository: ``python tests/benchmarks/bench_pipeline.py [rounds]``.
"""

import hashlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
import zxingcpp
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.picture import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, verify
from capturekit.pipeline import ProcessingPipeline, Result
from capturekit.steps import Codes, Quality, default_pipeline
from capturekit.steps.quality import (
    BLACK_BELOW,
    COVERED_FROM,
    EDGE_FROM,
    LEAST_EDGES,
    LONG_SIDE,
    RED_FROM,
)
from tests.pictures import Label, ean13, jpeg, shelf

PICTURES = 4
SIZES = {(640, 480): 2, (1600, 1200): 12, (2592, 1944): 12}
"""Width and height in pixels, and how many codes are in such a picture."""
Pixels = NDArray[np.uint8]
ROWS = {length: np.ones((1, length), np.uint8) for length in (3, 7, 9)}
RETAIL = zxingcpp.barcode_formats_from_str("EAN13,EAN8,UPCA,UPCE,Code128,QRCode")


def pictures(width: int, height: int, codes: int) -> list[bytes]:
    """Shelves with that many codes each, two of three bar codes."""
    made = []
    for seed in range(PICTURES):
        numbers = range(codes * seed, codes * (seed + 1))
        labels = [Label(ean13(n), degrees=90 * (n % 4)) if n % 3 else qr(n) for n in numbers]
        made.append(jpeg(shelf(*labels, width=width, height=height, seed=seed)))
    return made


def qr(number: int) -> Label:
    return Label(f"https://shelf.example/{number}", "QRCode", module_px=4)


FIGURES = ("brightness", "contrast", "sharpness", "clipped", "edges", "focus", "covered")
"""What ``Quality`` measures."""


class Seen(NamedTuple):
    """What the default pipeline says of a picture, as far as code by hand says it too."""

    sha256: str
    size: tuple[int, int]
    figures: tuple[float, ...]
    """Those of FIGURES."""
    codes: list[tuple[str, str]]
    """Format and text, sorted. Where they are is read too, but differs by part of a pixel."""
    thumbnail: bytes


def by_hand(data: bytes) -> Seen:
    """The same outputs as the default pipeline, straight from the libraries.

    It knows every shortcut of the quality and thumbnail steps, so that what is compared is the
    codes step and what the pipeline adds. It lacks the caps on markers and scans, the
    orientation, the stacks of labels, the verdict, times, and errors that stay in their step.
    """
    checksum = hashlib.sha256(data).hexdigest()
    if not data.endswith(b"\xff\xd9"):
        data += b"\xff\xd9"
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if len(data) > DEFAULT_MAX_BYTES or width * height > DEFAULT_MAX_PIXELS:
        raise ValueError("too large")
    bgr = simplejpeg.decode_jpeg(data, "BGR", strict=True)
    gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    figures = _judged(bgr, _within(gray, LONG_SIDE))
    codes = [
        (code.format.name, code.text, [(corner.x, corner.y) for corner in _corners(code.position)])
        for code in zxingcpp.read_barcodes(gray, RETAIL)
    ]
    small = simplejpeg.encode_jpeg(_within(bgr, 320), 80, "BGR", "420")
    return Seen(checksum, (width, height), figures, sorted(code[:2] for code in codes), small)


def _corners(at: zxingcpp.Position) -> tuple[zxingcpp.Point, ...]:
    return (at.top_left, at.top_right, at.bottom_right, at.bottom_left)


def _judged(bgr: Pixels, luma: Pixels) -> tuple[float, ...]:
    """FIGURES, in their order."""
    mean, deviation = cv2.meanStdDev(luma)
    laplacian = cv2.Laplacian(luma, cv2.CV_16S)
    sharpness = cv2.norm(laplacian, cv2.NORM_L2SQR) / luma.size
    clipped = 1 - cv2.countNonZero(cv2.inRange(luma, np.array(3), np.array(252))) / luma.size
    smooth = cv2.blur(luma, (3, 3))
    across, focus_across = _focus(np.ascontiguousarray(smooth[::4]))
    columns = cv2.transpose(np.ascontiguousarray(smooth[:, ::4]))
    down, focus_down = _focus(np.asarray(columns, np.uint8))
    focus = min(focus_across or focus_down, focus_down or focus_across)
    is_edge = across | down.T
    edges, covered = np.count_nonzero(is_edge) / is_edge.size, _covered(bgr, luma, is_edge)
    return float(mean[0, 0]), float(deviation[0, 0]), sharpness, clipped, edges, focus, covered


def _focus(lines: Pixels) -> tuple[NDArray[np.bool_], float]:
    """The step's measure of focus, along lines."""
    narrow = cv2.dilate(cv2.morphologyEx(lines, cv2.MORPH_GRADIENT, ROWS[3]), ROWS[7])
    wide = cv2.morphologyEx(lines, cv2.MORPH_GRADIENT, ROWS[9])
    near, far = np.ascontiguousarray(narrow[:, ::4]), np.ascontiguousarray(wide[:, ::4])
    is_edge = far >= EDGE_FROM
    count = np.count_nonzero(is_edge)
    if count < LEAST_EDGES * is_edge.size:
        return is_edge, 0.0
    mean = cv2.norm(far, cv2.NORM_L1, is_edge.view(np.uint8)) / count
    strong = (far >= mean).view(np.uint8)
    return is_edge, cv2.norm(near, cv2.NORM_L1, strong) / cv2.norm(far, cv2.NORM_L1, strong)


def _covered(bgr: Pixels, luma: Pixels, is_edge: NDArray[np.bool_]) -> float:
    """The step's share of the picture that looks covered."""
    parts = cv2.resize(is_edge.astype(np.float32), (20, 15), interpolation=cv2.INTER_AREA)
    smooth = np.count_nonzero(parts < 0.25) / parts.size
    if smooth < COVERED_FROM:
        return 0.0
    black = np.count_nonzero(luma[::8, ::8] < BLACK_BELOW) / luma[::8, ::8].size
    blue, green, red = bgr[::16, ::16].astype(np.float32).transpose(2, 0, 1)
    least = RED_FROM * np.maximum(blue, green)
    glow = (red > least) & (red >= BLACK_BELOW)
    return float(min(smooth, max(black, np.count_nonzero(glow) / glow.size)))


def _within(pixels: Pixels, long_side: int) -> Pixels:
    """Halve while it can, then interpolate: the quickest way without aliasing."""
    while max(pixels.shape[:2]) >= 2 * long_side:
        pixels = np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    scale = long_side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))


def naive(data: bytes) -> int:
    """What one writes first: Pillow, all formats, float64."""
    hashlib.sha256(data).hexdigest()
    image = Image.open(BytesIO(data)).convert("RGB")
    luma = np.asarray(image.convert("L"), np.float64)
    cv2.Laplacian(luma, cv2.CV_64F).var()
    codes = zxingcpp.read_barcodes(np.asarray(image))
    small = image.resize((320, 240), Image.Resampling.LANCZOS)
    small.save(BytesIO(), "JPEG", quality=80)
    return len(codes)


def as_seen(result: Result) -> Seen:
    """Our result in the form of the other."""
    judged, found, info = result.findings[Quality], result.findings[Codes], result.info
    assert isinstance(found, Codes)
    assert result.sha256 is not None
    assert info is not None
    figures = tuple(getattr(judged, name) for name in FIGURES)
    codes = sorted((code.format, code.text) for code in found)
    small = result.derived["thumbnail"].data
    return Seen(result.sha256, (info.width, info.height), figures, codes, small)


def check(pipeline: ProcessingPipeline, data: list[bytes], codes: int) -> None:
    """Nobody leaves anything out: ours and by hand say the same, and all find every code."""
    for picture in data:
        ours, hand = as_seen(pipeline.run(picture)), by_hand(picture)
        assert np.allclose(ours.figures, hand.figures, rtol=1e-9), (ours.figures, hand.figures)
        assert ours == hand._replace(figures=ours.figures)
        assert len(hand.codes) == naive(picture) == codes


def measure(
    ways: dict[str, Callable[[bytes], object]], data: list[bytes], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds a picture, one number a round and way.

    The order is another in each round: what ran before decides what is in the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    order, turns = list(ways), random.Random(0)
    for _ in range(rounds):
        turns.shuffle(order)
        for name in order:
            started = time.process_time()
            for picture in data:
                ways[name](picture)
            times[name].append((time.process_time() - started) / len(data) * 1e3)
    return times


def main() -> None:
    rounds, pipeline = int(sys.argv[1]) if len(sys.argv) > 1 else 40, default_pipeline()
    ways: dict[str, Callable[[bytes], object]] = {
        "pipeline": pipeline.run,
        "by hand": by_hand,
        "naive": naive,
        "verify": verify,
    }
    for (width, height), codes in SIZES.items():
        data = pictures(width, height, codes)
        check(pipeline, data, codes)
        times = measure(ways, data, rounds)
        print(f"{width} x {height}, {codes} codes")
        for name, values in times.items():
            middle = statistics.median(values)
            own = zip(values, times["pipeline"], strict=True)
            ratio = statistics.median(value / ours for value, ours in own)
            print(
                f"  {name:9} {middle:7.2f} ms CPU  {1e3 / middle:6.1f} pictures/s  {ratio:5.2f} x"
            )
    print("x: times the pipeline's cost, picture by picture; more is slower than ours")
    print(pipeline.explain(pictures(1600, 1200, 12)[0], rounds=rounds))


if __name__ == "__main__":
    main()
