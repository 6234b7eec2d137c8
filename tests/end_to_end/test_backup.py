"""A backup made while uploads go on is whole, and restores to either engine."""

import gzip
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.made_pictures import picture
from tests.servers import Server, running_server
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.timeout(180)

CODES = ("4006381333931", "5901234123457", "8711253001202")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "capturekit", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _made(postgres: PostgresServer, name: str) -> Mapping[str, str]:
    postgres.sql(f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    return {"CAPTUREKIT_DATABASE_URL": postgres.url(name)}


@contextmanager
def uploading(server: Server, token: str) -> Iterator[list[str]]:
    """Two cameras at work in the block, from when some uploads were acknowledged; their ids."""
    acknowledged: list[str] = []
    has_some, is_over = threading.Event(), threading.Event()

    def upload(code: str) -> None:
        for second in itertools.count():
            at = f"2026-11-25T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
            answer = server.upload(token, picture(code), captured_at=at)
            if answer.status_code == 200:
                acknowledged.append(answer.json()["capture_id"])
            if len(acknowledged) > 3:
                has_some.set()
            if is_over.is_set():
                return

    with ThreadPoolExecutor(2) as threads:
        try:
            for code in CODES[:2]:
                threads.submit(upload, code)
            assert has_some.wait(30)
            yield acknowledged
        finally:
            is_over.set()


@pytest.mark.parametrize(
    ("engine", "onto"), [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite")]
)
def test_a_backup_made_while_uploads_go_on_restores(
    postgres: PostgresServer, tmp_path: Path, engine: str, onto: str
) -> None:
    source = _made(postgres, "backed_up") if engine == "postgres" else {}
    target = _made(postgres, "restored") if onto == "postgres" else {}
    data, folder, new = str(tmp_path / "data"), str(tmp_path / "backup"), str(tmp_path / "new")
    off = {"CAPTUREKIT_RATE_LIMITS": "off"}
    with running_server(Path(data), **source, **off) as server:
        added = command(
            "devices", "add", "shelf", "--exhaustive", "--json", "--data", data, **source
        )
        token = json.loads(added.stdout)["token"]
        with uploading(server, token) as acknowledged:
            before = set(acknowledged)
            for _ in range(2):
                made = command("backup", folder, "--data", data, "--json", **source)
                assert (made.returncode, made.stderr) == (0, "")
                assert json.loads(made.stdout)["missing"] == []

    done = command("restore", folder, "--data", new, "--verify", **target)
    assert done.returncode == 0, done.stderr
    with running_server(Path(new), **target, **off) as server:
        found = {str(row["capture_id"]) for row in server.wait_until_processed()}
        assert before <= found <= set(acknowledged)
        assert server.upload(token, picture(CODES[2])).status_code == 200
        assert [row["error"] for row in server.wait_until_processed() if row["error"]] == []
        assert (CODES[2], "shelf") in server.stock()
    twice = command("restore", folder, "--data", new, **target)
    assert twice.returncode == 1
    assert "already" in twice.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backup with a picture."""
    with running_server(tmp_path / "data") as server:
        server.upload(server.add_device("shelf"), picture(CODES[0]))
        server.wait_until_processed()
        backup = tmp_path / "backup"
        assert command("backup", str(backup), "--data", str(server.data)).returncode == 0
    return backup


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _other_rows(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"shelf", b"other")))


def _newer(path: Path) -> None:
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


@pytest.mark.parametrize(
    ("pattern", "damage", "told"),
    [
        ("rows-*/capture.jsonl.gz", _flip, "capture.jsonl.gz"),
        ("rows-*/device.jsonl.gz", _other_rows, "device.jsonl.gz"),
        ("rows-*/run.jsonl.gz", Path.unlink, "run.jsonl.gz"),
        ("blobs/??/*", _flip, "blobs/"),
        ("blobs/??/*", Path.unlink, "blobs/"),
        ("manifest.json", _flip, "manifest.json"),
        ("manifest.json", Path.unlink, "no whole backup"),
        ("manifest.json", _newer, "newer"),
    ],
)
def test_a_backup_that_is_not_whole_is_refused_by_file(
    folder: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], object], told: str
) -> None:
    damage(min(folder.glob(pattern)))
    done = command("restore", str(folder), "--data", str(tmp_path / "new"))
    assert done.returncode == 1
    assert told in done.stderr
    assert not list((tmp_path / "new").glob("capturekit.db")) or "blobs" in told


def test_a_backup_that_fails_half_way_leaves_the_earlier_one_whole(
    folder: Path, tmp_path: Path
) -> None:
    before = (folder / "manifest.json").read_bytes()
    with running_server(tmp_path / "data") as server:
        device = server.add_device("other")
        server.upload(device, picture(CODES[1]))
        server.wait_until_processed()
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400));"
        "from capturekit.cli.main import main; main()"
    )
    arguments = ("backup", str(folder), "--data", str(tmp_path / "data"))
    failed = subprocess.run(
        [sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1, failed.stdout
    assert failed.stderr.startswith("capturekit: ")
    assert (folder / "manifest.json").read_bytes() == before
    restored = command("restore", str(folder), "--data", str(tmp_path / "new"), "--verify")
    assert restored.returncode == 0, restored.stderr


def _killed(delay_s: float, *arguments: str) -> int:
    """The exit code of a command that is killed after so long, if it has not ended by then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "capturekit", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def test_a_backup_or_restore_that_is_killed_can_be_made_again(tmp_path: Path) -> None:
    data, backup = str(tmp_path / "data"), str(tmp_path / "backup")
    with running_server(tmp_path / "data") as server:
        token = server.add_device("shelf")
        for code in CODES:
            server.upload(token, picture(code))
        server.wait_until_processed()
    began = time.monotonic()
    assert command("backup", backup, "--data", data).returncode == 0
    took_s = time.monotonic() - began

    # The first half of it is the start of the interpreter.
    delays = [took_s * (0.5 + part / 8) for part in range(4)]
    backups = [_killed(delay, "backup", backup, "--data", data) for delay in delays]
    restores = []
    for number, delay in enumerate(delays):
        new = tmp_path / f"new-{number}"
        restores.append(_killed(delay, "restore", backup, "--data", str(new)))
        again = command("restore", backup, "--data", str(new), "--verify")
        if again.returncode != 0:
            assert "already" in again.stderr
            assert command("doctor", "--data", str(new)).returncode == 0
        with closing(sqlite3.connect(new / "capturekit.db")) as database:
            assert database.execute("SELECT count(*) FROM capture").fetchone() == (3,)
    assert -signal.SIGKILL in backups
    assert -signal.SIGKILL in restores
