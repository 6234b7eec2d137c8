"""The whole process killed at random moments: what was acknowledged is processed, once."""

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import DidNotStartError, Server, running_server, running_worker

ROUNDS = int(os.environ.get("CAPTUREKIT_TEST_KILL_ROUNDS", "8"))
"""Times the server is killed; the figure in the docs was made with 100."""
CODE = "4006381333931"
START_OF_DAY = 1_790_000_000


@dataclass
class Camera:
    """Uploads until told to stop, and remembers what was acknowledged."""

    token: str
    seed: int
    acknowledged: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By capture id: when it was taken, and how many it showed."""
    taken: int = 0

    def run(self, url: str, stop: threading.Event) -> None:
        rng = random.Random(self.seed * 1000 + self.taken)
        while not stop.is_set():
            self.taken += 1
            # Out of order on purpose: late pictures must not win.
            moment = START_OF_DAY + self.taken * 60 - rng.choice([0, 0, 0, 150])
            quantity = rng.randrange(1, 5)
            try:
                answer = httpx2.post(
                    f"{url}/v1/ingest",
                    files={"image": ("a.jpg", picture(*[CODE] * quantity), "image/jpeg")},
                    data={"captured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))},
                    headers={"Authorization": f"Bearer {self.token}"},
                    timeout=10,
                )
            except httpx2.HTTPError:
                return
            if answer.status_code == 200:
                self.acknowledged[answer.json()["capture_id"]] = (moment, quantity)


@pytest.mark.timeout(60 + 15 * ROUNDS)
def test_what_was_acknowledged_before_a_kill_is_processed_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    with running_server(tmp_path) as server:
        cameras = [Camera(server.add_device(f"camera-{n}"), n) for n in range(2)]
        for _ in range(ROUNDS):
            _upload_until_killed(server, cameras, rng.uniform(0.05, 1.0))
            server.start()
        captures = {str(row["capture_id"]): row for row in server.wait_until_processed()}
        for number, camera in enumerate(cameras):
            own = {
                name: row
                for name, row in captures.items()
                if row["device_id"] == f"camera-{number}"
            }
            assert set(camera.acknowledged) <= set(own)
            assert [row for row in own.values() if row["state"] != "completed"] == []
            assert_stock_follows_the_newest_taken(server, f"camera-{number}", own)
    assert sum(len(camera.acknowledged) for camera in cameras) > ROUNDS


def _upload_until_killed(server: Server, cameras: list[Camera], seconds: float) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=camera.run, args=(server.url, stop)) for camera in cameras]
    for thread in threads:
        thread.start()
    # The moment of the kill is the point here; nothing is waited for.
    stop.wait(seconds)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    stop.set()
    for thread in threads:
        thread.join()


def assert_stock_follows_the_newest_taken(
    server: Server, device: str, captures: dict[str, dict[str, object]]
) -> None:
    def taken(row: dict[str, object]) -> str:
        return str(row["captured_at"])

    newest_time = max(taken(row) for row in captures.values())
    counts = set()
    for capture_id in (name for name, row in captures.items() if taken(row) == newest_time):
        result = server.admin.get(f"/v1/captures/{capture_id}").json()["result"]
        counts.add(len(result["codes"]))
    assert server.stock()[CODE, device] in counts
    assert _sum_of_moves(server.data, device) == server.stock()[CODE, device]


def _sum_of_moves(data: Path, device: str) -> int:
    """What the append-only ledger adds up to, read past the application."""
    query = (
        "SELECT SUM(CASE to_id WHEN :place THEN quantity ELSE -quantity END) FROM move"
        " WHERE item_id = :item AND :place IN (to_id, from_id)"
    )
    with contextlib.closing(sqlite3.connect(data / "capturekit.db")) as connection:
        (total,) = connection.execute(query, {"place": device, "item": CODE}).fetchone()
    return int(total)


def test_a_stopped_server_exits_cleanly_and_keeps_what_it_took(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        token = server.add_device("camera")
        for quantity in (1, 2, 3):
            server.upload(token, picture(*[CODE] * quantity))
        assert server.end(signal.SIGTERM) == 0
        server.start()
        assert [row["state"] for row in server.wait_until_processed()] == ["completed"] * 3


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        with pytest.raises(DidNotStartError, match="in use by another server") as refused:
            Server(tmp_path, {}).start()
        assert refused.value.code == 1
        assert "Traceback" not in refused.value.log
        assert httpx2.get(f"{server.url}/livez").status_code == 200


def test_a_second_server_on_the_same_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    blobs = (tmp_path / "blobs").as_uri()
    one = {"CAPTUREKIT_DATABASE_URL": f"sqlite:///{tmp_path}/real.db", "CAPTUREKIT_BLOB_URL": blobs}
    other = one | {"CAPTUREKIT_DATABASE_URL": f"sqlite:///{tmp_path}/link.db"}
    with running_server(tmp_path / "one", **one) as server:
        with pytest.raises(DidNotStartError, match=r"real\.db is in use by another") as refused:
            Server(tmp_path / "two", other).start()
        assert refused.value.code == 1
        assert "Traceback" not in refused.value.log
        assert httpx2.get(f"{server.url}/livez").status_code == 200


def test_a_worker_beside_the_server_does_the_work(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_CONCURRENCY="0") as server:
        token = server.add_device("camera")
        server.upload(token, picture(CODE))
        assert [row["state"] for row in server.captures()] == ["pending"]
        with running_worker(tmp_path):
            assert [row["state"] for row in server.wait_until_processed()] == ["completed"]
