"""Made pictures with a known fault: blur, darkness, noise, things on the lens, and bare views.

``SCENES`` names them; each takes a seed, and is 1600 x 1200 BGR.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.steps.quality import Verdict
from tests.pictures import Label, Pixels, ean13, shelf

HEIGHT, WIDTH = 1200, 1600
Light = NDArray[np.float32]
Scene = Callable[[int], Pixels]


@lru_cache(maxsize=2)
def labelled(seed: int) -> Light:
    """A wooden shelf with six bar codes of 2 to 4 px a module, sharp."""
    random = np.random.default_rng(seed)
    labels = [
        Label(
            ean13(int(random.integers(10**11))),
            degrees=90 * int(random.integers(4)),
            module_px=int(random.integers(2, 5)),
        )
        for _ in range(6)
    ]
    return shelf(*labels, blur_px=0, noise=0, seed=seed).astype(np.float32)


def wall(seed: int) -> Light:
    """A bare wall, brighter on one side."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    at = 300 + 100 * seed
    lit = 200 * (0.75 + 0.25 * np.cos((x - at) / 900) * np.cos((y - 300) / 900))
    return np.repeat(lit[:, :, np.newaxis], 3, axis=2)


def empty_shelf(seed: int) -> Light:
    """Two white boards, their front edges and a thin shadow."""
    lit = wall(seed)
    for top in (380, 800):
        lit[top : top + 20] -= 40
    lit[400:404] -= 90
    lit[:, :12] -= 50
    return lit


def smooth_boxes(seed: int) -> Light:
    """Plain boxes without print."""
    random = np.random.default_rng(seed)
    lit = wall(seed) * 0.75
    for _ in range(6):
        x, y, width, height = (
            int(random.integers(*of)) for of in ((0, 1300), (0, 900), (150, 400), (150, 400))
        )
        lit[y : y + height, x : x + width] = random.integers(60, 200, 3)
    return lit


def red_shelf(seed: int) -> Light:
    """The labelled shelf painted red, its labels white."""
    lit = labelled(seed)
    return np.where(lit < 200, lit * np.array((0.25, 0.3, 1), np.float32), lit)


def cardboard(seed: int) -> Light:
    """Brown boxes on brown boards."""
    return empty_shelf(seed) * np.array((0.5, 0.67, 0.9), np.float32)


def plain(level: float, _seed: int) -> Light:
    return np.full((HEIGHT, WIDTH, 3), level, np.float32)


def blurred(lit: Light, sigma_px: float) -> Light:
    return np.asarray(cv2.GaussianBlur(lit, (0, 0), sigma_px), np.float32)


def taken(
    of: Callable[[int], Light],
    seed: int,
    *,
    blur_px: float = 0.6,
    motion_px: int = 1,
    light: float = 1,
    fog: float = 0,
    noise: float = 3,
) -> Pixels:
    """What the camera makes of it: blur, then fog on the lens, exposure and sensor noise."""
    lit = blurred(cv2.blur(of(seed), (motion_px, 1)), blur_px)  # type: ignore[arg-type]  # float32 in, float32 out
    lit = (lit * (1 - fog) + 190 * fog) * light
    grain = np.random.default_rng(seed).standard_normal(lit.shape, dtype=np.float32)
    return np.clip(lit + noise * grain, 0, 255).astype(np.uint8)


def on_the_lens(share: float, colour: tuple[int, int, int], seed: int) -> Pixels:
    """A share of the view from the left is something too near to be seen sharply."""
    lit = blurred(labelled(seed), 0.6)
    is_covered = np.zeros((HEIGHT, WIDTH), np.float32)
    is_covered[:, : int(WIDTH * share)] = 1
    soft = cv2.GaussianBlur(is_covered, (0, 0), 60)[:, :, np.newaxis]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    glow = 0.6 + 0.4 * np.cos(3 * (x / WIDTH - 0.3)) * np.cos(3 * (y / HEIGHT - 0.4))
    near = glow[:, :, np.newaxis] * np.array(colour, np.float32)
    mixed = (lit * (1 - soft) + near * soft).astype(np.float32)
    return taken(lambda _seed: mixed, seed, noise=4)


