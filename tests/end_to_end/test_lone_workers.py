"""``capturekit worker`` where it would work on what no server sees: it refuses, and says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import run_cli, running_server, running_worker
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.timeout(120)


def refusal(data: Path, **environment: str) -> str:
    """What the worker says when it ends by itself."""
    ended = subprocess.run(
        [sys.executable, "-m", "capturekit", "worker", "--data", str(data)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("queue_url", ["sql://", "redis://127.0.0.1:1/0"])
def test_without_a_database_it_makes_none(tmp_path: Path, queue_url: str) -> None:
    said = refusal(tmp_path / "mistyped", CAPTUREKIT_QUEUE_URL=queue_url)
    assert f"no capturekit database at {tmp_path}/mistyped/capturekit.db" in said
    assert "start the server first" in said
    assert not (tmp_path / "mistyped").exists()


def test_a_queue_in_memory_is_no_queue_for_it(tmp_path: Path) -> None:
    assert "which a worker process cannot see" in refusal(
        tmp_path, CAPTUREKIT_QUEUE_URL="memory://"
    )


def test_a_queue_in_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    run_cli(tmp_path, "devices", "add", "camera")
    said = refusal(tmp_path, CAPTUREKIT_QUEUE_URL=f"sqlite:////{tmp_path}/queue.db")
    assert f"no queue at {tmp_path}/queue.db" in said


def test_it_does_not_bring_pictures_of_its_own_to_a_new_database(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    where = {"CAPTUREKIT_DATABASE_URL": postgres.new_database()}
    assert "no server has used this database yet" in refusal(tmp_path / "lone", **where)
    with running_server(tmp_path / "server", **where):
        said = refusal(tmp_path / "lone", **where)
        assert "share the data folder of the server" in said


def test_it_may_begin_a_moment_before_the_server(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with running_worker(tmp_path / "data") as worker, running_server(tmp_path / "data") as server:
        workers: list[object] = []
        while len(workers) < 2 and worker.poll() is None:
            workers = server.admin.get("/v1/admin/queue-info").json()["workers"]
        assert len(workers) == 2
