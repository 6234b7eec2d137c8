import numpy as np
import pytest

from capturekit.frame import Frame
from capturekit.steps import JudgeQuality, Quality, Verdict
from capturekit.steps.quality import sharpness
from tests.pictures import Label, ean13, shelf

LABELS = tuple(Label(ean13(400638100000 + number)) for number in range(6))


def judged(pixels: np.ndarray) -> Quality:
    return JudgeQuality()(Frame.from_pixels(pixels)).find(Quality)


@pytest.mark.parametrize(
    ("pixels", "verdict"),
    [
        (shelf(*LABELS), Verdict.GOOD),
        (shelf(*LABELS, blur_px=5), Verdict.BLURRED),
        (shelf(*LABELS, brightness=0.08), Verdict.TOO_DARK),
        (shelf(*LABELS, brightness=2.5), Verdict.TOO_BRIGHT),
        (shelf(*LABELS)[-200:-190, -10:] * 0 + 128, Verdict.BLANK),
        (np.zeros((480, 640), np.uint8), Verdict.TOO_DARK),
    ],
    ids=["good", "blurred", "dark", "bright", "blank", "black"],
)
def test_the_verdict_names_what_is_wrong(pixels: np.ndarray, verdict: Verdict) -> None:
    assert judged(pixels).verdict is verdict


def test_sharpness_falls_as_blur_grows() -> None:
    values = [sharpness(Frame.from_pixels(shelf(*LABELS, blur_px=b))) for b in (0.6, 1, 2, 3, 5)]

    assert values == sorted(values, reverse=True)
    assert values[0] > 100 > values[-1]


def test_brightness_contrast_and_clipping_are_those_of_the_pixels() -> None:
    pixels = np.zeros((100, 100), np.uint8)
    pixels[:, 50:] = 200

    quality = judged(pixels)

    assert quality.brightness == pytest.approx(100)
    assert quality.contrast == pytest.approx(100)
    assert quality.clipped == pytest.approx(0.5)


def test_a_verdict_follows_your_own_thresholds() -> None:
    frame = Frame.from_pixels(shelf(*LABELS))

    assert JudgeQuality(sharp_from=1e6)(frame).find(Quality).verdict is Verdict.BLURRED
