"""What fault tests share: a world with a queue in it, and a crew to work there."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from capturekit.queue.urls import open_queue
from tests.faults.crew import Crew, hired
from tests.faults.worlds import WORLDS, World
from tests.servers_postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests: it takes a second or two to start."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each backend in turn, its tables made."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        made = World(server.new_database(), tmp_path, server)
        anyio.run(_make_tables, made.url)
        yield made
    else:
        with WORLDS[request.param](tmp_path) as made:
            anyio.run(_make_tables, made.url)
            yield made


@pytest.fixture(scope="session")
def all_crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with hired(tmp_path_factory.mktemp("crew")) as crew:
        yield crew


@pytest.fixture
def crew(all_crew: Crew) -> Iterator[Crew]:
    """Whoever it is told to start is ended with the test; a failure shows what they said."""
    yield all_crew
    all_crew.kill_all()
    print(all_crew.words())


async def _make_tables(url: str) -> None:
    async with open_queue(url):
        """Nothing more."""
