import dataclasses
import functools
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from capturekit.errors import ConfigError
from capturekit.frame import Frame, Observation
from capturekit.pipeline import Chainable, ProcessingPipeline, Step, load_pipeline
from capturekit.steps import JudgeQuality, ReadCodes, default_pipeline
from tests.pictures import Label, ean13, jpeg, shelf, small
from tests.unit.pipeline.made_steps import FindOdd

pytestmark = pytest.mark.anyio

JPEG = jpeg(small())


@dataclass(frozen=True)
class Width:
    json_key: ClassVar[str] = "width_seen"
    px: int

    def as_json(self) -> int:
        return self.px


@dataclass(frozen=True)
class Measure(Chainable):
    name: ClassVar[str] = "measure"
    version: ClassVar[int] = 1
    scale: int = 1

    def __call__(self, frame: Frame) -> Frame:
        return frame.having(Width(frame.width * self.scale))


def unchanged(frame: Frame) -> Frame:
    return frame


def broken(frame: Frame) -> Frame:
    raise ZeroDivisionError(f"no step for {frame.width} px")


def returns_nothing(_: Frame) -> Frame:
    return None  # type: ignore[return-value]  # the mistake this test is about


def with_lock(_: object, frame: Frame) -> Frame:
    return frame


def at_least(limit: int) -> Step:
    def step(frame: Frame) -> Frame:
        return frame.having(frame.width >= limit)

    return step


def ticks() -> Callable[[], float]:
    times: Iterator[float] = iter(range(1000))
    return lambda: float(next(times))


def test_a_run_tells_what_was_found_and_how_long_each_step_took() -> None:
    pipeline = ProcessingPipeline((Measure(), unchanged), clock=ticks())

    result = pipeline.run(JPEG)

    assert result.error is None
    assert result.findings[Width] == Width(160)
    assert result.sha256 == hashlib.sha256(JPEG).hexdigest()
    assert [(report.name, report.ms) for report in result.steps] == [
        ("measure", 1000),
        ("unchanged", 1000),
    ]


def test_a_failing_step_is_named_and_later_steps_do_not_run() -> None:
    result = ProcessingPipeline((Measure(), broken, unchanged)).run(JPEG)

    assert result.error is not None
    assert (result.error.type, result.error.step) == ("ZeroDivisionError", "broken")
    assert [report.name for report in result.steps] == ["measure", "broken"]
    assert result.steps[1].error == result.error
    assert result.findings[Width] == Width(160)


def test_a_step_must_return_a_frame() -> None:
    result = ProcessingPipeline((returns_nothing,)).run(JPEG)

    assert result.error is not None
    assert result.error.message == "the step returned NoneType, not a Frame"


@pytest.mark.parametrize(
    ("data", "type"), [(b"text", "NotAnImage"), (JPEG[:500], "DamagedImage"), (b"", "NotAnImage")]
)
def test_a_bad_picture_is_a_result_with_an_error(data: bytes, type: str) -> None:
    result = default_pipeline().run(data)

    assert result.error is not None
    assert (result.error.type, result.error.step, result.info) == (type, None, None)
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    assert result.as_json()["width"] is None


