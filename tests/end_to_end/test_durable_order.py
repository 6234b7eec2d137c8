"""The order of system calls behind an answer, seen from outside by strace.

What is acknowledged is on the disk: blob, its name, the log of the database, and only then the
answer. A kill cannot show this, as the kernel keeps what a dead process wrote; a power cut can.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.made_pictures import picture
from tests.servers import Server
from tests.servers_postgres import PostgresServer

CODE = "4006381333931"
CALLS = (
    "write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,mkdir,sendto,sendmsg,recvfrom"
)
END_S = 20

ORDER = ["write blob", "sync blob", "rename blob", "sync folder", "write log", "sync log", "answer"]
NEW = ["make folder", "sync blobs", *ORDER]
"""Of the first picture in a folder."""
SEEN_BEFORE = ["sync folder", "write log", "sync log", "answer"]
"""Of a picture that is there already, under another time."""

NO_FLUSH = "import capturekit.measuring; capturekit.measuring.FLUSH_S = 3600\n"
"""What was counted would be written now and then, without a sync."""

ON_POSTGRES = [*NEW[:6], "commit", "committed", "answer"]

SIGNS = (
    ("write blob", r"^write\(\d+<[^>]*/blobs/\w\w/[^>]*\.part>"),
    ("sync blob", r"^fsync\(\d+<[^>]*/blobs/\w\w/[^>]*\.part>"),
    ("rename blob", r"^rename\w*\(.*/blobs/\w\w/.*\.part"),
    ("sync folder", r"^fsync\(\d+<[^>]*/blobs/\w\w>"),
    ("make folder", r"^mkdir\(.*/blobs/\w\w\""),
    ("sync blobs", r"^fsync\(\d+<[^>]*/blobs>"),
    ("write log", r"^pwrite64\(\d+<[^>]*-wal>"),
    ("sync log", r"^f(data)?sync\(\d+<[^>]*-wal>"),
    ("commit", r"^(write|send\w+)\(\d+<[^>]*>, .*COMMIT"),
    ("committed", r"^(read|recv\w+)\(\d+<[^>]*>, .*COMMIT"),
    ("answer", r"^(write|writev|send\w+)\(\d+<[^>]*socket.*HTTP/1.1 200"),
)


@pytest.fixture(scope="module")
def strace() -> str:
    """The program; without it the test is skipped, on CI it fails."""
    found = shutil.which("strace")
    works = found and subprocess.run([found, "true"], check=False, capture_output=True)
    if found and works and works.returncode == 0:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("CI must have strace and may trace: apt-get install strace")
    pytest.skip("no strace on this machine, or it may not trace")


class Traced(Server):
    """A server that takes pictures and does not process them, so that only uploads write."""

    def __init__(self, folder: Path, strace: str, plant: str = "", **environment: str) -> None:
        (folder / "sitecustomize.py").write_text(NO_FLUSH + plant)
        quiet = {"CAPTUREKIT_RATE_LIMITS": "off", "CAPTUREKIT_CONCURRENCY": "0"}
        where = {"PYTHONPATH": str(folder), **quiet, **environment}
        super().__init__(folder / "data", where)
        self._strace = strace
        self._trace = folder / "trace"

    def traced(self, token: str, content: bytes, **fields: str) -> list[str]:
        """What an upload does, by the names of ``SIGNS``, repetitions in a row left out."""
        with self._tracing():
            assert self.upload(token, content, **fields).status_code == 200
        names = [name for line in self._lines() if (name := _name(line))]
        return [name for n, name in enumerate(names) if n == 0 or name != names[n - 1]]

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        options = ["-f", "-y", "-s", "40", "-e", f"trace={CALLS}", "-o", str(self._trace)]
        tracer = subprocess.Popen(
            [self._strace, *options, "-p", str(self.process.pid)], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.terminate()
            tracer.communicate(timeout=END_S)

    def _lines(self) -> list[str]:
        """Calls in the order in which they ended: a sync counts when it is done."""
        begun: dict[str, str] = {}
        ended = []
        for line in self._trace.read_text(errors="replace").splitlines():
            pid, _, call = line.partition(" ")
            call = call.strip()
            if call.endswith("<unfinished ...>"):
                begun[pid] = call
            elif call.startswith("<... "):
                ended.append(begun.pop(pid, ""))
            else:
                ended.append(call)
        return ended


def _name(call: str) -> str:
    return next((name for name, sign in SIGNS if re.search(sign, call)), "")


@contextmanager
def traced_server(
    folder: Path, strace: str, plant: str = "", **environment: str
) -> Iterator[Traced]:
    server = Traced(folder, strace, plant, **environment)
    server.start()
    try:
        yield server
    finally:
        server.end()


def _two_pictures_of_one_folder() -> tuple[bytes, bytes]:
    """Two with the same first byte of their SHA-256: bytes after a JPEG's end are no picture."""
    import hashlib

    first = picture(CODE)
    wanted = hashlib.sha256(first).digest()[0]
    for number in range(100_000):
        second = first + b"%d" % number
        if hashlib.sha256(second).digest()[0] == wanted:
            return first, second
    raise AssertionError


