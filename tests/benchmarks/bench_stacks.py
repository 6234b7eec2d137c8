"""Counts equal bar codes in made stacks: how often zxing alone and ours count right.

Usage: python tests/benchmarks/bench_stacks.py [PICTURES]
"""

import sys
from collections import Counter
from random import Random

import cv2
import numpy as np
import zxingcpp

from capturekit.frame import Frame
from capturekit.picture import Pixels
from capturekit.steps.codes import ReadCodes

TEXTS = {"EAN13": "4006381333931", "EAN8": "96385074", "Code128": "BOX-1754"}


def stack(random: Random, count: int) -> tuple[Pixels, str]:
    """A gray JPEG-like picture of ``count`` equal labels in a column, and what they say."""
    name = random.choice(list(TEXTS))
    scale = random.choice([2, 3, 4])
    made = zxingcpp.create_barcode(TEXTS[name], getattr(zxingcpp.BarcodeFormat, name))
    code = np.array(made.to_image(scale=scale, add_hrt=random.random() < 0.5))
    code = cv2.resize(code, None, fx=1, fy=random.uniform(0.5, 1.2), interpolation=cv2.INTER_AREA)
    gap = max(8, round(code.shape[1] * random.uniform(0.05, 0.6)))
    side = 12 * scale
    label = cv2.copyMakeBorder(
        code, gap // 2, gap - gap // 2, side, side, cv2.BORDER_CONSTANT, value=255
    )
    column = cv2.copyMakeBorder(
        np.vstack([label] * count), 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255
    )
    return photographed(np.asarray(column, np.uint8), random), TEXTS[name]


def photographed(scene: Pixels, random: Random) -> Pixels:
    """Tilted up to 4 degrees, blurred, unevenly lit, noisy, at JPEG quality 40 to 95."""
    height, width = scene.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-4, 4), 1)
    tilted = cv2.warpAffine(scene, turn, (width, height), borderValue=255)
    blurred = cv2.GaussianBlur(tilted, (0, 0), random.uniform(0.3, 0.9))
    light = np.linspace(random.uniform(0.6, 1), random.uniform(0.6, 1), height)[:, None]
    noise = np.random.default_rng(random.getrandbits(32)).normal(
        0, random.uniform(1, 8), scene.shape
    )
    lit = np.clip(blurred * light + noise, 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, random.randrange(40, 96)])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def main(pictures: int) -> None:
    """Print the share counted right, by number of labels."""
    random = Random(1)
    step = ReadCodes()
    print(f"{'labels':>6}  {'pictures':>8}  {'zxing right':>11}  {'ours right':>10}  wrong by ours")
    for count in (1, 2, 3, 4, 6):
        right: Counter[str] = Counter()
        off: Counter[int] = Counter()
        for _ in range(pictures):
            scene, text = stack(random, count)
            raw = [code.text for code in zxingcpp.read_barcodes(scene)].count(text)
            frame = step(Frame.from_pixels(scene))
            ours = sum(seen.quantity for seen in frame.observations if seen.code == text)
            right["zxing"] += raw == count
            right["ours"] += ours == count
            if ours != count:
                off[ours - count] += 1
        shares = (right["zxing"] / pictures, right["ours"] / pictures)
        print(f"{count:>6}  {pictures:>8}  {shares[0]:>11.1%}  {shares[1]:>10.1%}  {dict(off)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
