"""Right, wrong and doubtful reads of made labels: zxing alone beside the step, and the cost.

Rows: small codes on grey ground, codes at every angle, one label under a gleam. Stacks have
their own benchmark, ``bench_stacks.py``. Run it from the root of the repository:
``python tests/benchmarks/bench_codes.py [pictures]``; 12 pictures take about a minute.
"""

import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import zxingcpp

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame, Pixels
from capturekit.steps import Code, Codes, ReadCodes
from capturekit.steps.slant import slants
from tests.pictures import Label, ean13, shelf

RETAIL = zxingcpp.barcode_formats_from_str(",".join(ReadCodes().formats))


def symbol(text: str, module_px: float, height_px: int) -> Pixels:
    """One EAN-13 with its quiet zone, black on white."""
    made = zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.EAN13).to_image(scale=10)
    wide = np.asarray(made, np.uint8)[:40]
    size = (round(wide.shape[1] * module_px / 10), height_px)
    return np.asarray(cv2.resize(wide, size, interpolation=cv2.INTER_AREA), np.uint8)


def on_grey(random: np.random.Generator) -> tuple[Pixels, list[str]]:
    """About 30 labels of 2 to 2.5 px a module on grey ground, tilted by up to 3 degrees."""
    ground = random.normal(random.integers(40, 200), 6, (150, 200))
    scene = cv2.resize(np.clip(ground, 0, 255).astype(np.uint8), (1600, 1200))
    texts = []
    for y in range(20, 1000, 180):
        x = 20
        while True:
            text = ean13(int(random.integers(0, 10**12)))
            paper = symbol(text, random.uniform(2, 2.5), int(random.integers(40, 130)))
            height, width = paper.shape
            if x + width + 20 > 1600:
                break
            scene[y : y + height, x : x + width] = paper
            texts.append(text)
            x += width + int(random.integers(4, 40))
    return photographed(np.asarray(scene, np.uint8), random), texts


def photographed(scene: Pixels, random: np.random.Generator) -> Pixels:
    """Tilted, soft, of less contrast, noisy, at JPEG quality 30 to 95."""
    height, width = scene.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-3, 3), 1)
    tilted = cv2.warpAffine(scene, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(tilted, (0, 0), random.uniform(0.4, 1.2))
    dull = soft * random.uniform(0.5, 1) + random.uniform(0, 40)
    noisy = np.clip(dull + random.normal(0, random.uniform(1, 8), scene.shape), 0, 255)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(30, 96))]
    encoded = cv2.imencode(".jpg", noisy.astype(np.uint8), quality)[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def at_angles(random: np.random.Generator) -> tuple[Pixels, list[str]]:
    """Six labels of 2 or 3 px a module, each at an angle of its own."""
    texts = [ean13(int(random.integers(0, 10**12))) for _ in range(6)]
    module_px = int(random.integers(2, 4))
    labels = [Label(text, "EAN13", random.uniform(0, 360), module_px) for text in texts]
    seed = int(random.integers(2**31))
    gray = cv2.cvtColor(shelf(*labels, seed=seed), cv2.COLOR_BGR2GRAY)
    return np.asarray(gray, np.uint8), texts


def under_a_gleam(random: np.random.Generator) -> tuple[Pixels, list[str]]:
    """One label with a soft white band across its bars."""
    text = ean13(int(random.integers(0, 10**12)))
    paper = symbol(text, random.uniform(2, 4), int(random.integers(90, 200)))
    rows = np.arange(len(paper))[:, np.newaxis]
    middle, width = len(paper) * random.uniform(0.2, 0.8), random.uniform(4, 15)
    gleam = 300 * np.exp(-(((rows - middle) / width) ** 2))
    lit = np.clip(paper * 0.8 + gleam, 0, 255).astype(np.uint8)
    scene = cv2.copyMakeBorder(lit, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=204)
    return photographed(np.asarray(scene, np.uint8), random), [text]


def by_zxing(gray: Pixels) -> list[Code]:
    corner = (0.0, 0.0)
    return [
        Code(code.format.name, code.text, (corner, corner, corner, corner), "zxing")
        for code in zxingcpp.read_barcodes(gray, RETAIL)
    ]


def by_step(gray: Pixels) -> list[Code]:
    return list(ReadCodes()(Frame.from_pixels(gray)).find(Codes))


def score(codes: list[Code], texts: list[str]) -> Counter[str]:
    """Right, wrong (also what is counted twice) and doubtful."""
    sure = Counter(code.text for code in codes if code.confidence >= 0.5)
    right = (sure & Counter(texts)).total()
    doubtful = sum(code.confidence < 0.5 for code in codes)
    return Counter(labels=len(texts), right=right, wrong=sure.total() - right, doubtful=doubtful)


def main() -> None:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    print(f"{'scene':14} {'way':6} labels  right  wrong  doubtful  CPU ms a picture")
    for make, times in ((on_grey, 1), (at_angles, 1), (under_a_gleam, 10)):
        random = np.random.default_rng(1)
        made = [make(random) for _ in range(pictures * times)]
        for name, way in (("zxing", by_zxing), ("step", by_step)):
            total: Counter[str] = Counter()
            started = time.process_time()
            for gray, texts in made:
                total += score(way(gray), texts)
            ms = (time.process_time() - started) / len(made) * 1e3
            shares = [total[key] / total["labels"] for key in ("right", "wrong", "doubtful")]
            columns = "  ".join(f"{share:6.2%}" for share in shares)
            print(f"{make.__name__:14} {name:6} {total['labels']:6} {columns}  {ms:6.1f}")
    gray, _ = on_grey(np.random.default_rng(0))
    started = time.process_time()
    for _ in range(20):
        slants(gray, ())
    print(f"the look for slanted bars: {(time.process_time() - started) * 50:.1f} ms CPU")


if __name__ == "__main__":
    main()
