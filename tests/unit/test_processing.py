"""Processing sees the same wherever the pipeline runs, and a process of its own can be ended."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from pydantic import JsonValue

from capturekit.errors import ConfigError
from capturekit.executors import Executor, ProcessExecutor, ThreadExecutor
from capturekit.frame import Frame
from capturekit.kit import CaptureKit, Upload
from capturekit.pipeline import ProcessingPipeline, Stage, Step, When
from capturekit.processing import JOB_KIND, Processing
from capturekit.queue.base import JobError, JobState, JobStatus
from capturekit.settings import Settings
from capturekit.steps import JudgeQuality, MakeThumbnail, ReadCodes
from capturekit.steps.change import DetectChange
from capturekit.steps.zones import AssignZones, Zone
from capturekit.store import CaptureState
from capturekit.worker import Worker
from tests import odd_steps
from tests.made_pictures import dark_picture, huge_png, picture

pytestmark = pytest.mark.anyio

CODE, OTHER = "4006381333931", "5901234123457"
PROMPT_S = 20.0
GATED = ProcessingPipeline(
    (
        JudgeQuality(),
        DetectChange(),
        Stage(ReadCodes(), when=When("change.changed")),
        Stage(
            AssignZones((Zone("left bay", ((0, 0), (0.5, 0), (0.5, 1), (0, 1))),)),
            when=When("change.changed"),
        ),
        MakeThumbnail(),
    ),
    max_pixels=4_000_000,
)
DEGRADED = GATED | Stage(odd_steps.fail, on_error="degrade")
STORY = (
    picture(CODE, OTHER),
    picture(CODE, OTHER)[:2] + b"\xff\xfe\x00\x04hi" + picture(CODE, OTHER)[2:],  # a comment
    picture(CODE),
    dark_picture(),
    picture(OTHER),
    huge_png(3000, 3000),
)


class Bench:
    """A kit whose pictures go through a pipeline and an executor of the test."""

    def __init__(self, kit: CaptureKit, processing: Processing) -> None:
        self.kit = kit
        self.processing = processing
        self.worker = Worker(
            kit.queue, {JOB_KIND: processing.handle}, after_failure=processing.settle
        )

    async def queued(self, content: bytes, at: float = 1e9) -> tuple[str, str]:
        """Ids of the capture and of its job."""
        capture, _ = await self.kit.receive(Upload(content, "shelf", captured_at=at))
        job_id, _ = await self.processing.submit(capture.id)
        return capture.id, job_id

    async def processed(self, content: bytes, at: float = 1e9) -> JobStatus:
        _, job_id = await self.queued(content, at)
        with anyio.fail_after(PROMPT_S):
            return await self.worker.run_job(job_id)


@asynccontextmanager
async def bench(
    folder: Path,
    executor: Executor | None,
    pipeline: ProcessingPipeline = GATED,
    timeout_s: float = PROMPT_S,
) -> AsyncIterator[Bench]:
    settings = Settings.model_validate(
        {"data_dir": folder, "concurrency": 0, "max_attempts": 1, "job_timeout_s": timeout_s}
    )
    async with AsyncExitStack() as stack:
        if executor is not None:
            await stack.enter_async_context(executor)
        kit = await stack.enter_async_context(CaptureKit(settings, pipeline=pipeline))
        await kit.store.devices.add("shelf", is_exhaustive=True)
        yield Bench(
            kit,
            Processing(kit.store, kit.queue, kit.blobs, pipeline, executor=executor),
        )


def comparable(value: JsonValue) -> JsonValue:
    """Without what differs from run to run: times, and the ids of captures."""
    if isinstance(value, dict):
        return {
            name: name if name in ("ms", "reference") else comparable(one)
            for name, one in value.items()
        }
    return [comparable(one) for one in value] if isinstance(value, list) else value


async def told(
    folder: Path, executor: Executor | None, pipeline: ProcessingPipeline
) -> list[JsonValue]:
    """All that is kept of the pictures of the story, one after the other."""
    kept: list[JsonValue] = []
    async with bench(folder, executor, pipeline) as at:
        for number, content in enumerate(STORY):
            capture_id, job_id = await at.queued(content, 1e9 + number)
            status = await at.worker.run_job(job_id)
            capture = await at.kit.store.captures.get(capture_id)
            run = await at.kit.store.captures.current_run(capture_id)
            error = status.error.model_dump() if status.error else None
            kept.append([capture.state, error, comparable(run.result) if run else None])
            rows = (await at.kit.store.inventory.stock()).rows
            kept.append([[row.item_id, row.location, row.quantity] for row in rows])
        # Thumbnails among them; their names are made of what is in them.
        kept.extend(sorted(file.name for file in (folder / "blobs").rglob("*")))
    return kept


@pytest.mark.parametrize(
    ("pipeline", "parts"),
    [
        (GATED, ("'changed': False", "'carried': 2", "left bay", "PictureRefused", CODE)),
        (DEGRADED, ("'degraded': ['fail']", "OSError", CODE)),
    ],
    ids=["gated", "degraded"],
)
async def test_the_same_is_kept_wherever_it_runs(
    pipeline: ProcessingPipeline, parts: tuple[str, ...], tmp_path: Path
) -> None:
    here = await told(tmp_path / "here", None, pipeline)
    in_a_thread = await told(tmp_path / "thread", ThreadExecutor(), pipeline)
    in_a_process = await told(tmp_path / "process", ProcessExecutor(1), pipeline)

    assert in_a_thread == here
    assert in_a_process == here
    # And the story has all that it should.
    assert [part for part in parts if part not in str(here)] == []


@pytest.mark.parametrize("name", ["fail", "give_up", "wait"])
async def test_a_step_fails_alike_wherever_it_runs(name: str, tmp_path: Path) -> None:
    pipeline = ProcessingPipeline((getattr(odd_steps, name),))
    outcomes = []
    for number, executor in enumerate((None, ProcessExecutor(1))):
        async with bench(tmp_path / str(number), executor, pipeline) as at:
            _, job_id = await at.queued(picture(CODE))
            status = await at.worker.run_job(job_id, timeout_s=1)
            wait_s = (status.next_retry_at or 0) - status.queued_at
            outcomes.append((status.state, status.error, len(status.attempts), wait_s > 3000))
    assert outcomes[0] == outcomes[1]


async def test_a_picture_that_crashes_its_process_takes_nothing_with_it(tmp_path: Path) -> None:
    pipeline = ProcessingPipeline((odd_steps.crash,))
    async with bench(tmp_path, ProcessExecutor(1), pipeline) as at:
        status = await at.processed(picture(CODE))
        message = "the process that ran it was killed by SIGSEGV"
        assert status.error == JobError(type="ChildDied", message=message, attempt=1)
        assert (await at.processed(picture(OTHER), 2e9)).state is JobState.FAILED


async def begun(mark: Path) -> int:
    with anyio.fail_after(PROMPT_S):
        while not await anyio.Path(mark).exists():  # noqa: ASYNC110  # another process writes it
            await anyio.sleep(0.005)
    return int(await anyio.Path(mark).read_text())


def is_known(pid: int) -> bool:
    """Whether the process is there, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


