"""A queue in Redis keeps the promises, in the oldest server and in the newest."""
# ruff: noqa: ARG002  # which queue is meant is known: a test has one

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from redis import Redis

from capturekit.queue.base import QueueBackend
from capturekit.queue.redis import RedisQueue
from capturekit.testing.queue_contract import SharedQueueContract
from tests.contract.queue_model import try_random_histories
from tests.servers_redis import RedisServer, running_redis

pytestmark = pytest.mark.needs_extra("redis")

KINDS: Final = ("redis", "valkey")
names: Final = (f"queue {number}" for number in itertools.count())
"""A queue under a fresh one meets nothing of others."""


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    # The path of a unix socket has at most 108 bytes: pytest's own folders can be too long.
    with (
        TemporaryDirectory(prefix="ck-") as folder,
        running_redis(request.param, Path(folder)) as server,
    ):
        yield server


class TestRedisQueue(SharedQueueContract):
    @pytest.fixture(autouse=True)
    def use(self, server: RedisServer) -> None:
        self.server = server

    def make_queue(
        self, clock: Callable[[], float], *, max_waiting: int | None = None
    ) -> AbstractAsyncContextManager[QueueBackend]:
        self.name = next(names)
        self.clock_, self.max_waiting = clock, max_waiting
        return self._opened()

    def open_again(self, queue: QueueBackend) -> AbstractAsyncContextManager[QueueBackend]:
        return self._opened()

    async def spoil(self, queue: QueueBackend, job_id: str, text: str) -> None:
        self._set("payload", text, job_id)

    async def set_version(self, queue: QueueBackend, job_id: str, version: int) -> None:
        self._set("v", str(version), job_id)

    def _opened(self) -> RedisQueue:
        return RedisQueue(
            self.server.url, prefix=self.name, clock=self.clock_, max_waiting=self.max_waiting
        )

    def _set(self, field: str, text: str, job_id: str) -> None:
        with Redis(unix_socket_path=str(self.server.socket)) as client:
            assert client.hset(f"{{{self.name}}}:job:{job_id}", field, text) == 0


def test_random_histories_keep_the_promises(server: RedisServer) -> None:
    contract = TestRedisQueue()
    contract.server = server
    try_random_histories(contract.make_queue, examples=25)
