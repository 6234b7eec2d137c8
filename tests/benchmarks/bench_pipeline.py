"""Pictures a second: the default pipeline beside code written by hand and beside the naive way.

The three take turns on the same pictures, so that a busy machine slows all of them. Run it from
the root of the repository: ``python tests/benchmarks/bench_pipeline.py [rounds]``.
"""

import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import zxingcpp
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.picture import verify
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps import default_pipeline
from tests.pictures import Label, ean13, jpeg, shelf

PICTURES = 4
SIZES = {(640, 480): 2, (1600, 1200): 12, (2592, 1944): 12}
"""Width and height in pixels, and how many codes are in such a picture."""
Pixels = NDArray[np.uint8]
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


def by_hand(data: bytes) -> int:
    """The same outputs as the default pipeline, straight from the libraries."""
    hashlib.sha256(data).hexdigest()
    bgr = simplejpeg.decode_jpeg(data, "BGR", strict=True)
    gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    luma = _within(half, 640)
    cv2.meanStdDev(luma)
    cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    cv2.countNonZero(cv2.inRange(luma, np.array(3), np.array(252)))
    smooth = cv2.blur(luma, (3, 3))
    edges = [_focus(np.ascontiguousarray(lines[::4])) for lines in (smooth, smooth.T)]
    cv2.resize((edges[0] | edges[1].T).astype(np.float32), (20, 15), interpolation=cv2.INTER_AREA)
    codes = [(c.format.name, c.text, c.position) for c in zxingcpp.read_barcodes(gray, RETAIL)]
    small = _within(cv2.resize(bgr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 320)
    simplejpeg.encode_jpeg(small, 80, "BGR", "420")
    return len(codes)


def _focus(lines: Pixels) -> NDArray[np.bool_]:
    """The step's measure of focus, along lines."""
    near, far = (
        np.ascontiguousarray(cv2.morphologyEx(lines, cv2.MORPH_GRADIENT, _row(width))[:, ::4])
        for width in (3, 9)
    )
    near = cv2.dilate(near, _row(7))
    is_edge = np.asarray(far >= 16)
    strong = (far >= cv2.mean(far, is_edge.view(np.uint8))[0]).view(np.uint8)
    cv2.mean(near, strong)
    cv2.mean(far, strong)
    return is_edge


def _row(width: int) -> Pixels:
    return np.ones((1, width), np.uint8)


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


def ours(pipeline: ProcessingPipeline) -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        result = pipeline.run(data)
        assert result.error is None
        return len(result.observations)

    return run


def measure(
    ways: dict[str, Callable[[bytes], int]], data: list[bytes], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds a picture, one number a round and way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            for picture in data:
                way(picture)
            times[name].append((time.process_time() - started) / len(data) * 1e3)
    return times


def verified(data: bytes) -> int:
    return verify(data).width


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    ways = {"pipeline": ours(default_pipeline()), "by hand": by_hand, "naive": naive}
    for (width, height), codes in SIZES.items():
        data = pictures(width, height, codes)
        for name, way in ways.items():
            found = [way(picture) for picture in data]
            assert found == [codes] * PICTURES, f"{name} found {found} codes, not {codes}"
        times = measure({**ways, "verify": verified}, data, rounds)
        print(f"{width} x {height}, {codes} codes")
        for name, values in times.items():
            middle = statistics.median(values)
            own = zip(values, times["pipeline"], strict=True)
            ratio = statistics.median(value / ours for value, ours in own)
            print(
                f"  {name:9} {middle:7.2f} ms CPU  {1e3 / middle:6.1f} pictures/s  {ratio:5.2f} x"
            )
    print("x: times the pipeline's cost, picture by picture; more is slower than ours")
    print(default_pipeline().explain(pictures(1600, 1200, 12)[0], rounds=rounds))


if __name__ == "__main__":
    main()
