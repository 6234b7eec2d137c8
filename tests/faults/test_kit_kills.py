"""A real server, a real worker and Redis killed while cameras upload."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.test_crashes import Camera, assert_stock_follows_the_newest_taken
from tests.faults.test_kills import SEED
from tests.faults.worlds import KEEPS_ALL
from tests.servers import Server, running_server
from tests.servers_redis import RedisServer, running_redis


class Cast:
    """Those who are killed and come back: a server, a worker, and Redis with all it took."""

    def __init__(self, server: Server, redis: RedisServer, settings: Mapping[str, str]) -> None:
        self.server = server
        self._redis = redis
        self._environment = {**os.environ, **settings}
        self.start_worker()

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "capturekit", "worker", "--data", str(self.server.data)]
        self.worker = subprocess.Popen(
            [*command, "-c", "1"], stderr=subprocess.DEVNULL, env=self._environment
        )

    def kill(self, target: str) -> None:
        """End it (-9)."""
        if target == "server":
            assert self.server.end(signal.SIGKILL) == -signal.SIGKILL
        elif target == "worker":
            self.worker.kill()
            self.worker.wait()
        else:
            self._redis.kill()

    def revive(self, target: str) -> None:
        if target == "server":
            self.server.start()
        elif target == "worker":
            self.start_worker()
        else:
            self._redis.start()


@contextmanager
def uploading(server: Server, cameras: Sequence[Camera]) -> Iterator[None]:
    """Cameras upload until the block is left or the server dies."""
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(server.url, stop)) for each in cameras]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.timeout(120)
def test_pictures_survive_kills_of_server_worker_and_redis(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with running_redis("valkey", tmp_path / "redis", *KEEPS_ALL) as redis:
        settings = {
            "CAPTUREKIT_QUEUE_URL": redis.url,
            "CAPTUREKIT_JOB_LEASE_S": "1.5",
            "CAPTUREKIT_CONCURRENCY": "1",
            "CAPTUREKIT_MAX_ATTEMPTS": "20",
        }
        with running_server(tmp_path / "data", **settings) as server:
            cameras = [Camera(server.add_device(f"camera-{n}"), n) for n in range(2)]
            cast = Cast(server, redis, settings)
            try:
                for target in rng.sample(["server", "worker", "redis"] * 2, k=4):
                    with uploading(server, cameras):
                        # The moment of the kill is the point here, and what goes on without it.
                        time.sleep(rng.uniform(0.1, 0.5))
                        cast.kill(target)
                        time.sleep(rng.uniform(0.0, 0.3))
                    cast.revive(target)
                # A server that starts sweeps at once, and not only within half a minute.
                cast.kill("server")
                cast.revive("server")
                judge(server, cameras)
            finally:
                cast.kill("worker")


def judge(server: Server, cameras: Sequence[Camera]) -> None:
    """All that was acknowledged is processed, and stock is what the newest picture shows."""
    captures = {str(row["capture_id"]): row for row in server.wait_until_processed()}
    assert [row for row in captures.values() if row["state"] != "completed"] == []
    for number, camera in enumerate(cameras):
        name = f"camera-{number}"
        own = {key: row for key, row in captures.items() if row["device_id"] == name}
        assert set(camera.acknowledged) <= set(own)
        assert_stock_follows_the_newest_taken(server, name, own)
    assert sum(len(camera.acknowledged) for camera in cameras) > 4, f"seed {SEED}"