def test_a_file_that_cannot_be_read_is_a_result_with_an_error(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    big = tmp_path / "big.jpg"
    big.write_bytes(JPEG)
    pipeline = ProcessingPipeline(max_bytes=len(JPEG) - 1)

    outcomes = [pipeline.run(path).error for path in (tmp_path / "none", tmp_path, pipe, big)]

    assert [error.type for error in outcomes if error] == [
        "FileNotFoundError",
        "OSError",
        "OSError",
        "TooManyBytes",
    ]


def test_bytes_a_path_and_a_frame_give_the_same_findings(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    pipeline = ProcessingPipeline((Measure(),))

    results = [pipeline.run(source) for source in (JPEG, path, str(path), Frame.open(JPEG))]

    assert len({(result.sha256, result.findings[Width]) for result in results}) == 1


def test_pixels_are_taken_as_they_are() -> None:
    result = ProcessingPipeline((Measure(),)).run(small())

    assert (result.error, result.sha256, result.findings[Width]) == (None, None, Width(160))


@pytest.mark.parametrize("source", [None, 3, bytearray(JPEG), open])
def test_what_is_no_picture_at_all_is_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match="give bytes, a path or pixels"):
        ProcessingPipeline().run(source)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("asked_before", [0, 1, 2])
def test_a_stopped_run_ends_before_the_next_step(asked_before: int) -> None:
    answers = iter([False] * asked_before + [True])

    result = ProcessingPipeline((Measure(), unchanged)).run(JPEG, should_stop=lambda: next(answers))

    assert result.was_stopped
    assert len(result.steps) == max(0, asked_before - 1)


async def test_arun_works_in_another_thread() -> None:
    def remember(frame: Frame) -> Frame:
        return frame.having(threading.get_ident())

    result = await ProcessingPipeline((remember,)).arun(JPEG)

    assert result.findings[int] != threading.get_ident()


def test_steps_and_pipelines_join_with_a_bar() -> None:
    joined = Measure() | unchanged | ProcessingPipeline((broken,))

    assert joined.steps == (Measure(), unchanged, broken)
    assert (unchanged | ProcessingPipeline((broken,))).steps == (unchanged, broken)
    with pytest.raises(ValueError, match="decode differently"):
        _ = joined | ProcessingPipeline(colour=False)


def test_equal_pipelines_have_equal_fingerprints() -> None:
    assert default_pipeline().fingerprint == default_pipeline().fingerprint
    assert (
        ProcessingPipeline((at_least(3),)).fingerprint
        == ProcessingPipeline((at_least(3),)).fingerprint
    )


def test_whatever_decides_the_answer_is_in_the_fingerprint() -> None:
    different = [
        ProcessingPipeline(),
        ProcessingPipeline(colour=True),
        ProcessingPipeline(on_damage="flag"),
        ProcessingPipeline(max_pixels=1_000_000),
        ProcessingPipeline(max_bytes=1_000_000),
        ProcessingPipeline((Measure(),)),
        ProcessingPipeline((Measure(scale=2),)),
        ProcessingPipeline((Measure(), unchanged)),
        ProcessingPipeline((unchanged, Measure())),
        ProcessingPipeline((at_least(3),)),
        ProcessingPipeline((at_least(4),)),
        ProcessingPipeline((functools.partial(unchanged),)),
        ProcessingPipeline((ReadCodes(),)),
        ProcessingPipeline((ReadCodes(formats=("EAN13",)),)),
        ProcessingPipeline((ReadCodes(effort="fast"),)),
        ProcessingPipeline((JudgeQuality(),)),
        ProcessingPipeline((JudgeQuality(dark_below=24.0),)),
    ]

    assert len({pipeline.fingerprint for pipeline in different}) == len(different)


@dataclass
class Scale:
    """Its method is a step."""

    factor: int

    def measure(self, frame: Frame) -> Frame:
        return frame.having(Width(frame.width * self.factor))


class Slotted:
    __slots__ = ("__dict__", "factor")

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, frame: Frame) -> Frame:
        return frame


def made_by_exec(factor: int) -> Step:
    made: dict[str, Step] = {}
    exec(f"def step(frame):\n    return frame.having({factor})", made)  # noqa: S102  # that is the test
    return made["step"]


def test_parameters_that_hide_are_in_the_fingerprint() -> None:
    one_line = (lambda frame: frame.having(1), lambda frame: frame.having(2))  # fmt: skip
    names = (lambda frame: frame.gray and frame, lambda frame: frame.bgr and frame)  # fmt: skip
    different = [
        *(ProcessingPipeline((Scale(factor).measure,)) for factor in (1, 2)),
        *(ProcessingPipeline((Slotted(factor),)) for factor in (1, 2)),
        *(ProcessingPipeline((step,)) for step in (*one_line, *names)),
        *(ProcessingPipeline((made_by_exec(factor),)) for factor in (1, 2)),
    ]

    assert len({pipeline.fingerprint for pipeline in different}) == len(different)


def test_a_script_has_the_fingerprint_of_its_module(tmp_path: Path) -> None:
    (tmp_path / "my_steps.py").write_text(
        "from capturekit import ProcessingPipeline\n"
        "def step(frame):\n    return frame\n"
        "print(ProcessingPipeline((step,)).fingerprint)\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for how in (["my_steps.py"], ["-m", "my_steps"], ["-c", "import my_steps"])
    }

    assert len(printed) == 1


def test_a_step_that_refers_to_itself_is_refused_with_its_name() -> None:
    def one(frame: Frame) -> Frame:
        return frame if frame.width else other(frame)

    def other(frame: Frame) -> Frame:
        return one(frame)

    with pytest.raises(TypeError, match="step 'one' refers to itself"):
        ProcessingPipeline((one,))


