import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from capturekit.errors import Permanent
from capturekit.frame import Frame, Reference
from capturekit.pipeline import ProcessingPipeline, Stage, Step, When
from capturekit.pipeline.deadline import MAX_LATE_STEPS
from tests.pictures import jpeg, small
from tests.unit.pipeline.made_steps import (
    Doubled,
    DoubleSize,
    MeasureSize,
    Size,
    burn,
    fail,
    give_up,
    is_narrow,
    is_wide,
    read_colour,
)

JPEG = jpeg(small())


class Hang:
    """Waits until it is let go."""

    fingerprint = "hang"

    def __init__(self) -> None:
        self.release, self.has_shown = threading.Event(), threading.Event()

    def __call__(self, frame: Frame) -> Frame:
        self.release.wait()
        frame.show("late", frame.gray)
        self.has_shown.set()
        return frame.having("late")


def test_a_step_that_may_be_skipped_does_not_end_the_run() -> None:
    result = ProcessingPipeline((Stage(fail, on_error="skip"), MeasureSize())).run(JPEG)

    assert (result.error, result.degraded) == (None, ())
    assert result.findings[Size] == Size(160, ("a",))
    (failed, measured) = result.steps
    assert failed.error is not None
    assert (failed.error.type, failed.error.step) == ("ZeroDivisionError", "fail")
    assert measured.error is None


def test_a_degraded_result_says_so() -> None:
    result = ProcessingPipeline((Stage(fail, on_error="degrade"), MeasureSize())).run(JPEG)

    assert (result.error, result.degraded) == (None, ("fail",))
    assert result.as_json()["degraded"] == ["fail"]


def test_the_cause_of_a_failure_is_kept() -> None:
    result = ProcessingPipeline((give_up,)).run(JPEG)

    assert result.error is not None
    assert isinstance(result.error.cause, Permanent)


def test_a_late_step_is_left_behind_with_its_deadline_as_error() -> None:
    hang = Hang()
    steps = (Stage(hang, deadline_s=0.05, on_error="skip"), MeasureSize())
    result = ProcessingPipeline(steps).run(JPEG)
    hang.release.set()

    assert result.error is None
    (late, _) = result.steps
    assert late.error is not None
    assert (late.error.type, late.error.message) == ("DeadlineExceeded", "not done within 0.05 s")
    assert str not in result.findings


def test_a_step_within_its_deadline_is_as_without_one() -> None:
    timely = ProcessingPipeline((Stage(MeasureSize(), deadline_s=30),)).run(JPEG)
    failing = ProcessingPipeline((Stage(fail, deadline_s=30),)).run(JPEG)

    assert timely.findings[Size] == Size(160, ("a",))
    assert failing.error is not None
    assert failing.error.type == "ZeroDivisionError"


def test_hanging_steps_do_not_pile_up() -> None:
    hang = Hang()
    pipeline = ProcessingPipeline((Stage(hang, deadline_s=0.01),))
    errors = [pipeline.run(JPEG).error for _ in range(MAX_LATE_STEPS + 1)]
    hang.release.set()

    types = [error.type for error in errors if error]
    assert types == ["DeadlineExceeded"] * MAX_LATE_STEPS + ["TooManyLateSteps"]


def test_steps_in_time_do_not_stand_in_each_others_way() -> None:
    pipeline = ProcessingPipeline((Stage(burn, deadline_s=60),))

    errors = [result.error for result in pipeline.map([JPEG] * 20, workers=MAX_LATE_STEPS + 4)]

    assert errors == [None] * 20


def test_a_late_step_shows_nothing_in_the_trace_of_others() -> None:
    hang = Hang()
    steps = (Stage(hang, deadline_s=0.01, on_error="skip"), let_go(hang), MeasureSize())
    result = ProcessingPipeline(steps).run(JPEG, trace=True)

    assert result.trace is not None
    assert "late" not in {shot.name for shot in result.trace}


def let_go(hang: Hang) -> Step:
    """A step that ends only after the hanging one has shown what it shows."""

    @dataclass(frozen=True)
    class LetGo:
        def __call__(self, frame: Frame) -> Frame:
            hang.release.set()
            assert hang.has_shown.wait(10)
            return frame

    return LetGo()