async def test_a_cancelled_capture_is_stopped_and_waits_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(odd_steps.MARK, str(tmp_path / "mark"))
    pipeline = ProcessingPipeline((odd_steps.burn,))
    async with bench(tmp_path / "kit", ProcessExecutor(1), pipeline) as at:
        capture_id, job_id = await at.queued(picture(CODE))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(at.worker.run_job, job_id)
            pid = await begun(tmp_path / "mark")
            await at.processing.cancel(job_id)
        assert not is_known(pid)
        assert (await at.kit.queue.status(job_id)).state is JobState.CANCELLED
        assert (await at.kit.store.captures.get(capture_id)).state is CaptureState.PENDING


async def test_a_capture_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(odd_steps.MARK, str(tmp_path / "mark"))
    pipeline = ProcessingPipeline((odd_steps.burn,))
    async with bench(tmp_path / "kit", ProcessExecutor(1), pipeline, timeout_s=10.0) as at:
        status = await at.processed(picture(CODE))
        assert status.error is not None
        assert (status.state, status.error.type) == (JobState.FAILED, "JobTimeout")
        assert not is_known(await begun(tmp_path / "mark"))


async def test_a_pipeline_that_cannot_be_sent_is_refused_at_once(tmp_path: Path) -> None:
    def local(frame: Frame) -> Frame:
        return frame

    step: Step = local
    with pytest.raises(ConfigError, match="cannot be sent"):
        async with bench(tmp_path, ProcessExecutor(1), ProcessingPipeline((step,))):
            pytest.fail("it was taken")
