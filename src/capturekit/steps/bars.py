"""A second look at an EAN-13: do its bars fit the digits that were read?

zxing makes each pixel black or white first; where bars are 2 px wide that turns some codes
into other valid ones. Here nothing is decided before whole digits are compared.
"""

import functools
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Pixels
from capturekit.steps.stacks import LEAST_GAP, LEAST_GAP_PX, Polygon

Floats: TypeAlias = NDArray[np.float64]

OVERSAMPLING = 2
"""Samples of a profile for a pixel of the picture."""
MARGIN = 0.12
"""Quiet zone kept at both ends, as a part of the code's length."""
_LEAST_ROWS, _MOST_ROWS = 5, 64
"""Lines the mean is taken of."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A bar code as one row of grey levels."""

    levels: Floats
    """From left to right as it is read."""
    margin: float
    """Quiet zone at each end, in samples."""


def profile(gray: Pixels, polygon: Polygon) -> Profile:
    """The mean row of the bars in a read: noise, digits and gleams are washed out or left out.

    The code is turned by the direction of its gradients: a read may be no more than one line.
    """
    rows, margin = _rows(gray, np.array(polygon, np.float64))
    return Profile(np.asarray(_mean_row(rows), np.float64), margin)


def _rows(gray: Pixels, corners: Floats) -> tuple[NDArray[np.float32], float]:
    """Lines of a code turned upright, and the samples of margin at each of their ends."""
    along = _reading_direction(gray, corners)
    across = np.array([-along[1], along[0]])
    middle = corners.mean(axis=0)
    s, t = (corners - middle) @ along, (corners - middle) @ across
    left, right = (s[0] + s[3]) / 2, (s[1] + s[2]) / 2
    length, height = max(right - left, 8.0), max(np.ptp(t), _LEAST_ROWS)
    size = (round(length * (1 + 2 * MARGIN) * OVERSAMPLING), min(round(height), _MOST_ROWS))
    row = across * height / size[1]
    origin = middle + along * (left - MARGIN * length) + across * (t.mean() - height / 2)
    to_picture = np.column_stack((along / OVERSAMPLING, row, origin))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    rows = cv2.warpAffine(gray, to_picture, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return rows.astype(np.float32), MARGIN * length * OVERSAMPLING


def are_one(gray: Pixels, upper: Polygon, lower: Polygon) -> bool:
    """Whether the same bars go on from one read to the other: then both read one label."""
    across = np.subtract(lower, upper).mean(axis=0)
    length = float(np.linalg.norm(np.subtract(upper[1], upper[0])))
    if float(np.linalg.norm(across)) > length:
        return False
    corners = np.array([upper[0], upper[1], lower[2], lower[3]], np.float64)
    rows, _ = _rows(gray, corners)
    normed = _normed(rows)
    alike = normed @ _normed(_mean_row(rows)[np.newaxis])[0] > 0.6
    edges = np.flatnonzero(np.diff(np.concatenate(([True], alike, [True])).astype(np.int8)))
    longest = int(np.diff(edges)[::2].max(initial=0)) * float(np.linalg.norm(across)) / len(rows)
    return longest < max(LEAST_GAP_PX, LEAST_GAP * length)


def _reading_direction(gray: Pixels, corners: Floats) -> Floats:
    """Unit vector across the bars, by the structure tensor inside the polygon."""
    height, width = gray.shape
    x, y = np.clip(np.floor(corners.min(axis=0)).astype(int) - 3, 0, (width - 4, height - 4))
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 4
    part = gray[y : max(bottom, y + 4), x : max(right, x + 4)]
    inside = np.zeros(part.shape, np.uint8)
    cv2.fillConvexPoly(inside, np.rint(corners - (x, y)).astype(np.int32), 1)
    inside = np.asarray(cv2.dilate(inside, np.ones((5, 5), np.uint8)), np.uint8)
    dx = cv2.Sobel(part, cv2.CV_32F, 1, 0)[inside > 0]
    dy = cv2.Sobel(part, cv2.CV_32F, 0, 1)[inside > 0]
    angle = np.arctan2(2 * float(dx @ dy), float(dx @ dx) - float(dy @ dy)) / 2
    direction = np.array([np.cos(angle), np.sin(angle)])
    read = corners[1] + corners[2] - corners[0] - corners[3]
    return direction if float(direction @ read) >= 0 else -direction


def _normed(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-3))


