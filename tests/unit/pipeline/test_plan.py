import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.frame import Frame, is_representation, made_from
from capturekit.pipeline import MissingNeed, ProcessingPipeline, Stage, When
from capturekit.steps import default_pipeline
from tests.pictures import jpeg, small
from tests.unit.pipeline.made_steps import DoubleSize, MeasureSize, Size, read_colour

JPEG = jpeg(small(width=640, height=480))
NAMES = (
    "gray",
    "bgr",
    "gray_half",
    "bgr_half",
    "gray_quarter",
    "bgr_quarter",
    "gray_320",
    "bgr_64",
)


@dataclass(frozen=True)
class Look:
    """Reads representations, and tells how many bytes of pixels there are when it runs."""

    gives: ClassVar[tuple[type, ...]] = ()

    needs: tuple[str, ...]

    def __call__(self, frame: Frame) -> Frame:
        for name in self.needs:
            assert frame.picture(name).ndim == (3 if name.startswith("bgr") else 2)
        return frame


def kept(frame: Frame) -> set[str]:
    return set(frame.made)


def test_a_need_that_nothing_gives_is_named_with_its_step() -> None:
    with pytest.raises(MissingNeed, match=r"'double' needs Size, and no step before it") as caught:
        ProcessingPipeline((DoubleSize(),))

    assert (caught.value.step, caught.value.needed) == ("double", "Size")


def test_a_need_that_is_given_too_late_says_by_whom() -> None:
    with pytest.raises(MissingNeed, match="only 'size' after it does: move it"):
        ProcessingPipeline((DoubleSize(), MeasureSize()))

    assert (MeasureSize() | DoubleSize()).run(JPEG).error is None


def test_a_step_that_does_not_say_what_it_finds_may_have_found_it() -> None:
    result = ProcessingPipeline((read_colour, DoubleSize())).run(JPEG)

    assert result.error is not None
    assert (result.error.type, result.error.step) == ("MissingFinding", "double")


def test_a_condition_on_what_nothing_finds_is_refused() -> None:
    with pytest.raises(MissingNeed, match="'double' needs a finding 'codes' for its condition"):
        ProcessingPipeline((MeasureSize(), Stage(DoubleSize(), when=When("codes"))))


@pytest.mark.parametrize(
    ("needs", "message"),
    [(("grey",), "'grey', which is no finding"), ((3,), "3, which is no finding")],
)
def test_a_need_that_cannot_be_is_refused(needs: tuple[object, ...], message: str) -> None:
    class Odd:
        def __call__(self, frame: Frame) -> Frame:
            return frame

    step = Odd()
    step.needs = needs  # type: ignore[attr-defined]  # a step may be any object

    with pytest.raises(ValueError, match=message):
        ProcessingPipeline((step,))


@pytest.mark.parametrize(
    ("steps", "is_colour"),
    [
        ((), False),
        ((Look(("gray",)),), False),
        ((Look(("gray",)), Look(("bgr_320",))), True),
        ((read_colour,), True),
    ],
)
def test_colour_is_decoded_only_when_a_step_may_read_it(
    steps: tuple[Callable[[Frame], Frame], ...], *, is_colour: bool
) -> None:
    pipeline = ProcessingPipeline(steps)

    assert pipeline.explain().decodes_to == ("bgr" if is_colour else "gray")


def test_a_representation_is_gone_after_its_last_use() -> None:
    at_the_end: list[set[str]] = []

    @dataclass(frozen=True)
    class Note:
        needs: ClassVar[tuple[str, ...]] = ()
        gives: ClassVar[tuple[type, ...]] = ()

        def __call__(self, frame: Frame) -> Frame:
            at_the_end.append(kept(frame))
            return frame

    steps = (Note(), Look(("gray_half",)), Note(), Look(("bgr_320",)), Note())
    result = ProcessingPipeline(steps).run(JPEG)

    assert result.error is None
    assert at_the_end == [{"bgr"}, {"bgr", "gray"}, set()]


def test_pixels_of_a_frame_you_pass_stay_yours() -> None:
    frame = Frame.from_pixels(small())

    ProcessingPipeline((Look(("gray_half",)), Look(("bgr_320",)))).run(frame)

    assert "bgr" in kept(frame)
    assert frame.bgr.shape == (120, 160, 3)


GRAY_JPEG = jpeg(np.ascontiguousarray(small(width=640, height=480)[:, :, 0]))


@given(
    reads=st.lists(st.lists(st.sampled_from(NAMES), max_size=3).map(tuple), max_size=6),
    data=st.sampled_from([JPEG, GRAY_JPEG]),
    colour=st.sampled_from([None, True, False]),
)
def test_whatever_steps_read_is_there_in_any_order(
    reads: list[tuple[str, ...]], data: bytes, *, colour: bool | None
) -> None:
    frame, steps = Frame.open(data), tuple(Look(names) for names in reads)
    alone = {name: frame.picture(name).shape for name in NAMES}

    @dataclass(frozen=True)
    class Same:
        needs: ClassVar[tuple[str, ...]] = NAMES

        def __call__(self, frame: Frame) -> Frame:
            assert {name: frame.picture(name).shape for name in NAMES} == alone
            return frame

    assert ProcessingPipeline(steps, colour=colour).run(data).error is None
    assert ProcessingPipeline((*steps, Same()), colour=colour).run(data).error is None


@pytest.mark.parametrize("isolated", [False, True])
def test_a_gray_file_full_of_detail_goes_through_every_step(*, isolated: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640), np.uint8)
    pipeline = replace(default_pipeline(), isolated=isolated)

    result = pipeline.run(jpeg(noise))

    assert result.error is None
    assert "thumbnail" in result.derived


def test_a_frame_whose_pixels_are_gone_says_so() -> None:
    frame = Frame.from_pixels(small())
    frame.forget("bgr")

    for name in ("gray", "bgr", "gray_half"):
        with pytest.raises(LookupError, match="were freed"):
            frame.picture(name)


def test_freeing_lowers_what_a_run_holds() -> None:
    big = jpeg(small(width=2000, height=1500))
    gray, colour = Look(("gray", "gray_half")), Look(("bgr_half",))

    def peak(pipeline: ProcessingPipeline) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            assert pipeline.run(big).error is None
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    freed = peak(ProcessingPipeline((gray, colour, Look(("bgr_quarter",)))))
    unfreed = peak(ProcessingPipeline((gray, colour, read_colour)))

    assert freed < unfreed


def test_every_step_of_ours_declares_what_it_reads_and_finds() -> None:
    for stage in default_pipeline().explain().stages:
        assert stage.reads is not None, stage.name
        assert stage.gives is not None, stage.name


@pytest.mark.parametrize("name", ["", "grey", "gray_", "gray_0", "gray_half_half", "bgr_123456"])
def test_a_name_that_is_no_representation_is_a_value_error(name: str) -> None:
    assert not is_representation(name)
    with pytest.raises(ValueError, match="is no representation"):
        Frame.from_pixels(small()).picture(name)


@pytest.mark.parametrize("name", NAMES)
def test_made_from_names_all_that_making_it_asks_for(name: str) -> None:
    frame = Frame.open(JPEG, colour=name.startswith("bgr"))
    frame.picture(name)

    assert kept(frame) <= {name, *made_from(name), name.partition("_")[0]}


def test_the_plan_knows_the_finding_types() -> None:
    (size, double) = (MeasureSize() | DoubleSize()).explain().stages

    assert (size.gives, double.needs, size.reads) == ((Size,), (Size,), ("gray_half",))
