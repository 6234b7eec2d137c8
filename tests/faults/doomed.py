"""A real server that dies (-9) at a named point of ingest or apply.

``DoomedServer`` talks with one process of its own (this file, run as a module), which has
imported everything and forks a server for each trial. In the fork what writes, syncs, renames,
commits and answers is wrapped by name: the product's code is as it is. Points count only while
the file ``armed`` is there, so that neither the start nor the preparations die.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.servers import ADMIN_TOKEN, Server

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 20.0
DEATH_S: Final = 20.0
NOTHING: Final = "nothing"
OTHERS: Final = ("outlet", "worker", "webhook_attempt")
"""Tables that are written to by the clock, and not on the way of a picture."""
LIFE_S: Final = 600
"""A server that nobody ends ends itself."""


class DoomedServer(Server):
    """A server in a fork. Each start may name the point at which it dies."""

    def __init__(self, data: Path, folder: Path, **environment: str) -> None:
        super().__init__(data, environment)
        self._folder = folder
        self.armed = folder / "armed"
        self.journal = folder / "journal"
        self._own = {
            "CAPTUREKIT_ADMIN_TOKEN": ADMIN_TOKEN,
            "CAPTUREKIT_RATE_LIMITS": "off",
            "CAPTUREKIT_CONCURRENCY": "1",
            **environment,
        }
        self._foreman = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.doomed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    def start(self, die_at: str = "") -> None:
        """Start it and wait until it listens."""
        self.journal.unlink(missing_ok=True)
        log = self._folder / "server.log"
        log.unlink(missing_ok=True)
        self._ask("start", str(self.data), str(self._folder), self._own, die_at)
        deadline = time.monotonic() + START_S
        while not self.url:
            text = log.read_text() if log.exists() else ""
            for line in text.splitlines():
                if line.startswith("capturekit listening on "):
                    self.url = line.split()[-1]
            assert time.monotonic() < deadline, text
            # Another process writes the file; bounded by the deadline.
            time.sleep(0.005)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        self.admin = httpx2.Client(base_url=self.url, headers=headers, timeout=20)

    def upload(self, token: str, picture: bytes, **fields: str) -> httpx2.Response:
        """As a camera does, by a connection that is open: a new one costs more than the rest."""
        return self.admin.post(
            "/v1/ingest",
            files={"image": ("picture.jpg", picture, "image/jpeg")},
            data=fields,
            headers={"Authorization": f"Bearer {token}"},
        )

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self._ask("signal", int(signal_number))
        return self.wait_for_death()

    def wait_for_death(self) -> int:
        """The exit code, once it has ended; within ``DEATH_S``."""
        code: int = self._ask("wait")
        self.admin.close()
        self.url = ""
        return code

    def points(self) -> list[str]:
        """Those that were reached while it was armed, in order."""
        return self.journal.read_text().splitlines()

    def close(self) -> None:
        """End the foreman, and with it any server."""
        assert self._foreman.stdin is not None
        assert self._foreman.stdout is not None
        self._foreman.stdin.close()
        self._foreman.wait(DEATH_S)
        self._foreman.stdout.close()

    def _ask(self, *what: object) -> Any:  # noqa: ANN401  # JSON
        assert self._foreman.stdin is not None
        assert self._foreman.stdout is not None
        self._foreman.stdin.write(json.dumps(what) + "\n")
        self._foreman.stdin.flush()
        answer = self._foreman.stdout.readline()
        assert answer, "the foreman has died"
        return json.loads(answer)


@contextmanager
def doomed_server(data: Path, folder: Path, **environment: str) -> Iterator[DoomedServer]:
    """One that is not started yet; it is ended when the block is left."""
    server = DoomedServer(data, folder, **environment)
    try:
        yield server
    finally:
        server.close()


# The foreman


class _Foreman:
    def __init__(self) -> None:
        self._pid = 0

    def start(self, data: str, folder: str, environment: dict[str, str], die_at: str) -> int:
        self._pid = os.fork()
        if self._pid == 0:
            _be_server(data, Path(folder), environment, die_at)
        return self._pid

    def signal(self, number: int) -> int:
        os.kill(self._pid, number)
        return 0

    def wait(self) -> int:
        deadline = time.monotonic() + DEATH_S
        found, status = os.waitpid(self._pid, os.WNOHANG)
        while not found and time.monotonic() < deadline:
            time.sleep(0.002)
            found, status = os.waitpid(self._pid, os.WNOHANG)
        if not found:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            return 1000
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def serve(self) -> None:
        try:
            for line in sys.stdin:
                name, *arguments = json.loads(line)
                print(json.dumps(getattr(self, name)(*arguments)), flush=True)
        finally:
            if self._pid:
                self.signal(signal.SIGKILL)
                self.wait()


def _be_server(data: str, folder: Path, environment: dict[str, str], die_at: str) -> None:
    """Be a server. Never returns."""
    from capturekit.cli.main import cli

    code = 1
    try:
        signal.alarm(LIFE_S)
        log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, target in ((0, nothing), (1, nothing), (2, log)):
            os.dup2(target, number)
        os.environ.update(environment)
        wrap(_Points(folder, die_at).reach)
        cli(["serve", "--port", "0", "--data", data], standalone_mode=False)
        code = 0
    finally:
        os._exit(code)


# The points


class _Points:
    """Counts how often each point is reached, tells the journal, and dies at one."""

    def __init__(self, folder: Path, die_at: str) -> None:
        self._armed = folder / "armed"
        self._die_at = die_at
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._journal = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def reach(self, name: str) -> None:
        if name.endswith(NOTHING) or not self._armed.exists():
            return
        with self._lock:
            self._counts[name] += 1
            label = f"{name}, {self._counts[name]}"
            os.write(self._journal, f"{label}\n".encode())
            if label == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)


def wrap(reach: Callable[[str], None]) -> None:
    """Have ``reach`` told before and after what a kill may come between."""
    _wrap_files(reach)
    _wrap_database(reach)
    _wrap_answer(reach)


def _wrap_files(reach: Callable[[str], None]) -> None:
    fsync, rename = os.fsync, os.rename

    def told_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        what = "folder" if path.is_dir() else "blob"
        reach(f"before fsync of {what}")
        fsync(descriptor)
        reach(f"after fsync of {what}")

    def told_rename(source: str, target: str) -> None:
        reach("before rename of blob")
        rename(source, target)
        reach("after rename of blob")

    def told_open(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".part"):
            reach("before write of blob")

    os.fsync, os.rename = told_fsync, told_rename  # type: ignore[assignment]
    sys.addaudithook(told_open)


def _wrap_database(reach: Callable[[str], None]) -> None:
    from psycopg import Cursor
    from sqlalchemy import Connection, Engine, event
    from sqlalchemy.engine.default import DefaultDialect

    from capturekit.database import prepared

    writes = _Writes(reach)
    commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit
    execute, execute_prepared = Cursor.execute, prepared._execute  # noqa: SLF001

    def told_commit(self: DefaultDialect, dbapi: Any) -> None:  # noqa: ANN401  # any driver's
        name = writes.commit()
        reach(f"before commit of {name}")
        commit(self, dbapi)
        reach(f"after commit of {name}")

    def told_execute(self: Any, query: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401  # psycopg's
        writes.by_driver(str(query))
        return execute(self, query, *more, **named)

    def told_prepared(connection: Connection, sql: str, values: object) -> prepared.Cursor:
        writes.before(None, None, sql)
        cursor = execute_prepared(connection, sql, values)
        writes.after(None, None, sql)
        return cursor

    event.listen(Engine, "connect", writes.connected)
    event.listen(Engine, "before_cursor_execute", writes.before)
    event.listen(Engine, "after_cursor_execute", writes.after)
    DefaultDialect.do_commit = told_commit  # type: ignore[method-assign]
    Cursor.execute = told_execute  # type: ignore[method-assign]
    prepared._execute = told_prepared  # noqa: SLF001  # SQLAlchemy does not hear of these


class _Writes:
    """Tells of statements that write; those of each thread, as each has its transaction."""

    def __init__(self, reach: Callable[[str], None]) -> None:
        self._reach = reach
        self._last = threading.local()

    def connected(self, dbapi: Any, _record: object) -> None:  # noqa: ANN401  # any driver's
        if hasattr(dbapi, "set_trace_callback"):
            dbapi.set_trace_callback(self.by_driver)

    def before(self, *arguments: object) -> None:
        name = _write_of(str(arguments[2]))
        if name and not name.endswith(" job"):
            self._reach(f"before {name}")

    def after(self, *arguments: object) -> None:
        name = _write_of(str(arguments[2]))
        if name and not name.endswith(" job"):
            self._last.name = name
            self._reach(f"after {name}")

    def by_driver(self, statement: str) -> None:
        """The queue's statements go past SQLAlchemy; only their beginning shows."""
        name = _write_of(statement)
        if name.endswith(" job"):
            self._last.name = name
            self._reach(f"before {name}")

    def commit(self) -> str:
        """The last write of the transaction that ends."""
        name: str = getattr(self._last, "name", "") or NOTHING
        self._last.name = ""
        return name