def _mean_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the rows that agree with the one most others agree with."""
    normed = _normed(rows)
    sample = normed[:: max(1, len(rows) // 24)]
    likeness = sample @ sample.T
    best = sample[int(np.argmax((likeness > 0.7).sum(axis=1) + likeness.mean(axis=1)))]
    return np.asarray(rows[normed @ best > 0.7].mean(axis=0))


_STEPS = 3
"""Samples taken of a module."""
_ODD = ("0001101", "0011001", "0010011", "0111101", "0100011", "0110001", "0101111", "0111011",
        "0110111", "0001011")  # fmt: skip
_PARITIES = ("LLLLLL", "LLGLGG", "LLGGLG", "LLGGGL", "LGLLGG", "LGGLLG", "LGGGLL", "LGLGLG",
             "LGLGGL", "LGGLGL")  # fmt: skip
_BLURS = (0.25, 0.45, 0.65)
"""Standard deviations, in modules, of the blur a symbol is compared under."""
_ALIGNMENTS = 6
"""Best fits of the guard bars under which the digits are read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the other way reads."""

    text: str
    """Thirteen digits with the right check digit; empty where it reads nothing."""
    deficit: float
    """By how much the text asked about fits worse than the best digits: 0 is as well, and each
    digit adds at most 2."""


def read_ean13(seen: Profile, asked: str) -> Reading:
    """Reads a row of bars by comparing each digit with all patterns, as blurred as it is.

    No pixel is made black or white, which is where bars of 2 px go wrong.
    """
    samples = _aligned(seen.levels, seen.margin)
    fits = np.concatenate([_fits(samples, blur) for blur in _BLURS])
    totals = fits.max(axis=2).sum(axis=1)
    best = int(np.argmax(totals))
    deficit = float(totals[best] - _fits_of(fits, asked).max())
    return Reading(_text(fits[best].argmax(axis=1).tolist()), deficit)


def _aligned(levels: Floats, margin: float) -> Floats:
    """Samples of the 95 modules, for the ends at which the guard bars fit best; dark is high."""
    module = (len(levels) - 2 * margin) / 95
    shifts = np.arange(-2, 2.01, 0.25) * module
    starts, ends = (grid.ravel() for grid in np.meshgrid(shifts, shifts))
    starts, ends = starts + margin, ends + len(levels) - margin
    at = (np.arange(95 * _STEPS) + 0.5) / (95 * _STEPS)
    guards = np.r_[0 : 3 * _STEPS, 45 * _STEPS : 50 * _STEPS, 92 * _STEPS : 95 * _STEPS]
    pattern = np.repeat([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], _STEPS)
    places = np.arange(len(levels)) + 0.5

    def sampled(where: Floats, rows: NDArray[np.intp]) -> Floats:
        x = starts[rows, None] + (ends - starts)[rows, None] * where
        return -np.interp(x, places, levels)

    everyone = np.arange(len(starts))
    fit = _unit(sampled(at[guards], everyone)) @ _unit(pattern)
    best = np.argsort(fit)[::-1][:_ALIGNMENTS]
    return sampled(at, best)


def _unit(values: Floats) -> Floats:
    centred = values - values.mean(axis=-1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=-1, keepdims=True) + 1e-9))


def _fits(samples: Floats, blur: float) -> Floats:
    """For each of 12 digits its likeness to 20 patterns; on the right half only 10 can be."""
    left, right = _patterns(blur)
    shape = (len(samples), 6, 7 * _STEPS)
    first = _unit(samples[:, 3 * _STEPS : 45 * _STEPS].reshape(shape)) @ left.T
    second = _unit(samples[:, 50 * _STEPS : 92 * _STEPS].reshape(shape)) @ right.T
    second = np.concatenate((second, np.full_like(second, -1)), axis=2)
    return np.concatenate((first, second), axis=1)


@functools.cache
def _patterns(blur: float) -> tuple[Floats, Floats]:
    """Unit patterns: of the left half 10 odd then 10 even, of the right half 10."""
    odd = [[int(bit) for bit in digit] for digit in _ODD]
    right = [[1 - bit for bit in digit] for digit in odd]
    even = [digit[::-1] for digit in right]
    return (
        np.array([_blurred([1, *digit, 0], blur) for digit in odd + even]),
        np.array([_blurred([0, *digit, 1], blur) for digit in right]),
    )


def _blurred(modules: list[int], blur: float) -> Floats:
    fine = np.repeat(np.array(modules, np.float64), 4 * _STEPS)
    soft = cv2.GaussianBlur(fine[np.newaxis], (0, 0), blur * 4 * _STEPS)[0]
    inner = np.asarray(soft[4 * _STEPS : -4 * _STEPS], np.float64)
    return _unit(inner.reshape(7 * _STEPS, 4).mean(axis=1))


def _fits_of(fits: Floats, text: str) -> Floats:
    parity = _PARITIES[int(text[0])] + "LLLLLL"
    columns = [int(digit) + 10 * (p == "G") for digit, p in zip(text[1:], parity, strict=True)]
    return np.asarray(fits[:, np.arange(12), columns].sum(axis=1))


def _text(columns: list[int]) -> str:
    """The digits of the best patterns, or nothing where they make no EAN-13."""
    parity = "".join("LG"[column // 10] for column in columns[:6])
    if parity not in _PARITIES:
        return ""
    digits = [_PARITIES.index(parity), *(column % 10 for column in columns)]
    return "".join(map(str, digits)) if is_ean13(digits) else ""


def is_ean13(digits: list[int]) -> bool:
    """Whether the check digit is right."""
    return (sum(digits[::2]) + 3 * sum(digits[1::2])) % 10 == 0
