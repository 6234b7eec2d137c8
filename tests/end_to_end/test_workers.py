"""Workers of their own beside a server: on every backend, stopped, killed and steered."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from capturekit.cli.main import cli
from tests.made_pictures import picture
from tests.servers import START_S, Server, running_server, running_worker
from tests.servers_postgres import PostgresServer
from tests.servers_redis import running_redis

CODE = "4006381333931"


@pytest.fixture(params=["sql", "redis", "postgres"])
def queue_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the jobs are."""
    if request.param == "redis":
        with running_redis("valkey", tmp_path / "redis") as redis:
            yield redis.url
    elif request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        yield postgres.new_database()
    else:
        yield "sql://"


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so, or fail."""
    give_up_at = time.monotonic() + START_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"not within {START_S} s: {what}"
        time.sleep(0.05)


def info(server: Server) -> dict[str, list[dict[str, object]]]:
    told: dict[str, list[dict[str, object]]] = server.admin.get("/v1/admin/queue-info").json()
    return told


def has_workers(server: Server, count: int) -> Callable[[], bool]:
    def is_so() -> bool:
        names = [str(one["id"]) for one in info(server)["workers"]]
        return sum(name.startswith("worker-") for name in names) == count

    return is_so


def upload(server: Server, token: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        moment = f"2026-11-25T08:{number // 60:02}:{number % 60:02}Z"
        assert server.upload(token, picture(CODE), captured_at=moment).status_code == 200


def test_workers_process_what_a_server_takes(tmp_path: Path, queue_url: str) -> None:
    data = tmp_path / "data"
    with running_server(data, CAPTUREKIT_QUEUE_URL=queue_url, CAPTUREKIT_CONCURRENCY="0") as server:
        token = server.add_device("shelf")
        with (
            running_worker(data, CAPTUREKIT_QUEUE_URL=queue_url),
            running_worker(data, "--executor", "process", "--queue-url", queue_url),
        ):
            until(has_workers(server, 2), "two workers are listed")
            upload(server, token, 12)
            captures = server.wait_until_processed()
            assert [row["state"] for row in captures] == ["completed"] * 12
            assert server.stock() == {(CODE, "shelf"): 1}
        until(has_workers(server, 0), "workers that left are not listed")


def test_a_killed_workers_picture_is_processed_by_another(tmp_path: Path, queue_url: str) -> None:
    data = tmp_path / "data"
    settings = {
        "CAPTUREKIT_QUEUE_URL": queue_url,
        "CAPTUREKIT_JOB_LEASE_S": "2",
        "CAPTUREKIT_PIPELINE": "tests.slow_steps:hanging",
        "PYTHONPATH": str(Path.cwd()),
    }
    with running_server(data, CAPTUREKIT_CONCURRENCY="0", **settings) as server:
        token = server.add_device("shelf")
        with running_worker(data, **settings, TEST_HANGS="1") as worker:
            upload(server, token, 1)
            until(lambda: bool(info(server)["active"]["tasks"]), "the worker holds it")  # type: ignore[call-overload]
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        with running_worker(data, **settings):
            (capture,) = server.wait_until_processed()
        assert capture["state"] == "completed"


def test_a_full_queue_refuses_uploads_and_keeps_nothing(tmp_path: Path, queue_url: str) -> None:
    with running_server(
        tmp_path / "data",
        CAPTUREKIT_QUEUE_URL=queue_url,
        CAPTUREKIT_CONCURRENCY="0",
        CAPTUREKIT_MAX_QUEUED="3",
    ) as server:
        token = server.add_device("shelf")
        upload(server, token, 3)
        refused = server.upload(token, picture(CODE), captured_at="2026-11-25T09:00:00Z")
        assert refused.status_code == 503
        assert refused.json()["type"].endswith("queue-full")
        assert int(refused.headers["Retry-After"]) > 0
        again = server.upload(token, picture(CODE), captured_at="2026-11-25T08:00:00Z")
        assert again.json()["duplicate"] is True
        assert len(server.captures()) == 3


def test_a_worker_without_the_servers_data_says_so(tmp_path: Path) -> None:
    with (
        running_redis("valkey", tmp_path / "redis") as redis,
        running_worker(tmp_path / "elsewhere", "--queue-url", redis.url) as worker,
    ):
        assert worker.wait(START_S) == 1


def test_a_worker_leaves_when_nothing_is_left(tmp_path: Path, queue_url: str) -> None:
    data = tmp_path / "data"
    with running_server(data, CAPTUREKIT_QUEUE_URL=queue_url, CAPTUREKIT_CONCURRENCY="0") as server:
        token = server.add_device("shelf")
        upload(server, token, 3)
        with running_worker(data, "--queue-url", queue_url, "--until-empty") as worker:
            assert worker.wait(START_S) == 0
        assert {row["state"] for row in server.captures()} == {"completed"}


def test_the_queue_command_steers_running_workers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        running_server(data, CAPTUREKIT_CONCURRENCY="0") as server,
        running_worker(data),
    ):
        token = server.add_device("shelf")
        until(has_workers(server, 1), "the worker is listed")
        (worker,) = info(server)["workers"]
        queue(data, "resize", str(worker["id"]), "3")
        until(lambda: info(server)["workers"][0]["concurrency"] == 3, "it runs three at once")
        queue(data, "drain")
        upload(server, token, 1)
        assert server.captures()[0]["state"] == "pending"
        queue(data, "resume")
        server.wait_until_processed()


def queue(data: Path, *arguments: str) -> None:
    """``capturekit queue`` on the data folder."""
    ended = CliRunner().invoke(cli, ["queue", "--data", str(data), *arguments])
    assert ended.exit_code == 0, ended.output
