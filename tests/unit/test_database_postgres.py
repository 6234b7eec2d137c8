"""Postgres restarts, freezes and refuses; callers see our errors, or nothing at all."""

import contextlib
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import pytest
from sqlalchemy import Connection, text

from capturekit.database import Database, postgres
from capturekit.errors import (
    ConfigError,
    MissingExtra,
    StorageBusy,
    StorageError,
    StorageReadOnly,
    StorageUnavailable,
)
from tests.servers_postgres import PostgresServer, running_postgres

pytestmark = pytest.mark.anyio

PROMPT_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own, which the tests may stop."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_database()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(url) as database:
        await database.write(sql("CREATE TABLE note (words TEXT UNIQUE)"))
        yield database


def sql(statement: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(text(statement))

    return work


def note(words: str) -> Callable[[Connection], None]:
    return sql(f"INSERT INTO note VALUES ('{words}')")  # noqa: S608  # of this test


def notes(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute(text("SELECT words FROM note ORDER BY words"))]


async def test_work_is_kept_whole_or_not_at_all(database: Database) -> None:
    def broken(connection: Connection) -> None:
        note("half")(connection)
        raise ValueError("broken")

    await database.write(note("a"))
    with pytest.raises(ValueError, match="broken"):
        await database.write(broken)
    assert await database.read(notes) == ["a"]


async def test_work_that_the_database_refuses_has_our_error(database: Database) -> None:
    await database.write(note("a"))
    with pytest.raises(StorageError, match="duplicate key") as caught:
        await database.write(note("a"))
    assert caught.value.__cause__ is not None
    with pytest.raises(StorageReadOnly):
        await database.read(note("b"))


async def test_a_read_sees_one_moment(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[list[str], list[str]]:
        before = notes(connection)
        begun.set()
        assert go_on.wait(PROMPT_S)
        return before, notes(connection)

    found: list[object] = []

    async def read() -> None:
        found.append(await database.read(twice))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.to_thread.run_sync(begun.wait)
        await database.write(note("meanwhile"))
        go_on.set()
    assert found == [([], [])]


async def test_a_restart_between_two_calls_is_not_noticed(
    server: PostgresServer, database: Database
) -> None:
    await database.write(note("before"))
    server.stop()
    server.start()
    await database.write(note("after"))
    assert await database.read(notes) == ["after", "before"]


async def test_a_server_that_is_away_has_its_own_error_and_comes_back(
    server: PostgresServer, database: Database
) -> None:
    server.kill()
    try:
        for call in (database.write, database.read):
            with anyio.fail_after(PROMPT_S), pytest.raises(StorageUnavailable):
                await call(sql("SELECT 1"))
    finally:
        server.start()
    await database.write(note("a"))


async def test_work_whose_connection_broke_is_done_once_more(database: Database) -> None:
    tries = []

    def work(connection: Connection) -> int:
        tries.append(1)
        note("a")(connection)
        if len(tries) == 1:
            sql("SELECT pg_terminate_backend(pg_backend_pid())")(connection)
        return len(tries)

    assert await database.write(work) == 2
    assert await database.read(notes) == ["a"]


async def test_two_that_wait_for_each_other_are_both_done(database: Database) -> None:
    await database.write(sql("INSERT INTO note VALUES ('a'), ('b')"))
    both = threading.Barrier(2)

    def change(first: str, second: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            for words in (first, second):
                change = text("UPDATE note SET words = words WHERE words = :words")
                connection.execute(change, {"words": words})
                if words == first and not both.broken:
                    # Only once: whoever is run again does not wait for the other.
                    with contextlib.suppress(threading.BrokenBarrierError):
                        both.wait(1)

        return work

    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.write, change("a", "b"))
            tasks.start_soon(database.write, change("b", "a"))


@pytest.mark.usefixtures("database")  # It has the table.
async def test_a_frozen_server_is_given_up(server: PostgresServer, url: str) -> None:
    async with Database(url, answer_s=1.0) as database:
        await database.write(note("before"))
        server.pause()
        try:
            with anyio.fail_after(PROMPT_S), pytest.raises(StorageUnavailable, match=r" 1 s"):
                await database.write(note("a"))
        finally:
            server.resume()
        await database.write(note("b"))


async def test_a_statement_that_takes_too_long_is_ended(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_TIMEOUT_S", 0.05)
    async with Database(url) as database:
        with anyio.fail_after(PROMPT_S), pytest.raises(StorageBusy, match="timeout"):
            await database.write(sql("SELECT pg_sleep(60)"))


async def test_who_is_refused_is_told_so_without_the_password(server: PostgresServer) -> None:
    url = server.url("nowhere", user="somebody:s3cret")
    with pytest.raises(StorageUnavailable, match="somebody") as caught:
        async with Database(url):
            pass
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace(url, "")


async def test_a_server_has_no_file(database: Database) -> None:
    with pytest.raises(ConfigError, match="no file"):
        _ = database.path


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"capturekit\[postgres\]"):
        Database("postgresql://host/name")
