"""Executors answer alike, and whatever a child process does, the parent lives on."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
from pydantic import JsonValue

from capturekit.errors import (
    CaptureKitError,
    DamagedImage,
    ImageError,
    Permanent,
    RateLimited,
    Retryable,
    StorageFull,
)
from capturekit.executors import (
    ChildDied,
    ChildError,
    Executor,
    NotSendable,
    ProcessExecutor,
    ThreadExecutor,
    in_executor,
    progress,
    should_stop,
)
from capturekit.queue.base import Job, JobState, RetryPolicy
from capturekit.queue.memory import MemoryQueue
from capturekit.worker import Worker
from tests import child_work as work

pytestmark = pytest.mark.anyio

PROMPT_S = 20.0
KILL_S = 1.0
"""A cancelled CPU burn has ended by then."""
MIB = 2**20


@pytest.fixture(params=["threads", "processes"])
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[Executor]:
    kind = request.param
    async with ThreadExecutor() if kind == "threads" else ProcessExecutor(2) as executor:
        yield executor


@pytest.fixture
async def processes() -> AsyncIterator[ProcessExecutor]:
    async with ProcessExecutor(1) as executor:
        yield executor


async def written(path: Path) -> str:
    """What the file says, once it is there."""
    file = anyio.Path(path)
    with anyio.fail_after(PROMPT_S):
        while not await file.exists():  # noqa: ASYNC110  # another process writes it
            await anyio.sleep(0.005)
    return await file.read_text()


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def is_unburied(pid: int) -> bool:
    """Whether the system still knows it, alive or as a zombie."""
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int, within_s: float = KILL_S) -> None:
    with anyio.fail_after(within_s):
        while is_alive(pid):  # noqa: ASYNC110  # the system has no event for it
            await anyio.sleep(0.005)


async def cancelled_once_begun(
    executor: Executor, function: Callable[..., JsonValue], mark: Path
) -> float:
    """Call it, cancel when it has begun; seconds until the caller went on."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, function, str(mark))
        await written(mark)
        tasks.cancel_scope.cancel()
        before = time.monotonic()
    return time.monotonic() - before


# Both


async def test_the_answer_comes_back(executor: Executor) -> None:
    assert await executor.run(work.echo, "ä", 1, None) == ["ä", 1, None]


async def test_large_arguments_arrive(executor: Executor) -> None:
    assert await executor.run(work.length, bytes(20 * MIB)) == 20 * MIB


async def test_progress_is_told_in_order(executor: Executor) -> None:
    told: list[float] = []

    async def on_progress(fraction: float) -> None:
        told.append(fraction)

    assert await executor.run(work.halves, on_progress=on_progress) == "whole"
    assert told == [0.0, 0.5]


async def test_progress_that_nobody_listens_to_is_harmless(executor: Executor) -> None:
    assert await executor.run(work.halves) == "whole"


async def test_progress_outside_0_to_1_is_an_error(executor: Executor) -> None:
    with pytest.raises(Exception, match=r"progress is 1\.5") as caught:
        await executor.run(work.overdo)
    assert type(caught.value).__name__ == "ValueError"


def test_without_an_executor_progress_goes_nowhere() -> None:
    progress(0.5)
    assert not should_stop()


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (Permanent("never"), Permanent),
        (Retryable("later"), Retryable),
        (StorageFull("full"), StorageFull),
        (DamagedImage("cut"), DamagedImage),
    ],
)
async def test_an_error_keeps_its_meaning_name_message_and_step(
    executor: Executor, error: Exception, meaning: type[Exception]
) -> None:
    with pytest.raises(meaning) as caught:
        await executor.run(work.fail, error, "codes")
    assert type(caught.value).__name__ == type(error).__name__
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "step", None) == "codes"


async def test_a_rate_limit_says_how_long(executor: Executor) -> None:
    with pytest.raises(RateLimited, match="slow down") as caught:
        await executor.run(work.fail_with_a_limit, 12.5)
    assert caught.value.retry_after_s == 12.5