def test_joining_keeps_how_pictures_are_decoded() -> None:
    strict = ProcessingPipeline((Measure(),), max_pixels=100)

    assert (Measure() | strict).max_pixels == (strict | Measure()).max_pixels == 100
    with pytest.raises(ValueError, match="decode differently"):
        _ = ProcessingPipeline(max_pixels=100) | ProcessingPipeline((Measure(),))
    assert (ProcessingPipeline(isolated=True) | ProcessingPipeline((Measure(),))).isolated
    assert (Measure() | ProcessingPipeline(isolated=True)).isolated


@pytest.mark.parametrize("key", ["odd", "sha256", "error"])
def test_a_finding_that_gives_no_json_is_named(key: str) -> None:
    result = ProcessingPipeline((FindOdd(key),)).run(JPEG)

    assert result.error is None
    with pytest.raises(TypeError, match=f"finding '{key}'"):
        result.as_json()


def test_a_result_pickles_without_its_picture() -> None:
    result = (Measure() | FindOdd()).run(JPEG)

    again = pickle.loads(pickle.dumps(result))  # noqa: S301  # our own

    assert again == dataclasses.replace(result, source=None)
    assert again.source is None


def test_a_steps_version_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ProcessingPipeline((Measure(),)).fingerprint
    monkeypatch.setattr(Measure, "version", 2)

    assert ProcessingPipeline((Measure(),)).fingerprint != before


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = "from capturekit.steps import default_pipeline as p; print(p().fingerprint)"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        made = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert made.stdout.strip() == default_pipeline().fingerprint


def test_a_step_with_no_plain_parameters_is_refused() -> None:
    with pytest.raises(TypeError, match="fingerprint"):
        ProcessingPipeline((functools.partial(with_lock, object()),))
    with pytest.raises(TypeError, match="no step"):
        ProcessingPipeline(("quality",))  # type: ignore[arg-type]  # that is the test


def test_a_result_has_the_shape_that_others_read() -> None:
    text = ean13(400638133393)
    line = default_pipeline().run(jpeg(shelf(Label(text), width=640, height=480))).as_json()

    assert list(line) == [
        "sha256", "width", "height", "flags", "quality", "codes", "observations", "steps",
        "fingerprint", "error",
    ]  # fmt: skip
    codes, observations, steps = line["codes"], line["observations"], line["steps"]
    assert isinstance(codes, list)
    assert isinstance(observations, list)
    assert isinstance(steps, list)
    [code], [seen] = codes, observations
    assert isinstance(code, dict)
    assert isinstance(seen, dict)
    polygon = code["polygon"]
    expected = {"format": "EAN13", "text": text, "polygon": polygon, "attempt": "fast"}
    assert code == {**expected, "gtin": text}
    assert (seen["code"], seen["quantity"], seen["confidence"]) == (text, 1, 1.0)
    assert seen["box"] == polygon
    assert [set(step) for step in steps if isinstance(step, dict)] == [{"name", "ms", "error"}] * 3


def test_a_finding_of_your_own_appears_under_its_key() -> None:
    assert ProcessingPipeline((Measure(),)).run(JPEG).as_json()["width_seen"] == 160


@pytest.mark.parametrize(
    "spec",
    ["", "capturekit.steps", "nowhere:p", "capturekit.steps:nothing", "capturekit.steps:Code"],
)
def test_a_pipeline_that_is_not_there_is_a_config_error(spec: str) -> None:
    with pytest.raises(ConfigError):
        load_pipeline(spec)


@pytest.mark.parametrize("spec", ["default_pipeline", "quality"])
def test_a_pipeline_a_step_or_a_function_that_makes_one_is_loaded(spec: str) -> None:
    assert load_pipeline(f"capturekit.steps:{spec}").steps[0] == JudgeQuality()


@pytest.mark.parametrize(("chosen", "kept"), [("", "1"), ("cv2.setNumThreads(7); ", "7")])
def test_opencv_keeps_to_one_thread_unless_its_host_chose(chosen: str, kept: str) -> None:
    code = (
        f"import cv2; {chosen}from capturekit import ProcessingPipeline as P; "
        "P().run(b''); print(cv2.getNumThreads())"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert made.stdout.strip() == kept


def test_observations_of_all_steps_are_kept() -> None:
    def observe(frame: Frame) -> Frame:
        return frame.observing(Observation(analyser="test", item="salt", confidence=0.5))

    result = ProcessingPipeline((observe, observe)).run(JPEG)

    assert [seen.item for seen in result.observations] == ["salt", "salt"]
