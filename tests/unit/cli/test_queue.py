"""``capturekit queue`` on SQLite and on Redis: what it prints, and what it changes."""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result

from capturekit.cli.main import cli
from capturekit.queue.base import (
    Job,
    JobError,
    JobState,
    JobStatus,
    QueueBackend,
    RetryPolicy,
    WorkerInfo,
)
from capturekit.queue.urls import open_queue
from tests.servers import run_cli
from tests.servers_redis import running_redis

BOOM = JobError(type="Boom", message="it broke", attempt=1)
WORKER = WorkerInfo(
    id="worker-shed-7", host="shed", pid=7, concurrency=2, started_at=1.0, heartbeat_at=1.0
)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}"
    server = request.getfixturevalue("redis_url")
    assert isinstance(server, str)
    return server


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with running_redis("valkey", tmp_path / "redis") as server:
        yield server.url


async def fill(queue: QueueBackend) -> None:
    """One job of each kind of end, one that runs, two that wait."""
    once = RetryPolicy(max_attempts=1)
    jobs = [Job(id=name, kind="test", batch="b", retry=once) for name in "abcde"]
    await queue.submit(*jobs, Job(id="later", kind="test", queue="slow", delay_s=600))
    await queue.heartbeat(WORKER, [])
    failed, done, _running = [(await queue.claim(WORKER.id, job_id=name))[0] for name in "abc"]
    await queue.fail(failed, BOOM)
    await queue.finish(done)


def filled(url: str) -> str:
    async def work() -> None:
        async with open_queue(url) as queue:
            await fill(queue)

    anyio.run(work)
    return url


def status(url: str, job_id: str) -> JobStatus:
    async def work() -> JobStatus:
        async with open_queue(url) as queue:
            return await queue.status(job_id)

    return anyio.run(work)


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["queue", "--queue-url", url, *arguments])


def said(url: str, *arguments: str) -> str:
    ended = run(url, *arguments)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_info_tells_depth_by_state_and_queue_and_who_works(url: str) -> None:
    told = json.loads(said(filled(url), "info", "--json"))
    assert told["depth"] == {
        "queued": 2,
        "scheduled": 1,
        "running": 1,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 0,
    }
    assert told["by_queue"]["slow"]["scheduled"] == 1
    (worker,) = told["workers"]
    assert (worker["id"], worker["concurrency"], worker["jobs"]) == ("worker-shed-7", 2, ["c"])


def test_info_for_people_names_queues_states_and_workers(url: str) -> None:
    said(filled(url), "pause", "slow")
    text = said(url, "info")
    assert "slow (paused)" in text
    assert "the oldest waits for" in text
    assert "running" in text


def test_a_paused_queue_is_told_and_goes_on_when_resumed(url: str) -> None:
    said(filled(url), "pause")
    assert json.loads(said(url, "info", "--json"))["is_paused"] is True
    said(url, "resume")
    assert json.loads(said(url, "info", "--json"))["is_paused"] is False


def test_drain_says_what_still_runs_and_leaves_the_queue_paused(url: str) -> None:
    ended = run(filled(url), "drain", "--timeout", "0.1")
    assert ended.exit_code == 1
    assert "1 jobs still run" in str(ended.exception)
    assert json.loads(said(url, "info", "--json"))["is_paused"] is True


def test_drain_ends_at_once_when_nothing_runs(url: str) -> None:
    ended = run(url, "drain")
    assert ended.exit_code == 0
    assert "nothing runs" in ended.stderr


def test_failed_jobs_are_queued_again(url: str) -> None:
    assert said(filled(url), "retry-failed", "--queue", "slow") == "0 jobs queued again\n"
    assert said(url, "retry-failed", "--batch", "b") == "1 jobs queued again\n"
    assert status(url, "a").state is JobState.QUEUED


@pytest.mark.parametrize(
    ("job_id", "outcome"),
    [("d", "cancelled"), ("c", "cancelling"), ("b", "already_finished")],
)
def test_cancel_prints_what_really_happened(url: str, job_id: str, outcome: str) -> None:
    assert said(filled(url), "cancel", job_id) == f"{outcome}\n"


def test_cancel_of_a_batch_counts_what_happened(url: str) -> None:
    text = said(filled(url), "cancel", "--batch", "b")
    assert sorted(text.splitlines()) == ["1 cancelling", "2 already_finished", "2 cancelled"]


def test_a_batch_tells_how_far_it_is(url: str) -> None:
    assert said(filled(url), "batch", "b").startswith("40% of 5 jobs: ")
    told = json.loads(said(url, "batch", "b", "--json"))
    assert (told["total"], told["ended"], told["progress"]) == (5, 2, 0.4)


@pytest.mark.parametrize("arguments", [("cancel",), ("cancel", "a", "--batch", "b")])
def test_cancel_wants_one_thing_to_cancel(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = run(f"sqlite:///{tmp_path / 'queue.db'}", *arguments)
    assert ended.exit_code == 2
    assert "--batch" in ended.output


@pytest.mark.parametrize(
    "arguments", [("cancel", "nobody"), ("batch", "nobody"), ("resize", "nobody", "3")]
)
def test_what_nobody_knows_is_an_error_that_names_it(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = run(f"sqlite:///{tmp_path / 'queue.db'}", *arguments)
    assert ended.exit_code == 1
    assert "nobody" in str(ended.exception)


def test_resize_reaches_the_worker(url: str) -> None:
    said(filled(url), "resize", "worker-shed-7", "5")

    async def asked() -> int | None:
        async with open_queue(url) as queue:
            return (await queue.orders("worker-shed-7", [])).concurrency

    assert anyio.run(asked) == 5


def test_prune_forgets_what_ended(url: str) -> None:
    assert said(filled(url), "prune", "--keep", "1") == "2 jobs forgotten\n"


def test_the_default_is_the_queue_of_the_data_folder(tmp_path: Path) -> None:
    run_cli(tmp_path, "devices", "add", "camera")
    told = CliRunner().invoke(cli, ["queue", "--data", str(tmp_path), "info", "--json"])
    assert json.loads(told.stdout)["is_paused"] is False


def test_the_queue_may_be_named_before_or_after_the_command(url: str) -> None:
    filled(url)

    before = CliRunner().invoke(cli, ["queue", "--queue-url", url, "info", "--json"])
    after = CliRunner().invoke(cli, ["queue", "info", "--json", "--queue-url", url])

    assert json.loads(before.stdout)["by_queue"] == json.loads(after.stdout)["by_queue"] != {}


def test_a_queue_inside_a_server_is_not_made_up(tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        cli, ["queue", "--data", str(tmp_path), "--queue-url", "memory://", "info"]
    )
    assert ended.exit_code == 1
    assert "inside its server" in str(ended.exception)