async def test_any_other_error_has_its_own_name(executor: Executor) -> None:
    with pytest.raises(Exception, match="odd") as caught:
        await executor.run(work.oddly, "odd")
    assert type(caught.value).__name__ == "OddError"
    assert not isinstance(caught.value, CaptureKitError)


async def test_calls_run_at_the_same_time(executor: Executor, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, work.until_told, str(tmp_path / "a"))
        tasks.start_soon(executor.run, work.until_told, str(tmp_path / "b"))
        await written(tmp_path / "a")
        await written(tmp_path / "b")
        tasks.cancel_scope.cancel()


async def test_a_job_runs_in_it(executor: Executor) -> None:
    queue = MemoryQueue()
    await queue.submit(Job(id="a", kind="echo", payload={"n": 1}))
    status = await Worker(queue, {"echo": in_executor(executor, work.echo)}).run_job("a")
    assert (status.state, status.result) == (JobState.SUCCEEDED, [{"n": 1}])


async def test_an_async_function_needs_no_executor(executor: Executor) -> None:
    async def handler(_payload: JsonValue) -> JsonValue:
        return None

    with pytest.raises(TypeError, match="is async"):
        in_executor(executor, handler)  # type: ignore[arg-type]  # the mistake of this test


# Threads


async def test_a_thread_is_given_up_and_told(tmp_path: Path) -> None:
    took_s = await cancelled_once_begun(ThreadExecutor(), work.until_told, tmp_path / "a")
    assert took_s < KILL_S
    await written(tmp_path / "a.told")


LEAVING = """
    import anyio, sys
    from capturekit.executors import ThreadExecutor
    from tests import child_work as work

    async def main():
        async with ThreadExecutor() as executor, anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, work.burn, sys.argv[1])
            while not await anyio.Path(sys.argv[1]).exists():
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()

    anyio.run(main)
"""


def test_a_thread_that_was_given_up_holds_up_no_exit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LEAVING), str(tmp_path / "a")]
    assert subprocess.run(command, timeout=PROMPT_S, check=False).returncode == 0


# Processes: an end at any time


@pytest.mark.parametrize("burn", [work.burn, work.burn_in_c])
async def test_a_cancelled_burn_ends_at_once(
    processes: ProcessExecutor, burn: Callable[[str], None], tmp_path: Path
) -> None:
    took_s = await cancelled_once_begun(processes, burn, tmp_path / "a")
    pid = int(await written(tmp_path / "a"))
    assert took_s < KILL_S
    assert not is_unburied(pid)
    assert processes.pids == ()


async def test_what_a_child_started_ends_with_it(
    processes: ProcessExecutor, tmp_path: Path
) -> None:
    await cancelled_once_begun(processes, work.burn_with_a_process, tmp_path / "a")
    await gone(int(await written(tmp_path / "a.sleeper")))


async def test_what_a_child_started_ends_when_it_crashes(
    processes: ProcessExecutor, tmp_path: Path
) -> None:
    with pytest.raises(ChildDied):
        await processes.run(work.crash_with_a_process, str(tmp_path / "a"))
    await gone(int(await written(tmp_path / "a")))


@pytest.mark.parametrize(
    ("function", "why", "exit_code", "by_signal"),
    [
        (work.leave, "exited with code 7", 7, None),
        (work.segfault, "was killed by SIGSEGV", None, "SIGSEGV"),
    ],
)
async def test_the_death_of_a_child_is_told_and_the_next_call_works(
    processes: ProcessExecutor,
    function: Callable[[], None],
    why: str,
    exit_code: int | None,
    by_signal: str | None,
) -> None:
    with pytest.raises(ChildDied, match=why) as caught:
        await processes.run(function)
    assert isinstance(caught.value, Retryable)
    assert (caught.value.exit_code, caught.value.signal) == (exit_code, by_signal)
    assert await processes.run(work.echo) == []


