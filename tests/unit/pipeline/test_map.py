import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from capturekit.frame import Frame
from capturekit.pipeline import ProcessingPipeline, Result, Source, Step
from capturekit.pipeline.batch import IN_FLIGHT_PER_WORKER, Mode
from capturekit.steps import default_pipeline
from tests.pictures import jpeg, small
from tests.unit.pipeline.made_steps import (
    CannotBeSent,
    MeasureSize,
    Size,
    fail,
    find_private,
    kill_its_process_when_small,
)

PICTURES = [jpeg(small(seed, width=100 + 10 * seed)) for seed in range(6)]
MODES: tuple[Mode, ...] = ("threads", "processes")


def widths(results: list[Result]) -> list[int | None]:
    return [result.info.width if result.info else None for result in results]


class Gate:
    """Waits for its turn when the picture is 100 px wide."""

    fingerprint = "gate"

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, frame: Frame) -> Frame:
        if frame.width == 100:
            assert self.open.wait(10)
        return frame


@pytest.mark.parametrize("mode", MODES)
def test_results_come_in_the_order_of_their_pictures(mode: Mode) -> None:
    results = list(ProcessingPipeline((MeasureSize(),)).map(PICTURES, workers=3, mode=mode))

    assert widths(results) == [100, 110, 120, 130, 140, 150]
    assert [result.source for result in results] == PICTURES
    assert [result.findings[Size] for result in results] == [
        Size(width, ("a",)) for width in (100, 110, 120, 130, 140, 150)
    ]


def test_results_come_as_they_are_done_when_asked_for() -> None:
    gate = Gate()
    results: list[Result] = []

    for result in ProcessingPipeline((gate,)).map(PICTURES, workers=2, ordered=False):
        results.append(result)
        if len(results) == 5:
            gate.open.set()

    assert widths(results) == [110, 120, 130, 140, 150, 100]


@pytest.mark.parametrize("mode", MODES)
def test_a_result_is_the_same_as_that_of_run(mode: Mode, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(PICTURES[0])
    pipeline = default_pipeline()

    [mapped] = pipeline.map([file], mode=mode)

    alone = pipeline.run(file)
    assert (mapped.findings, mapped.observations) == (alone.findings, alone.observations)
    assert (mapped.derived, mapped.info) == (alone.derived, alone.info)
    assert mapped.draw() == alone.draw()


@pytest.mark.parametrize("mode", MODES)
def test_failures_are_results_like_others(mode: Mode) -> None:
    sources: list[Source] = [PICTURES[0], b"no picture", Path("nowhere.jpg"), PICTURES[1]]

    results = list(ProcessingPipeline((fail,)).map(sources, mode=mode))

    assert [result.error.type for result in results if result.error] == [
        "ZeroDivisionError",
        "NotAnImage",
        "FileNotFoundError",
        "ZeroDivisionError",
    ]


def test_only_a_few_pictures_are_read_ahead() -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for number in count():
            read += 1
            yield PICTURES[number % 2]

    with closing(ProcessingPipeline().map(endless(), workers=2)) as results:
        for _ in range(10):
            next(results)

    assert read <= 10 + 2 * IN_FLIGHT_PER_WORKER


def test_progress_counts_results() -> None:
    seen: list[int] = []

    list(ProcessingPipeline().map(PICTURES, progress=seen.append))

    assert seen == [1, 2, 3, 4, 5, 6]


def test_no_picture_is_begun_after_a_stop() -> None:
    stopped = threading.Event()
    read: list[bytes] = []

    def sources() -> Iterator[bytes]:
        for picture in PICTURES:
            read.append(picture)
            yield picture

    results = []
    for result in ProcessingPipeline().map(sources(), workers=1, should_stop=stopped.is_set):
        results.append(result)
        stopped.set()

    assert len(results) == len(read) < len(PICTURES)


def test_a_picture_that_kills_its_process_costs_only_itself() -> None:
    tiny = jpeg(small(width=64))
    sources = [PICTURES[0], tiny, PICTURES[1], PICTURES[2], tiny, PICTURES[3]]
    pipeline = ProcessingPipeline((kill_its_process_when_small,))

    results = list(pipeline.map(sources, workers=2, mode="processes"))

    assert [result.error.type if result.error else None for result in results] == [
        None,
        "WorkerDied",
        None,
        None,
        "WorkerDied",
        None,
    ]
    assert os.getpid() not in {result.findings.get(int) for result in results}


def test_a_pipeline_that_no_process_can_be_sent_is_refused_at_once() -> None:
    @dataclass(frozen=True)
    class Inner:
        def __call__(self, frame: Frame) -> Frame:
            return frame

    with pytest.raises(TypeError, match="at the top of a module, or use threads"):
        ProcessingPipeline((Inner(),)).map([], mode="processes")


@pytest.mark.parametrize("mode", MODES)
def test_pixels_and_frames_are_pictures_too(mode: Mode) -> None:
    pixels = small()
    sources: list[Source] = [
        pixels,
        Frame.from_pixels(pixels),
        Frame.open(PICTURES[0]),
        pixels[:, :, 0],
    ]

    results = list(default_pipeline().map(sources, workers=2, mode=mode))

    assert [result.error for result in results] == [None] * 4
    assert widths(results) == [160, 160, 100, 160]
    assert all(result.draw() for result in results)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_picture_costs_only_itself(mode: Mode) -> None:
    no_pixels = np.zeros((4, 4, 4), np.float32)
    sources: list[Source] = [PICTURES[0], no_pixels, "no\0name", "no\ud800name", PICTURES[1]]

    results = list(ProcessingPipeline().map(sources, mode=mode))

    types = [result.error.type if result.error else None for result in results]
    assert types == [None, "ValueError", "OSError", "OSError", None]


@pytest.mark.parametrize(
    ("step", "type", "message"),
    [
        (find_private, "TypeError", "a finding cannot be sent to a process"),
        (CannotBeSent(), "ValueError", "no number"),
    ],
)
def test_what_cannot_be_sent_is_told_in_the_result(step: Step, type: str, message: str) -> None:
    results = list(ProcessingPipeline((step,)).map(PICTURES[:2], mode="processes"))

    for result in results:
        assert result.error is not None
        assert result.error.type == type
        assert message in result.error.message


@pytest.mark.parametrize("mode", MODES)
def test_what_reading_the_sources_raises_comes_after_the_results(mode: Mode) -> None:
    def sources() -> Iterator[bytes]:
        yield from PICTURES[:3]
        raise LookupError("the camera is gone")

    mapped = ProcessingPipeline().map(sources(), workers=2, mode=mode)

    assert widths([next(mapped) for _ in range(3)]) == [100, 110, 120]
    with pytest.raises(LookupError, match="the camera is gone"):
        next(mapped)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"mode": "fibres"}])
def test_wrong_arguments_are_told_before_the_first_result(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ProcessingPipeline().map([], **wrong)  # type: ignore[arg-type]  # that is the test
