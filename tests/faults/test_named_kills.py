"""A kill (-9) at each named point between an upload and the effect of its picture.

One data folder is killed again and again: the start after a kill is the one that dies next,
so that each trial also finds whatever the trials before have left behind.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import pytest

from capturekit.database import Database
from capturekit.store import Store
from capturekit.store.proof import Proof
from tests.faults.doomed import DEATH_S, DoomedServer, doomed_server
from tests.made_pictures import picture
from tests.servers_postgres import PostgresServer

IS_LONG = os.environ.get("CAPTUREKIT_TEST_ALL_POINTS") == "1"
"""Each point on both engines: `nox -s faults`. Else on Postgres those that differ."""

NAMED = {
    "before write of blob",
    "before fsync of blob",
    "after fsync of blob",
    "before rename of blob",
    "after rename of blob",
    "before fsync of folder",
    "after fsync of folder",
    "before INSERT capture",
    "after INSERT capture",
    "before INSERT job",
    "before commit of INSERT job",
    "after commit of INSERT job",
    "before answer",
    "after answer",
    "before UPDATE capture",
    "after UPDATE capture",
    "before INSERT run",
    "after INSERT run",
    "before INSERT observation",
    "after INSERT observation",
    "before INSERT live_count",
    "after INSERT live_count",
    "before UPDATE stock",
    "after UPDATE stock",
    "before INSERT move",
    "after INSERT move",
    "before INSERT event",
    "after INSERT event",
    "before commit of INSERT event",
    "after commit of INSERT event",
    "before UPDATE job",
    "before commit of UPDATE job",
    "after commit of UPDATE job",
}
"""Those that the docs list; a change that takes one away must say so here."""

LONG_TRIAL_S = 10
WHEN = "2026-11-25T08:00:00Z"


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the database is, and the points tried there."""

    name: str
    environment: dict[str, str]

    def tried(self, points: list[str]) -> list[str]:
        if IS_LONG:
            return points
        if self.name == "sqlite":
            # Inside a transaction the end of a statement is the beginning of the next.
            return [one for one in points if not _is_end_of_statement(one) and one[-3:] == ", 1"]
        return [one for one in points if "commit" in one or "answer" in one]


def _is_end_of_statement(point: str) -> bool:
    return point.startswith(("after INSERT", "after UPDATE", "after DELETE"))


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Each engine in turn; commands of this process use it as well."""
    environment = {}
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        environment["CAPTUREKIT_DATABASE_URL"] = server.new_database()
        # A server of several cannot know that another died: the lease of its job must end.
        environment["CAPTUREKIT_JOB_LEASE_S"] = "1"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Engine(request.param, environment)


@pytest.fixture
def server(engine: Engine, tmp_path: Path) -> Iterator[DoomedServer]:
    with doomed_server(tmp_path / "data", tmp_path, **engine.environment) as server:
        yield server


@dataclass
class Trial:
    """An upload by a device of its own, of a thing of its own."""

    number: int
    token: str
    acknowledged: str | None = None

    @property
    def device(self) -> str:
        return f"camera-{self.number}"

    @property
    def code(self) -> str:
        """A new one for each, so that each makes its item, its location and its first line."""
        digits = f"400{self.number:09}"
        total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
        return f"{digits}{-total % 10}"

    def upload(self, server: DoomedServer) -> httpx2.Response:
        content = picture(*[self.code] * (1 + self.number % 3))
        return server.upload(self.token, content, captured_at=WHEN)

    def upload_and_note(self, server: DoomedServer) -> None:
        try:
            answer = self.upload(server)
        except httpx2.HTTPError:
            return
        if answer.status_code == 200:
            self.acknowledged = answer.json()["capture_id"]


@pytest.mark.timeout(60 + (20 if IS_LONG else 3) * LONG_TRIAL_S)
def test_a_kill_at_each_named_point_loses_nothing_and_counts_nothing_twice(
    server: DoomedServer, engine: Engine
) -> None:
    server.start()
    points = _points_of_one_upload(server)
    missing = NAMED - {point.rpartition(",")[0] for point in points}
    assert not missing
    tried = engine.tried(points)
    tokens = anyio.run(_add_devices, _url(engine, server), len(tried))
    server.start(tried[0])
    for number, (token, point, following) in enumerate(
        zip(tokens, tried, [*tried[1:], ""], strict=True), 1
    ):
        trial = Trial(number, token)
        _die(server, trial, point)
        server.start(following)
        _settled(server, trial, point)
    assert server.end() == 0
    _age_unfinished(server)
    server.start()
    assert server.end() == 0
    assert not list(server.data.rglob("*.part"))
    proof = anyio.run(_proof, _url(engine, server))
    assert proof.findings == ()
    assert proof.checked["runs"] == len(tried) + 1
    assert proof.checked["lines"] == len(tried) + 1


def _age_unfinished(server: DoomedServer) -> None:
    """Where other servers may be writing, only what is old is taken for left behind."""
    for path in server.data.rglob("*.part"):
        os.utime(path, (0, 0))


def _points_of_one_upload(server: DoomedServer) -> list[str]:
    trial = Trial(0, server.add_device("camera-0"))
    server.armed.touch()
    assert trial.upload(server).status_code == 200
    server.wait_until_processed()
    assert server.end() == 0
    server.armed.unlink()
    # A job that has ended is still touched by the clock: not at the same number each time.
    return [one for one in server.points() if one[-3:] in (", 1", ", 2") or "job" not in one]


def _die(server: DoomedServer, trial: Trial, point: str) -> None:
    server.armed.touch()
    uploading = threading.Thread(target=trial.upload_and_note, args=(server,))
    uploading.start()
    code = server.wait_for_death()
    uploading.join(DEATH_S)
    server.armed.unlink()
    assert code == -9, f"did not die at {point}, but after {server.points()}"


def _settled(server: DoomedServer, trial: Trial, point: str) -> None:
    """All is as after an upload that nobody disturbed."""
    before = [row for row in server.captures() if row["device_id"] == trial.device]
    if trial.acknowledged is not None:
        assert [row["capture_id"] for row in before] == [trial.acknowledged], point
    answer = trial.upload(server).json()
    assert answer["duplicate"] is bool(before), point
    assert trial.acknowledged in (None, answer["capture_id"]), point
    after = [row for row in server.wait_until_processed() if row["device_id"] == trial.device]
    assert [(row["capture_id"], row["state"]) for row in after] == [
        (answer["capture_id"], "completed")
    ], point
    assert server.stock()[trial.code, trial.device] == 1 + trial.number % 3, point


def _url(engine: Engine, server: DoomedServer) -> str:
    default = f"sqlite:///{server.data}/capturekit.db"
    return engine.environment.get("CAPTUREKIT_DATABASE_URL", default)


async def _add_devices(url: str, number: int) -> list[str]:
    async with Database(url) as database:
        devices = Store(database).devices
        return [(await devices.add(f"camera-{n}"))[1] for n in range(1, number + 1)]


async def _proof(url: str) -> Proof:
    async with Database(url) as database:
        return await Store(database).inventory.verify()