async def test_a_child_that_is_killed_while_it_works_is_told(
    processes: ProcessExecutor, tmp_path: Path
) -> None:
    async def kill() -> None:
        os.kill(int(await written(tmp_path / "a")), signal.SIGKILL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        with pytest.raises(ChildDied, match="SIGKILL"):
            await processes.run(work.burn, str(tmp_path / "a"))


async def test_a_child_that_is_killed_while_idle_is_replaced(processes: ProcessExecutor) -> None:
    first = await processes.run(work.pid)
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    await gone(first)
    assert await processes.run(work.pid) not in (first, None)
    assert not is_unburied(first)


async def test_an_exit_of_the_function_is_an_error(processes: ProcessExecutor) -> None:
    with pytest.raises(ChildError, match="no more") as caught:
        await processes.run(work.leave_politely)
    assert type(caught.value).__name__ == "SystemExit"


async def test_no_process_is_left_after_the_executor(tmp_path: Path) -> None:
    before = open_files()
    async with ProcessExecutor(2) as executor:
        pid = await executor.run(work.pid)
        assert isinstance(pid, int)
        await cancelled_once_begun(executor, work.burn, tmp_path / "a")
        with pytest.raises(ChildDied):
            await executor.run(work.leave)
    assert not is_unburied(pid)
    assert not is_unburied(int(await written(tmp_path / "a")))
    assert open_files() == before


async def test_a_call_that_runs_when_the_executor_ends_is_told(tmp_path: Path) -> None:
    async def call(executor: ProcessExecutor) -> None:
        with pytest.raises(ChildDied, match="SIGKILL"):
            await executor.run(work.burn, str(tmp_path / "a"))

    async with anyio.create_task_group() as tasks, ProcessExecutor(1) as executor:
        tasks.start_soon(call, executor)
        await written(tmp_path / "a")


async def test_outside_of_its_with_it_does_not_run() -> None:
    executor = ProcessExecutor(1)
    with pytest.raises(RuntimeError, match="async with"):
        await executor.run(work.pid)
    async with executor:
        await executor.run(work.pid)
    with pytest.raises(RuntimeError, match="async with"):
        await executor.run(work.pid)


PARENT = """
    import anyio, sys
    from capturekit.executors import ProcessExecutor
    from tests import child_work as work

    async def main():
        async with ProcessExecutor(1) as executor:
            await executor.run(getattr(work, sys.argv[1]), sys.argv[2])

    anyio.run(main)
"""


@pytest.mark.parametrize("name", ["burn", "burn_in_c", "burn_with_a_process"])
async def test_nothing_is_left_of_a_parent_that_was_killed(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "a"
    command = [sys.executable, "-c", textwrap.dedent(PARENT), name, str(mark)]
    with subprocess.Popen(command) as parent:  # noqa: ASYNC220  # ended at once
        child = int(await written(mark))
        assert is_alive(child)
        parent.kill()
    try:
        await gone(child)
    finally:
        if is_alive(child):
            os.killpg(child, signal.SIGKILL)
    if name == "burn_with_a_process":
        await gone(int(await written(Path(f"{mark}.sleeper"))))


# Processes: how they are used


async def test_children_start_when_needed_and_stay(processes: ProcessExecutor) -> None:
    assert len(processes.pids) == 0
    first = await processes.run(work.pid)
    assert list(processes.pids) == [first]
    assert await processes.run(work.pid) == first


async def test_no_more_run_than_may(tmp_path: Path) -> None:
    async with ProcessExecutor(1) as executor, anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, work.burn, str(tmp_path / "a"))
        await written(tmp_path / "a")
        tasks.start_soon(executor.run, work.burn, str(tmp_path / "b"))
        await anyio.wait_all_tasks_blocked()
        assert len(executor.pids) == 1
        tasks.cancel_scope.cancel()


async def test_without_a_size_as_many_run_as_are_called(tmp_path: Path) -> None:
    async with ProcessExecutor() as executor, anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(executor.run, work.burn, str(tmp_path / name))
        for name in "abc":
            await written(tmp_path / name)
        assert len(executor.pids) == 3
        tasks.cancel_scope.cancel()


async def test_a_child_is_replaced_after_some_jobs() -> None:
    async with ProcessExecutor(1, max_jobs=2) as executor:
        pids = [await executor.run(work.pid) for _ in range(4)]
        assert executor.pids == ()
    assert pids[0] == pids[1]
    assert pids[2] == pids[3] != pids[0]


async def test_a_child_that_holds_too_much_is_replaced() -> None:
    async with ProcessExecutor(1, max_memory_bytes=200 * MIB) as executor:
        lean = await executor.run(work.hold, 1)
        assert await executor.run(work.hold, 200) == lean
        assert executor.pids == ()
        assert await executor.run(work.hold, 1) != lean


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 1, "max_jobs": 0}])
def test_less_than_one_is_an_error(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        ProcessExecutor(**wrong)


async def test_what_does_not_pickle_is_told_and_no_child_is_harmed(
    processes: ProcessExecutor,
) -> None:
    with pytest.raises(NotSendable, match="do not pickle"):
        await processes.run(lambda: None)
    assert await processes.run(work.echo, 1) == [1]


async def test_what_cannot_be_built_in_a_child_is_told(processes: ProcessExecutor) -> None:
    with pytest.raises(Permanent, match=r"cannot import or build .*not here") as caught:
        await processes.run(work.echo, work.Unbuildable())
    assert type(caught.value).__name__ == "NotSendable"
    assert await processes.run(work.echo, 1) == [1]


SCRIPT = """
    import anyio
    from dataclasses import dataclass
    from capturekit.executors import ProcessExecutor

    @dataclass
    class Sides:
        a: int
        b: int

    def area(sides):
        return sides.a * sides.b

    async def main():
        async with ProcessExecutor(1) as executor:
            # Which gives another name to what is __main__ by then.
            await executor.run(exec, "import multiprocessing")
            print(await executor.run(area, Sides(6, 7)))

    if __name__ == "__main__":
        anyio.run(main)
"""


def test_a_function_of_the_script_itself_will_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("42\n", "", 0)


def test_a_function_that_was_typed_in_is_refused() -> None:
    source = textwrap.dedent(SCRIPT)
    ran = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    assert "NotSendable: " in ran.stderr
    assert "put it into a file" in ran.stderr


async def test_what_a_function_prints_goes_to_standard_error() -> None:
    source = PARENT.replace("getattr(work, sys.argv[1])", "work.speak")
    ran = await anyio.run_process(
        [sys.executable, "-c", textwrap.dedent(source), "", "heard"], stderr=subprocess.PIPE
    )
    assert ran.stdout == b""
    assert ran.stderr.decode().splitlines() == ["heard by Python", "heard by the system"]


async def test_an_unexpected_error_brings_the_childs_traceback(processes: ProcessExecutor) -> None:
    with pytest.raises(ChildError) as caught:
        await processes.run(work.oddly, "odd")
    (note,) = caught.value.__notes__
    assert "In the child process:" in note
    assert "in oddly" in note


async def test_a_picture_too_large_is_still_an_image_error(processes: ProcessExecutor) -> None:
    with pytest.raises(ImageError, match="5000 x 5000") as caught:
        await processes.run(work.refuse_its_size)
    assert type(caught.value).__name__ == "TooManyPixels"


# Processes: what a child may say


async def test_an_answer_that_is_no_json_is_for_good(processes: ProcessExecutor) -> None:
    with pytest.raises(Permanent, match="a object that is not JSON"):
        await processes.run(work.no_json)  # type: ignore[arg-type]  # the mistake of this test


async def test_a_number_that_is_none_is_no_json(processes: ProcessExecutor) -> None:
    with pytest.raises(Permanent, match="not JSON"):
        await processes.run(work.not_a_number)


async def test_an_answer_that_is_too_long_is_for_good(processes: ProcessExecutor) -> None:
    assert await processes.run(work.huge, 7 * MIB) == "x" * 7 * MIB
    with pytest.raises(Permanent, match="a child may give 8,388,608"):
        await processes.run(work.huge, 9 * MIB)
    assert await processes.run(work.echo) == []


async def test_too_much_progress_is_left_out(processes: ProcessExecutor) -> None:
    told: list[float] = []

    async def on_progress(fraction: float) -> None:
        told.append(fraction)

    assert await processes.run(work.chatter, 100_000, on_progress=on_progress) == 100_000
    assert 1 <= len(told) < 1000


async def test_an_endless_rate_limit_is_cut(processes: ProcessExecutor) -> None:
    with pytest.raises(RateLimited) as caught:
        await processes.run(work.fail_with_a_limit, float("inf"))
    assert caught.value.retry_after_s == 86_400


RAISED: dict[str, JsonValue] = {
    "type": "ValueError", "message": "", "step": None, "meaning": None, "retry_after_s": 0.0,
    "trace": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("", 2**31),
        ("no json", None),
        ("\xff", None),
        ('{"result": 1, "more": 2}', None),
        ('{"result": NaN}', None),
        ('{"result": [{"deep": [Infinity]}]}', None),
        ("[" * 100_000, None),
        ('{"progress": 2}', None),
        (json.dumps({"error": RAISED | {"type": "not a name"}}), None),
        (json.dumps({"error": RAISED | {"message": "x" * 2001}}), None),
    ],
)
async def test_a_child_that_was_taken_over_is_killed(
    processes: ProcessExecutor, message: str, size: int | None
) -> None:
    with anyio.fail_after(PROMPT_S), pytest.raises(ChildDied, match="as our code does"):
        await processes.run(work.hijack, message + " " * (9 * MIB if size else 0), size)
    assert processes.pids == ()


