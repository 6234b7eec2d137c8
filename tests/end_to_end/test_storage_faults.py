"""Disks that are full, read-only, or hold a database from another time."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import DidNotStartError, Server, run_cli, running_server

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def small_disk() -> None:
    """A file system of its own for a process: Linux with user namespaces, or root."""
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must allow mount namespaces: unshare --map-root-user --mount")
        pytest.skip("this machine allows no mount namespaces")


@pytest.mark.small_disk
@pytest.mark.usefixtures("small_disk")
def test_a_full_and_a_read_only_disk_refuse_and_recover(tmp_path: Path) -> None:
    scenario = Path(__file__).with_name("small_disk_scenario.py")
    command = [*NAMESPACE, sys.executable, str(scenario), str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert (seen["before"], seen["after"]) == (200, 200)
    assert (seen["full"], seen["full_ready"]) == (507, 503)
    assert seen["full_type"] == "urn:capturekit:problem:storage-full"
    assert seen["read_only"] == 1
    assert "cannot be written" in seen["read_only_log"]
    assert "Traceback" not in seen["read_only_log"]
    assert seen["states"] == ["completed", "completed"]
    assert seen["stock"] == 3
    assert seen["leftovers"] == []
    assert f"id={seen['full_id']}" in seen["log"]
    assert "Traceback" not in seen["log"]


PAGES_LEFT = os.environ.get("CAPTUREKIT_TEST_PAGES_LEFT", "1 80 6").split()
"""First, last and step; ``0 120 1`` lets each single write fail."""


@pytest.mark.small_disk
@pytest.mark.usefixtures("small_disk")
@pytest.mark.timeout(300)
def test_a_disk_that_is_full_at_any_write_loses_nothing(tmp_path: Path) -> None:
    scenario = Path(__file__).with_name("disk_at_each_write.py")
    command = [*NAMESPACE, sys.executable, str(scenario), str(tmp_path), *PAGES_LEFT]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["completed"] == told["acknowledged"] == told["stored"]
    assert (told["wrong"], told["faults"], told["lost"], told["leftovers"]) == ({}, [], [], [])
    # Some uploads were refused, some were taken whose processing then failed, and some went well.
    assert {"upload: StorageFull", "job: scheduled", "job: succeeded"} <= told["seen"].keys()


def _start_refused(data: Path, **environment: str) -> str:
    server = Server(data, environment)
    try:
        with pytest.raises(DidNotStartError) as refused:
            server.start()
    finally:
        if server.url:
            server.end()
    assert refused.value.code == 1
    assert "Traceback" not in refused.value.log
    return refused.value.log


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    assert "is a file" in _start_refused(tmp_path / "data")


def test_a_database_from_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    run_cli(tmp_path, "db", "upgrade")
    with sqlite3.connect(tmp_path / "capturekit.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
    connection.close()
    before = (tmp_path / "capturekit.db").read_bytes()
    assert "9999_from_the_future" in _start_refused(tmp_path)
    assert (tmp_path / "capturekit.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "capturekit.db").write_bytes(b"this is no database " * 500)
    assert "capturekit:" in _start_refused(tmp_path)


@pytest.mark.parametrize("name", ["device", "sqlite_autoindex_device_1", "move"])
def test_corrupt_pages_are_told_at_the_start_and_by_the_doctor(tmp_path: Path, name: str) -> None:
    run_cli(tmp_path, "devices", "add", "camera")
    file = tmp_path / "capturekit.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = connection.execute(query, [name]).fetchone()
    connection.close()
    content = bytearray(file.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = bytes(range(256)) * 16
    file.write_bytes(content)

    assert "capturekit doctor" in _start_refused(tmp_path)
    command = [sys.executable, "-m", "capturekit", "doctor", "--data", str(tmp_path)]
    looked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert looked.returncode == 1
    assert "capturekit restore" in looked.stdout
    assert "Traceback" not in looked.stderr


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path / "one") as server:
        port = server.url.rpartition(":")[2]
        command = [sys.executable, "-m", "capturekit", "serve", "--port", port]
        command += ["--data", str(tmp_path / "two")]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in ended.stderr


def test_a_database_of_no_kind_we_know_is_refused_without_its_password(tmp_path: Path) -> None:
    text = _start_refused(tmp_path, CAPTUREKIT_DATABASE_URL="mysql://me:secret@localhost/captures")
    assert "CAPTUREKIT_DATABASE_URL" in text
    assert "secret" not in text


def test_a_redis_url_that_is_none_is_refused_without_its_password(tmp_path: Path) -> None:
    text = _start_refused(tmp_path, CAPTUREKIT_REDIS_URL="rediz://:secret@localhost")
    assert "CAPTUREKIT_REDIS_URL" in text
    assert "secret" not in text


def test_the_database_is_as_the_code_expects(tmp_path: Path) -> None:
    run_cli(tmp_path, "db", "upgrade")
    run_cli(tmp_path, "db", "check")


def test_the_admin_token_is_shown_once_and_works(tmp_path: Path) -> None:
    import httpx2

    server = Server(tmp_path, {"CAPTUREKIT_ADMIN_TOKEN": ""})
    server.start()
    (line,) = (line for line in server.log if line.startswith("capturekit admin token: "))
    token = line.split()[-1]
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.get(f"{server.url}/v1/admin/stats", headers=headers).status_code == 200
    assert server.end() == 0
    assert token not in "".join(path.read_text("latin-1") for path in tmp_path.glob("*.db*"))
    server.log.clear()
    server.start()
    assert not any("admin token" in line for line in server.log)
    server.end()
