"""Servers for the tests of storages that need one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers_redis import RedisServer, running_redis


@pytest.fixture(scope="module", params=["redis", "valkey"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server for the tests of a module, of each kind; a test must leave it running."""
    # The path of a unix socket has at most 108 bytes: pytest's own folders can be too long.
    with (
        tempfile.TemporaryDirectory(prefix="ck-") as folder,
        running_redis(request.param, Path(folder)) as server,
    ):
        yield server
