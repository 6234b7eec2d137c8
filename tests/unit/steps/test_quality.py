import numpy as np
import pytest

from capturekit.frame import Frame
from capturekit.steps import JudgeQuality, Quality, Verdict
from capturekit.steps.quality import sharpness
from tests.pictures import Label, ean13, shelf
from tests.pictures_quality import FAULTS, SCENES, USABLE

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

    assert JudgeQuality(focus_from=0.99)(frame).find(Quality).verdict is Verdict.BLURRED


@pytest.mark.parametrize(("scene", "verdicts"), FAULTS.items())
def test_faults_are_told_apart(scene: str, verdicts: tuple[Verdict, ...]) -> None:
    assert judged(SCENES[scene](0)).verdict in verdicts


@pytest.mark.parametrize("scene", USABLE)
def test_a_picture_of_use_is_good(scene: str) -> None:
    assert judged(SCENES[scene](0)).verdict is Verdict.GOOD


def test_focus_is_not_moved_by_light_noise_or_contrast() -> None:
    scenes = ("sharp", "dim 0.2", "haze 0.7", "noise 32")

    values = [judged(SCENES[scene](3)).focus for scene in scenes]

    assert max(values) - min(values) < 0.06
    assert judged(SCENES["noise 32, blur 5"](3)).focus < min(values) - 0.15


def test_a_gray_picture_is_judged_too() -> None:
    assert judged(SCENES["tape 0.7"](0)[:, :, 1].copy()).verdict is Verdict.LENS_COVERED


def test_a_tiny_picture_is_judged_too() -> None:
    assert judged(np.full((1, 1), 128, np.uint8)).verdict is Verdict.BLANK


@pytest.mark.parametrize(
    ("scene", "advice"),
    [
        ("sharp", "none"),
        ("blur 5", "retake"),
        ("dim 0.05", "add_light"),
        ("bright 3", "reduce_light"),
        ("finger 0.8", "clean_or_uncover_lens"),
    ],
)
def test_the_json_has_an_advice_that_a_device_can_act_on(scene: str, advice: str) -> None:
    as_json = judged(SCENES[scene](0)).as_json()

    assert isinstance(as_json, dict)
    assert as_json["advice"] == advice
    assert {"sharpness", "brightness", "contrast", "clipped", "verdict"} <= as_json.keys()


def test_edges_are_found_across_and_down() -> None:
    bars = np.zeros((640, 640), np.uint8)
    bars[::64] = bars[1::64] = 200

    down, across = judged(bars), judged(bars.T.copy())

    assert down.edges == pytest.approx(across.edges)
    assert down.focus == pytest.approx(across.focus)
    assert down.edges > 0.1
    half = bars.copy()
    half[320:] = 0
    assert judged(half).edges == pytest.approx(down.edges / 2, rel=0.1)