def test_a_step_that_leaves_the_program_only_fails() -> None:
    def leave(frame: Frame) -> Frame:
        raise SystemExit(frame.width)

    result = ProcessingPipeline((leave,)).run(JPEG)

    assert result.error is not None
    assert (result.error.type, result.error.message) == ("SystemExit", "160")


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        (When("size"), True),
        (When("size.is_wide"), True),
        (When("size.width", above=100), True),
        (When("size.width", above=160), False),
        (When("size.width", below=160), False),
        (When("size.width", above=100, below=200), True),
        (When("size.width", among=(160, 320)), True),
        (When("size.width", among=(320,)), False),
        (When("size.width", among=(160,), above=200), False),
        (When("size.kinds", above=0), True),
        (When("size.kinds", above=1), False),
        (When("size.nothing"), False),
        (When("size.nothing", above=0), False),
        (When("size.nothing", among=(None,)), False),
        (When("size.width.deeper", among=(160,)), False),
        (is_wide, True),
        (is_narrow, False),
    ],
)
def test_a_stage_runs_when_its_condition_holds(
    when: Callable[[Frame], bool], *, runs: bool
) -> None:
    result = ProcessingPipeline((MeasureSize(), Stage(DoubleSize(), when=when))).run(JPEG)

    assert result.error is None
    assert (Doubled in result.findings) == runs


def test_a_skipped_step_says_why() -> None:
    conditions = (When("size.width", above=500), is_narrow)
    stages = (Stage(DoubleSize(), when=condition) for condition in conditions)

    result = ProcessingPipeline((MeasureSize(), *stages)).run(JPEG)

    assert [step.skipped for step in result.steps] == [
        None,
        "not so: size.width > 500",
        "not so: is_narrow",
    ]
    assert [set(step.as_json()) for step in result.steps[1:]] == [
        {"name", "ms", "error", "skipped"}
    ] * 2


def test_a_condition_that_raises_fails_its_step() -> None:
    def never(frame: Frame) -> bool:
        raise LookupError(f"{frame.width}")

    result = ProcessingPipeline((Stage(read_colour, when=never, on_error="skip"),)).run(JPEG)

    assert result.steps[0].error is not None
    assert result.steps[0].error.type == "LookupError"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Stage("text"), TypeError),  # type: ignore[arg-type]
        (lambda: Stage(Stage(fail)), TypeError),
        (lambda: Stage(fail, on_error="ignore"), ValueError),  # type: ignore[arg-type]
        (lambda: Stage(fail, deadline_s=0), ValueError),
        (lambda: Stage(fail, deadline_s=float("nan")), ValueError),
        (lambda: Stage(fail, when="codes"), TypeError),  # type: ignore[arg-type]
        (lambda: Stage(fail, deadline_s=float("inf")), ValueError),
        (lambda: When("quality.verdict", among="good"), TypeError),  # type: ignore[arg-type]
        (lambda: When(""), ValueError),
        (lambda: When("quality."), ValueError),
    ],
)
def test_a_stage_that_cannot_be_is_refused(
    make: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make()


def test_what_a_stage_does_is_in_the_fingerprint() -> None:
    different = [
        ProcessingPipeline((fail,)),
        ProcessingPipeline((Stage(fail, on_error="skip"),)),
        ProcessingPipeline((Stage(fail, on_error="degrade"),)),
        ProcessingPipeline((Stage(fail, deadline_s=1),)),
        ProcessingPipeline((Stage(fail, deadline_s=2),)),
        ProcessingPipeline((Stage(fail, when=is_wide),)),
        ProcessingPipeline((Stage(fail, when=is_narrow),)),
    ]

    assert len({pipeline.fingerprint for pipeline in different}) == len(different)
    assert ProcessingPipeline((Stage(fail),)).fingerprint == different[0].fingerprint


def test_a_reference_reaches_the_steps_of_its_run_only() -> None:
    reference = Reference("before", small()[:, :, 0])
    frame = Frame.from_pixels(small())

    def look(frame: Frame) -> Frame:
        return frame.having(frame.reference.id if frame.reference else "none")

    pipeline = ProcessingPipeline((look,))

    assert pipeline.run(frame, reference=reference).findings[str] == "before"
    assert pipeline.run(frame).findings[str] == "none"
