"""The whole application with its captures, stock and jobs in Postgres."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from capturekit.cli.main import cli
from capturekit.database import Database
from capturekit.store import migrations
from tests.made_pictures import picture
from tests.servers import DidNotStartError, Server, running_server, running_worker
from tests.servers_postgres import PostgresServer

CODE = "4006381333931"
VARIABLE = "CAPTUREKIT_DATABASE_URL"


@pytest.fixture
def url(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, in the environment of every command and server."""
    url = postgres.new_database()
    monkeypatch.setenv(VARIABLE, url)
    return url


@pytest.mark.usefixtures("url")
def test_uploads_become_stock_and_survive_a_kill(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_CONCURRENCY="0") as server:
        token = server.add_device("shelf", "--exhaustive")
        content = picture(CODE)

        def upload(second: int) -> tuple[int, str]:
            at = f"2026-11-25T08:00:{second:02}Z"
            answer = server.upload(token, content, captured_at=at)
            return answer.status_code, answer.json()["capture_id"]

        with ThreadPoolExecutor(8) as threads:
            equal = set(threads.map(upload, [0] * 16))
        assert len(equal) == 1, equal
        others = {upload(second) for second in range(1, 5)}
        with running_worker(tmp_path):
            done = server.wait_until_processed()
        assert {row["capture_id"] for row in done} == {name for _, name in equal | others}
        assert [row["error"] for row in done] == [None] * 5
        assert server.stock() == {(CODE, "shelf"): 1}

        server.end(signal.SIGKILL)
        server.start()
        assert len(server.captures()) == 5
        storage = server.admin.get("/v1/admin/stats").json()["storage"]
        assert storage["database_bytes"] > 2**20
    assert not list(tmp_path.glob("*.db*"))


@pytest.mark.usefixtures("url")
def test_two_servers_start_at_once_on_an_empty_database(tmp_path: Path) -> None:
    pictures = (tmp_path / "pictures").as_uri()

    def serve(name: str) -> int:
        with running_server(tmp_path / name, CAPTUREKIT_BLOB_URL=pictures) as server:
            return server.admin.get("/readyz").status_code

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(serve, ["a", "b"])) == [200, 200]


def test_who_would_see_other_pictures_is_refused_and_told_why(tmp_path: Path, url: str) -> None:
    with running_server(tmp_path / "first"):
        pass
    for name in ("second", "second"):
        with pytest.raises(DidNotStartError, match="share the data folder"):
            Server(tmp_path / name, {}).start()
    command = [sys.executable, "-m", "capturekit", "worker", "--data", str(tmp_path / "other")]
    worker = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert worker.returncode == 1
    assert "share the data folder" in worker.stderr

    # Pictures of another database.
    with (
        pytest.raises(DidNotStartError, match="belong to another database"),
        running_server(
            tmp_path / "third",
            CAPTUREKIT_DATABASE_URL=f"sqlite:///{tmp_path}/other.db",
            CAPTUREKIT_BLOB_URL=(tmp_path / "first" / "blobs").as_uri(),
        ),
    ):
        pass
    assert url


def test_an_old_database_is_upgraded_when_it_is_told_to(tmp_path: Path, url: str) -> None:
    async def make_old() -> None:
        async with Database(url) as database:
            await database.write(lambda connection: migrations.upgrade_within(connection, "0003"))

    anyio.run(make_old)
    with (
        pytest.raises(DidNotStartError, match="run `capturekit db upgrade`"),
        running_server(tmp_path),
    ):
        pass

    upgraded = CliRunner().invoke(cli, ["db", "upgrade", "--data", str(tmp_path)])
    assert upgraded.output == f"the database is at revision {migrations.head()}\n"
    checked = CliRunner().invoke(cli, ["db", "check", "--data", str(tmp_path)])
    assert (checked.exit_code, checked.output) == (0, "the database is as expected\n")
    with running_server(tmp_path) as server:
        assert server.admin.get("/readyz").status_code == 200


def test_a_server_that_is_away_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "postgresql://someone:secret-word@127.0.0.1:1/none")

    told = CliRunner().invoke(cli, ["stock", "--data", str(tmp_path)])

    assert told.exit_code == 1
    assert "secret-word" not in f"{told.output}{told.exception}"
    assert VARIABLE in os.environ