async def test_a_child_that_hangs_up_is_killed(processes: ProcessExecutor) -> None:
    with anyio.fail_after(PROMPT_S), pytest.raises(ChildDied, match="SIGKILL"):
        await processes.run(work.hang_up, "")
    assert processes.pids == ()


# Processes: what becomes of a job


async def test_a_death_counts_as_an_attempt_and_does_not_end_the_worker(
    processes: ProcessExecutor,
) -> None:
    queue = MemoryQueue()
    policy = RetryPolicy(max_attempts=2, base_s=0.001)
    await queue.submit(Job(id="a", kind="die", retry=policy), Job(id="b", kind="live"))
    handlers = {
        "die": in_executor(processes, work.segfault_as_asked),
        "live": in_executor(processes, work.echo),
    }
    worker = Worker(queue, handlers)
    died, lived = await worker.run_job("a"), await worker.run_job("b")
    assert (died.state, len(died.attempts), lived.state) == (
        JobState.FAILED,
        2,
        JobState.SUCCEEDED,
    )
    assert died.error is not None
    assert (died.error.type, died.error.message) == (
        "ChildDied",
        "the process that ran it was killed by SIGSEGV",
    )


async def test_a_job_that_burns_too_long_is_stopped(
    processes: ProcessExecutor, tmp_path: Path
) -> None:
    queue = MemoryQueue()
    policy = RetryPolicy(max_attempts=1)
    # So that the child is warm.
    await processes.run(work.pid)
    payload: dict[str, JsonValue] = {"path": str(tmp_path / "a")}
    await queue.submit(Job(id="a", kind="burn", payload=payload, retry=policy, timeout_s=0.5))
    handlers = {"burn": in_executor(processes, work.burn_as_asked)}
    status = await Worker(queue, handlers).run_job("a")
    assert status.error is not None
    assert status.error.type == "JobTimeout"
    assert not is_unburied(int(await written(tmp_path / "a")))
