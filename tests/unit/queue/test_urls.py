"""A URL names a queue, or is refused without its password."""

from pathlib import Path

import pytest

from capturekit.errors import ConfigError, QueueFull
from capturekit.queue.base import Job
from capturekit.queue.urls import open_queue
from tests.servers_redis import running_redis

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("server")]


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "redis"])
async def test_a_url_names_a_queue_that_keeps_its_bound(tmp_path: Path, scheme: str) -> None:
    with running_redis("valkey", tmp_path / "redis") as server:
        urls = {
            "memory": "memory://",
            "sqlite": f"sqlite:///{tmp_path / 'queue.db'}",
            "redis": server.url,
        }
        async with open_queue(urls[scheme], max_waiting=1) as queue:
            await queue.submit(Job(id="a", kind="test"))
            with pytest.raises(QueueFull) as caught:
                await queue.submit(Job(id="b", kind="test"))
            assert caught.value.max_waiting == 1


@pytest.mark.parametrize("url", ["kafka://user:secret@host", "sqs://secret", "nonsense secret"])
async def test_what_names_no_queue_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="memory://") as caught:
        async with open_queue(url):
            pass
    assert "secret" not in str(caught.value)
