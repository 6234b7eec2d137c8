"""Writes are grouped, durable and apart from each other; trouble has our names."""

import sqlite3
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, text

from capturekit.database import Database, sqlite
from capturekit.database.sqlite import MAX_GROUP
from capturekit.errors import (
    ConfigError,
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
)

pytestmark = pytest.mark.anyio

PROMPT_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with Database(f"sqlite:///{path}") as database:
        await database.write(sql("CREATE TABLE note (words TEXT UNIQUE)"))
        yield database


def sql(statement: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(text(statement))

    return work


def note(words: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.execute(text("INSERT INTO note VALUES (:words)"), {"words": words})
        return words

    return work


def notes(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute(text("SELECT words FROM note ORDER BY words"))]


class Plug:
    """Work that holds the writer up, so that what comes meanwhile makes one group."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.pulled = threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.begun.set()
        assert self.pulled.wait(PROMPT_S)


async def together(
    database: Database, *works: Callable[[Connection], object]
) -> list[object | Exception]:
    """Give the writer all the works at one time; what each returned or raised."""
    answers: list[object | Exception] = [None] * len(works)
    plug = Plug()

    async def one(index: int) -> None:
        try:
            answers[index] = await database.write(works[index])
        except Exception as error:  # noqa: BLE001  # looked at by the test
            answers[index] = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.write, plug)
        await anyio.to_thread.run_sync(plug.begun.wait)
        for index in range(len(works)):
            tasks.start_soon(one, index)
        await anyio.wait_all_tasks_blocked()
        plug.pulled.set()
    return answers


async def test_a_write_returns_what_its_work_returns(database: Database) -> None:
    assert await database.write(note("a")) == "a"
    assert await database.read(notes) == ["a"]


async def test_what_was_written_is_there_when_opened_again(database: Database, path: Path) -> None:
    await database.write(note("a"))
    async with Database(f"sqlite:///{path}") as other:
        assert await other.read(notes) == ["a"]


async def test_writes_that_wait_are_committed_together(database: Database) -> None:
    def transaction(connection: Connection) -> object:
        return connection.get_transaction()

    transactions = await together(database, *[transaction] * (MAX_GROUP + 1))
    assert len({id(each) for each in transactions}) == 2


async def test_a_failing_work_is_undone_alone(database: Database) -> None:
    def broken(connection: Connection) -> None:
        note("half")(connection)
        raise ValueError("broken")

    first, error, last = await together(database, note("a"), broken, note("b"))
    assert (first, last) == ("a", "b")
    assert isinstance(error, ValueError)
    assert await database.read(notes) == ["a", "b"]


async def test_a_work_that_the_database_refuses_is_undone_alone(database: Database) -> None:
    first, error, last = await together(database, note("a"), note("a"), note("b"))
    assert (first, last) == ("a", "b")
    assert isinstance(error, StorageError)
    assert await database.read(notes) == ["a", "b"]


async def test_a_failing_work_on_its_own_is_undone(database: Database) -> None:
    def broken(connection: Connection) -> None:
        note("half")(connection)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await database.write(broken)
    assert await database.read(notes) == []


@asynccontextmanager
async def gathering(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], object]]:
    """A write waits for another to join it; gives the transaction that it came to be in.

    Another is given in at the end.
    """
    monkeypatch.setattr(sqlite, "GATHERING", 1_000_000)
    plug = Plug()
    transactions: list[object] = []

    async def write() -> None:
        transactions.append(await database.write(lambda connection: connection.get_transaction()))

    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as plugged:
                plugged.start_soon(database.write, plug)
                await anyio.to_thread.run_sync(plug.begun.wait)
                tasks.start_soon(write)
                await anyio.wait_all_tasks_blocked()
                plug.pulled.set()
            monkeypatch.undo()
            yield lambda: transactions[0] if transactions else None
            await database.write(note("last"))


async def test_who_was_just_told_joins_those_who_waited(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gathering(database, monkeypatch) as waited:
        mine = await database.write(lambda connection: connection.get_transaction())
        with anyio.fail_after(PROMPT_S):
            while waited() is None:
                await anyio.lowlevel.checkpoint()
        assert waited() is mine


async def test_what_need_not_be_synced_waits_for_no_group(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gathering(database, monkeypatch) as waited:
        await database.write(note("a"), is_synced=False)
        assert waited() is None
    assert waited() is not None
    assert await database.read(notes) == ["a", "last"]


async def test_a_write_given_up_before_its_turn_is_not_done(database: Database) -> None:
    plug = Plug()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.write, plug)
        await anyio.to_thread.run_sync(plug.begun.wait)
        with anyio.move_on_after(0.01):
            await database.write(note("given up"))
        plug.pulled.set()
    await database.write(note("later"))
    assert await database.read(notes) == ["later"]


async def test_closing_waits_for_what_was_given_in(path: Path) -> None:
    plug = Plug()
    async with anyio.create_task_group() as tasks, Database(f"sqlite:///{path}") as database:
        await database.write(sql("CREATE TABLE note (words TEXT)"))
        tasks.start_soon(database.write, plug)
        await anyio.to_thread.run_sync(plug.begun.wait)
        for number in range(9):
            tasks.start_soon(database.write, note(f"{number}"))
        await anyio.wait_all_tasks_blocked()
        plug.pulled.set()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (9,)
    connection.close()


async def test_a_closed_database_says_so(path: Path) -> None:
    async with Database(f"sqlite:///{path}") as database:
        pass
    with pytest.raises(StorageError, match="closed"):
        await database.write(sql("SELECT 1"))
    with pytest.raises(StorageError, match="closed"):
        await database.read(sql("SELECT 1"))


async def test_a_read_sees_one_moment(database: Database) -> None:
    plug = Plug()

    def twice(connection: Connection) -> tuple[list[str], list[str]]:
        before = notes(connection)
        plug(connection)
        return before, notes(connection)

    found: list[tuple[list[str], list[str]]] = []

    async def read() -> None:
        found.append(await database.read(twice))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.to_thread.run_sync(plug.begun.wait)
        await database.write(note("meanwhile"))
        plug.pulled.set()
    assert found == [([], [])]
    assert await database.read(notes) == ["meanwhile"]


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)]
)
async def test_the_connection_is_durable_and_checked(
    database: Database, pragma: str, value: object
) -> None:
    found = await database.write(lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").scalar())
    assert found == value


async def test_a_file_that_another_process_just_makes_is_waited_for(path: Path) -> None:
    # SQLite's own timeout does not apply while the log is turned on.
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        ends = threading.Timer(0.1, other.execute, ["COMMIT"])
        ends.start()
        async with Database(f"sqlite:///{path}"):
            ends.join()


async def test_a_file_that_another_process_never_lets_go_is_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy):
            async with Database(f"sqlite:///{path}"):
                pass


@pytest.mark.parametrize(("is_checkpointing", "pages"), [(True, 4000), (False, 0)])
async def test_only_a_checkpointing_database_moves_the_log(
    path: Path,
    is_checkpointing: bool,  # noqa: FBT001  # pytest passes it by name
    pages: int,
) -> None:
    async with Database(f"sqlite:///{path}", is_checkpointing=is_checkpointing) as database:
        ask = "PRAGMA wal_autocheckpoint"
        assert await database.write(lambda c: c.exec_driver_sql(ask).scalar()) == pages
        assert await database.read(lambda c: c.exec_driver_sql(ask).scalar()) == 0


async def test_what_need_not_survive_a_power_cut_is_not_synced(database: Database) -> None:
    def level(connection: Connection) -> object:
        return connection.exec_driver_sql("PRAGMA synchronous").scalar()

    assert await database.write(level, is_synced=False) == 1
    assert await database.write(level) == 2


# Trouble


@pytest.mark.parametrize("count", [1, 3])
async def test_a_full_disk_has_its_own_error_and_passes(database: Database, count: int) -> None:
    pages = await database.write(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    await database.write(sql(f"PRAGMA max_page_count = {pages}"))
    works = [note(f"{number}" + "x" * 20_000) for number in range(count)]
    answers = await together(database, *works)
    assert [type(answer) for answer in answers] == [StorageFull] * count
    assert await database.read(notes) == []
    await database.write(sql("PRAGMA max_page_count = 1000000"))
    await database.write(works[0])
    assert len(await database.read(notes)) == 1


async def test_a_small_write_beside_a_full_disk_is_kept(database: Database) -> None:
    pages = await database.write(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    await database.write(sql(f"PRAGMA max_page_count = {pages}"))
    small, large = await together(database, note("small"), note("x" * 20_000))
    assert (small, type(large)) == ("small", StorageFull)
    assert await database.read(notes) == ["small"]


async def test_a_database_that_may_not_be_written_has_its_own_error(database: Database) -> None:
    await database.write(sql("PRAGMA query_only = ON"))
    with pytest.raises(StorageReadOnly):
        await database.write(note("a"))


async def test_a_lock_held_for_too_long_has_its_own_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    other = sqlite3.connect(path, isolation_level=None)
    async with Database(f"sqlite:///{path}") as database:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy):
            await database.write(sql("CREATE TABLE note (words TEXT)"))
        other.execute("COMMIT")
        await database.write(sql("CREATE TABLE note (words TEXT)"))
    other.close()


async def test_a_folder_that_is_not_there_has_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(StorageReadOnly):
        async with Database(f"sqlite:///{tmp_path / 'no' / 'test.db'}"):
            pass


async def test_a_file_that_is_no_database_has_its_own_error(path: Path) -> None:
    await anyio.Path(path).write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageCorrupt):
        async with Database(f"sqlite:///{path}"):
            pass


async def test_the_databases_own_error_is_kept_as_the_cause(database: Database) -> None:
    with pytest.raises(StorageError, match="no such table: nowhere") as caught:
        await database.read(sql("SELECT * FROM nowhere"))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "mysql://user:s3cret@host/name", "nonsense:s3cret", "postgresql+x://s3cret@h"],
)
def test_only_databases_we_know_are_taken_and_no_secret_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:////path") as caught:
        Database(url)
    trace = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in trace.replace(url, "")


async def test_the_planner_is_told_of_large_tables_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LARGE_ROWS", 3)
    tables = (
        "CREATE TABLE place (id INTEGER PRIMARY KEY)",
        "CREATE TABLE thing (id INTEGER PRIMARY KEY, place INTEGER REFERENCES place (id))",
        "CREATE TABLE small (id INTEGER PRIMARY KEY)",
        "INSERT INTO place VALUES (1)",
        "INSERT INTO small VALUES (1), (2)",
        "INSERT INTO thing VALUES (1, 1), (2, 1), (3, 1), (4, 1)",
    )
    url = f"sqlite:///{path}"
    async with Database(url) as database:
        for statement in tables:
            await database.write(sql(statement))

    async with Database(url) as database:
        described = await database.read(
            lambda c: set(c.scalars(text("SELECT tbl FROM sqlite_stat1")))
        )

    assert described == {"place", "thing"}


async def test_a_new_file_is_not_for_everyone(path: Path) -> None:
    async with Database(f"sqlite:///{path}") as database:
        await database.write(sql("CREATE TABLE note (words TEXT)"))

        modes = {file.name: file.stat().st_mode & 0o7 for file in path.parent.glob("test.db*")}

    assert modes == {"test.db": 0, "test.db-wal": 0, "test.db-shm": 0}
