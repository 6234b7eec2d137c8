"""Equal uploads at once, across a restart, from the future and years late, on both engines."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import Server, running_server
from tests.servers_postgres import PostgresServer

CODE = "4006381333931"
AT_ONCE = 20
WHEN = "2026-11-25T08:00:00Z"
RESTART_S = 30.0


@pytest.fixture(params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A server on each engine in turn; commands of this process use the same database."""
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("CAPTUREKIT_DATABASE_URL", postgres.new_database())
    with running_server(tmp_path) as server:
        yield server


def test_equal_uploads_at_once_and_across_a_restart_count_once(server: Server) -> None:
    token = server.add_device("camera")
    content = picture(CODE, CODE)

    def upload(_number: int) -> tuple[str, bool]:
        answer = server.upload(token, content, captured_at=WHEN).json()
        return answer["capture_id"], answer["duplicate"]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(upload, range(AT_ONCE)))
    assert len({name for name, _ in answers}) == 1
    assert [known for _, known in answers].count(False) == 1
    server.wait_until_processed()
    lines = _effects(server)

    # A camera that sends while the server is stopped and started tries until it is answered.
    again: list[str] = []
    sending = threading.Thread(target=_send_until_answered, args=(server, token, content, again))
    server.end(signal.SIGTERM)
    sending.start()
    server.start()
    sending.join(RESTART_S)
    assert again == [answers[0][0]]
    assert [row["state"] for row in server.wait_until_processed()] == ["completed"]
    assert server.stock() == {(CODE, "camera"): 2}
    assert _effects(server) == lines == [(0, 2)]


def _send_until_answered(server: Server, token: str, content: bytes, answered: list[str]) -> None:
    deadline = time.monotonic() + RESTART_S
    while time.monotonic() < deadline:
        try:
            answer = server.upload(token, content, captured_at=WHEN)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):
            # Nobody listens yet: as a camera, and bounded by the deadline.
            time.sleep(0.05)
            continue
        answered.append(answer.json()["capture_id"])
        return


def _effects(server: Server) -> list[tuple[int, int]]:
    """What the ledger's lines made of stock: before and after of each."""
    lines = server.admin.get("/v1/inventory/history").json()["lines"]
    return [(end["before"], end["after"]) for line in lines for end in line["ends"]]


def test_pictures_from_the_future_and_years_late_do_not_rule(server: Server) -> None:
    token = server.add_device("camera")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    server.upload(token, picture(CODE, CODE), captured_at="2014-01-01T00:00:00Z")
    server.upload(token, picture(CODE, CODE, CODE), captured_at=now)
    server.wait_until_processed()
    assert server.stock() == {(CODE, "camera"): 3}

    server.upload(token, picture(CODE), captured_at="2015-01-01T00:00:00Z")
    server.wait_until_processed()
    assert server.stock() == {(CODE, "camera"): 3}

    # Its clock is wrong: it counts from when it came, and what comes later counts more.
    server.upload(token, picture(*[CODE] * 4), captured_at="2099-01-01T00:00:00Z")
    server.wait_until_processed()
    assert server.stock() == {(CODE, "camera"): 4}
    server.upload(token, picture(*[CODE] * 5))
    server.wait_until_processed()
    assert server.stock() == {(CODE, "camera"): 5}