SKIN, TAPE = (60, 70, 170), (12, 12, 12)

SCENES: Final[dict[str, Scene]] = {
    "sharp": partial(taken, labelled),
    **{f"blur {px}": partial(taken, labelled, blur_px=px) for px in (1, 2, 3, 4, 5, 8)},
    **{f"motion {px}": partial(taken, labelled, motion_px=px) for px in (5, 10, 20, 40)},
    **{f"noise {n}": partial(taken, labelled, noise=n) for n in (8, 16, 32)},
    **{f"noise {n}, blur 5": partial(taken, labelled, noise=n, blur_px=5) for n in (8, 16, 32)},
    **{f"dim {by}": partial(taken, labelled, light=by) for by in (0.5, 0.2, 0.15, 0.1, 0.05)},
    **{f"bright {by}": partial(taken, labelled, light=by) for by in (1.3, 1.6, 3)},
    **{f"haze {by}": partial(taken, labelled, fog=by) for by in (0.5, 0.7, 0.85)},
    **{f"fog {by}": partial(taken, labelled, fog=by, blur_px=4) for by in (0.5, 0.85, 0.95)},
    **{f"finger {by}": partial(on_the_lens, by, SKIN) for by in (0.3, 0.5, 0.7, 0.8, 1.2)},
    **{f"tape {by}": partial(on_the_lens, by, TAPE) for by in (0.3, 0.5, 0.7, 0.8, 1.2)},
    "bare wall": partial(taken, wall),
    "bare wall, dim": partial(taken, wall, light=0.5),
    "empty shelf": partial(taken, empty_shelf, blur_px=0.8),
    "empty shelf, dim": partial(taken, empty_shelf, blur_px=0.8, light=0.25, noise=4),
    "plain boxes": partial(taken, smooth_boxes, blur_px=0.8),
    "plain boxes, blur 5": partial(taken, smooth_boxes, blur_px=5),
    "red shelf": partial(taken, red_shelf),
    "cardboard": partial(taken, cardboard, blur_px=0.8),
    "night": partial(taken, partial(plain, 6), noise=12),
    "night, gain": partial(taken, partial(plain, 40), noise=30),
}

_DARK, _COVERED = (Verdict.TOO_DARK,), (Verdict.LENS_COVERED,)
_NOTHING = (Verdict.TOO_DARK, Verdict.LENS_COVERED, Verdict.BLANK)

FAULTS: Final[dict[str, tuple[Verdict, ...]]] = {
    **{f"blur {px}": (Verdict.BLURRED,) for px in (4, 5, 8)},
    **{f"motion {px}": (Verdict.BLURRED,) for px in (20, 40)},
    **{f"noise {n}, blur 5": (Verdict.BLURRED,) for n in (8, 16, 32)},
    "plain boxes, blur 5": (Verdict.BLURRED,),
    "fog 0.5": (Verdict.BLURRED,),
    "fog 0.85": (Verdict.BLURRED,),
    "fog 0.95": (Verdict.BLANK,),
    **{f"dim {by}": _DARK for by in (0.1, 0.05)},
    "night": _DARK,
    "bright 3": (Verdict.TOO_BRIGHT,),
    **{f"finger {by}": _COVERED for by in (0.7, 0.8, 1.2)},
    **{f"tape {by}": _COVERED for by in (0.7, 0.8)},
    "tape 1.2": _DARK,
    "night, gain": _NOTHING,
    "bare wall": (Verdict.BLANK,),
    "bare wall, dim": (Verdict.BLANK, Verdict.LENS_COVERED),
}
"""The verdicts that are right."""

USABLE: Final = (
    "sharp",
    "blur 1",
    "motion 5",
    *(f"noise {n}" for n in (8, 16, 32)),
    *(f"dim {by}" for by in (0.5, 0.2)),
    "bright 1.3",
    *(f"haze {by}" for by in (0.5, 0.7, 0.85)),
    "finger 0.3",
    "tape 0.3",
    "empty shelf",
    "empty shelf, dim",
    "plain boxes",
    "red shelf",
    "cardboard",
)
"""Scenes that must not be called anything but good: it would make a camera blind."""
