"""A database that goes away, is locked, or is cut off, while jobs flow."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from tests.faults.crew import Crew
from tests.faults.flow import flowing
from tests.faults.worlds import World, on_postgres, on_sqlite
from tests.proxy import Way, running_proxy
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.anyio


NAMESPACE = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture
def on_server(postgres: PostgresServer, tmp_path: Path) -> World:
    """A database of the server that all tests share."""
    return World(postgres.new_database(), tmp_path, postgres)


def server_of(world: World) -> PostgresServer:
    assert isinstance(world.server, PostgresServer)
    return world.server


async def test_postgres_may_be_killed_and_come_back_while_jobs_flow(
    tmp_path: Path, crew: Crew
) -> None:
    with on_postgres(tmp_path) as world:
        async with flowing(world, crew) as flow:
            for down_s in (0.0, 1.0):
                server_of(world).kill()
                await anyio.sleep(down_s)
                server_of(world).start()
                await flow.goes_on()


async def test_postgres_may_be_frozen_for_longer_than_a_lease(on_server: World, crew: Crew) -> None:
    async with flowing(on_server, crew) as flow:
        server_of(on_server).pause()
        await anyio.sleep(1.5)
        server_of(on_server).resume()
        await flow.goes_on()


async def test_connections_to_postgres_may_be_cut_within_a_message(
    on_server: World, crew: Crew
) -> None:
    server = server_of(on_server)
    with running_proxy(server.folder / ".s.PGSQL.5432") as proxy:
        name = on_server.url.split("@/")[1].split("?")[0]
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
        async with flowing(on_server, crew, url=url) as flow:
            for number in range(24):
                proxy.cut_after(list(Way)[number % 2], 150 * number + 7)
                await flow.goes_on(4)
        assert proxy.cuts > 12


async def test_sqlite_may_be_locked_by_another_process_for_longer_than_a_lease(
    tmp_path: Path, crew: Crew
) -> None:
    with on_sqlite(tmp_path) as world:
        async with flowing(world, crew) as flow:
            with closing(sqlite3.connect(tmp_path / "queue.db", timeout=10)) as other:
                other.execute("BEGIN EXCLUSIVE")
                await anyio.sleep(2.0)
                other.rollback()
            await flow.goes_on()


@pytest.mark.small_disk
def test_sqlites_disk_may_be_full_for_longer_than_a_lease(tmp_path: Path) -> None:
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must allow mount namespaces: unshare --map-root-user --mount")
        pytest.skip("this machine allows no mount namespaces")
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.faults.full_disk_scenario", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout == "StorageFull\n"