def test_an_answer_is_sent_after_all_of_it_is_on_the_disk(tmp_path: Path, strace: str) -> None:
    first, second = _two_pictures_of_one_folder()
    with traced_server(tmp_path, strace) as server:
        token = server.add_device("camera")
        new = server.traced(token, first, captured_at="2026-11-25T08:00:00Z")
        beside = server.traced(token, second, captured_at="2026-11-25T08:00:01Z")
        again = server.traced(token, first, captured_at="2026-11-25T08:00:02Z")
        duplicate = server.traced(token, first, captured_at="2026-11-25T08:00:00Z")
    assert new == NEW
    assert beside == ORDER
    assert again == SEEN_BEFORE
    # It says when the device was last seen.
    assert duplicate == SEEN_BEFORE


def test_on_postgres_it_is_sent_after_the_server_said_that_it_committed(
    tmp_path: Path, strace: str, postgres: PostgresServer
) -> None:
    url = postgres.new_database()
    with traced_server(tmp_path, strace, CAPTUREKIT_DATABASE_URL=url) as server:
        command = [sys.executable, "-m", "capturekit", "devices", "add", "camera", "--json"]
        where = {**os.environ, "CAPTUREKIT_DATABASE_URL": url}
        added = subprocess.check_output([*command, "--data", str(server.data)], env=where)
        seen = server.traced(json.loads(added)["token"], picture(CODE))
    # Before, it was asked whose token that is. Others than the upload commit now and then.
    told: list[str] = []
    for name in seen[seen.index("make folder") :]:
        told.append(name)
        if told[-4:] == ["commit", "committed"] * 2:
            del told[-2:]
    assert told == ON_POSTGRES


PLANTS = {
    "the blob is renamed before it is synced": """
import os
fsync = os.fsync
late = []
def rename(source, target, rename=os.rename):
    rename(source, target)
    while late:
        fsync(late.pop())
def told(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part"):
        late.append(os.dup(descriptor))
    else:
        fsync(descriptor)
os.fsync, os.rename = told, rename
""",
    "the folder is not synced": """
import os, stat
fsync = os.fsync
def told(descriptor):
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        fsync(descriptor)
os.fsync = told
""",
    "the log is not synced": """
import capturekit.database.sqlite as module
source = open(module.__file__).read().replace('"FULL" if self._is_synced else "NORMAL"', '"OFF"')
exec(compile(source, module.__file__, "exec"), module.__dict__)
import capturekit.database
capturekit.database.SqliteDatabase = module.SqliteDatabase
""",
    "the answer does not wait for the commit": """
import capturekit.database.sqlite as module
source = open(module.__file__).read().replace(
    "            self._commit(group)\\n            gathering",
    "            self._answer_first(group)\\n            gathering")
exec(compile(source, module.__file__, "exec"), module.__dict__)
def answer_first(self, group):
    import glob, sys, time
    if not glob.glob(sys.argv[-1] + "/blobs/??"):
        self._commit(group)
        return
    with self._connection.begin():
        self._run_group(self._connection, group)
        module._tell(group)
        time.sleep(0.3)
module.SqliteDatabase._answer_first = answer_first
import capturekit.database
capturekit.database.SqliteDatabase = module.SqliteDatabase
""",
}


FOUND = {
    "the blob is renamed before it is synced": [*NEW[:3], *NEW[4:]],
    "the folder is not synced": [*NEW[:1], *NEW[2:5], *NEW[6:]],
    "the log is not synced": [*NEW[:7], "answer"],
    "the answer does not wait for the commit": [*NEW[:6], "answer"],
}
"""What is done until the answer. A blob that is synced late has lost its temporary name."""


@pytest.mark.parametrize("plant", list(PLANTS))
def test_a_planted_fault_is_seen(tmp_path: Path, strace: str, plant: str) -> None:
    with traced_server(tmp_path, strace, PLANTS[plant]) as server:
        seen = server.traced(server.add_device("camera"), picture(CODE))
    assert seen[: seen.index("answer") + 1] == FOUND[plant]