def _write_of(statement: str) -> str:
    """Such as ``INSERT capture``; empty for what only reads."""
    words = statement.replace('"', "").split()
    verb = words[0].upper() if words else ""
    if verb == "WITH":
        writes = [n for n, word in enumerate(words) if word in ("INSERT", "UPDATE", "DELETE")]
        words = words[writes[-1] :] if writes else words
        verb = words[0].upper()
    position = {"INSERT": 2, "DELETE": 2, "UPDATE": 1}.get(verb)
    table = words[position] if position else ""
    return f"{verb} {table}" if table and table not in OTHERS else ""


def _wrap_answer(reach: Callable[[str], None]) -> None:
    from starlette.responses import JSONResponse

    answer = JSONResponse.__call__

    async def told_answer(self: JSONResponse, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  # ASGI's
        is_ingest = scope["path"] == "/v1/ingest"
        if is_ingest:
            reach("before answer")
        await answer(self, scope, receive, send)
        if is_ingest:
            reach("after answer")

    JSONResponse.__call__ = told_answer  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    # Before the first fork, what each server would import.
    for module in ("kit", "web.app", "web.server", "cli.serve", "steps"):
        importlib.import_module(f"capturekit.{module}")
    for module in ("numpy", "PIL.Image", "uvicorn", "zxingcpp", "psycopg", "alembic.command"):
        importlib.import_module(module)
    _Foreman().serve()
