"""What a limiter answers while its server is away, and how it comes back."""

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import Redis

from capturekit.errors import KeyInTheWay, MissingExtra, StorageUnavailable
from capturekit.ratelimit import (
    Decision,
    FailoverStorage,
    MemoryStorage,
    OnFailure,
    Quota,
    RateLimiter,
    open_storage,
)
from capturekit.ratelimit.failover import FAILURES_TO_OPEN, PROBE_EVERY_S
from capturekit.ratelimit.redis import RedisStorage
from tests.servers_redis import RedisServer, free_port, running_redis

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("redis")]

TWO = [Quota("two", 2, 60.0)]
LOGGER = "capturekit.ratelimit.failover"


@dataclass
class Clock:
    reading_s: float = 1000.0

    def __call__(self) -> float:
        return self.reading_s


@dataclass
class Distant:
    """A storage that may fail, hang, or be given up by its caller; it counts the calls."""

    error: Exception | None = None
    is_hung: bool = False
    calls: int = 0
    reached: anyio.Event = field(default_factory=anyio.Event)
    memory: MemoryStorage = field(default_factory=MemoryStorage)

    async def decide(
        self, account: str, key: str, quotas: Sequence[Quota], cost: int, *, spend: bool
    ) -> Decision:
        await self._travel()
        return await self.memory.decide(account, key, quotas, cost, spend=spend)

    async def reset(self, account: str, key: str) -> None:
        await self._travel()
        await self.memory.reset(account, key)

    async def keys(self, account: str, most: int) -> list[str]:
        await self._travel()
        return await self.memory.keys(account, most)

    def count(self, account: str) -> int | None:
        return self.memory.count(account)

    async def _travel(self) -> None:
        self.calls += 1
        self.reached.set()
        if self.is_hung:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error


@dataclass
class World:
    """A failing server behind a storage whose breaker's clock stands."""

    on_failure: OnFailure = "local"
    deadline_s: float = 0.02

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.server = Distant()
        self.storage = FailoverStorage(
            self.server,
            on_failure=self.on_failure,
            deadline_s=self.deadline_s,
            clock=self.clock,
        )

    async def hit(self, key: str = "a", cost: int = 1) -> Decision:
        return await self.storage.decide("account", key, TWO, cost, spend=True)

    async def break_down(self) -> None:
        self.server.error = StorageUnavailable("broken down")
        for _ in range(FAILURES_TO_OPEN):
            await self.hit("nobody")


async def test_open_lets_everything_pass_and_says_so() -> None:
    world = World("open")
    world.server.error = StorageUnavailable("away")
    answers = [await world.hit() for _ in range(5)]
    assert all(answer.allowed and answer.is_degraded for answer in answers)
    assert (answers[-1].remaining, answers[-1].retry_after_s) == (2, 0.0)


async def test_closed_lets_nothing_pass_and_names_a_wait() -> None:
    world = World("closed")
    world.server.error = StorageUnavailable("away")
    answer = await world.hit()
    assert (answer.allowed, answer.is_degraded, answer.remaining) == (False, True, 0)
    assert answer.retry_after_s == PROBE_EVERY_S


async def test_local_keeps_the_limit_in_this_process() -> None:
    world = World("local")
    world.server.error = StorageUnavailable("away")
    answers = [await world.hit() for _ in range(3)]
    assert [answer.allowed for answer in answers] == [True, True, False]
    assert all(answer.is_degraded for answer in answers)


async def test_a_server_that_answers_is_not_degraded() -> None:
    world = World()
    assert not (await world.hit()).is_degraded
    assert world.storage.count("account") == 1
    assert world.storage.describe() == {
        "on_failure": "local",
        "breaker": "closed",
        "failures": 0,
        "fallbacks": 0,
        "opened": 0,
    }


async def test_failures_in_a_row_open_the_breaker_and_then_nobody_calls() -> None:
    world = World()
    await world.break_down()
    for _ in range(100):
        await world.hit()
    assert world.server.calls == FAILURES_TO_OPEN
    assert world.storage.describe() == {
        "on_failure": "local",
        "breaker": "open",
        "failures": FAILURES_TO_OPEN,
        "fallbacks": FAILURES_TO_OPEN + 100,
        "opened": 1,
    }


async def test_a_success_between_failures_keeps_the_breaker_closed() -> None:
    world = World()
    for number in range(4 * FAILURES_TO_OPEN):
        world.server.error = StorageUnavailable("flaky") if number % 2 else None
        await world.hit()
    assert world.storage.describe()["breaker"] == "closed"


async def test_one_late_answer_opens_the_breaker() -> None:
    world = World()
    world.server.is_hung = True
    assert (await world.hit()).is_degraded
    await world.hit()
    assert (world.server.calls, world.storage.describe()["breaker"]) == (1, "open")


async def test_one_caller_at_a_time_probes_and_the_others_do_not_wait() -> None:
    world = World(deadline_s=30.0)
    await world.break_down()
    world.clock.reading_s += PROBE_EVERY_S
    world.server.is_hung, world.server.reached = True, anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.hit)
        await world.server.reached.wait()
        assert world.storage.describe()["breaker"] == "half-open"
        assert (await world.hit()).is_degraded
        assert world.server.calls == FAILURES_TO_OPEN + 1
        group.cancel_scope.cancel()


async def test_a_probe_that_was_given_up_leaves_the_next_caller_to_probe() -> None:
    world = World(deadline_s=30.0)
    await world.break_down()
    world.clock.reading_s += PROBE_EVERY_S
    world.server.is_hung, world.server.reached = True, anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.hit)
        await world.server.reached.wait()
        group.cancel_scope.cancel()
    world.server.is_hung, world.server.error = False, None
    assert not (await world.hit()).is_degraded


async def test_a_probe_that_fails_opens_the_breaker_for_another_while() -> None:
    world = World()
    await world.break_down()
    for _ in range(3):
        world.clock.reading_s += PROBE_EVERY_S
        for _ in range(10):
            await world.hit()
    assert world.server.calls == FAILURES_TO_OPEN + 3
    assert world.storage.describe()["opened"] == 1


async def test_it_recovers_by_itself_and_logs_one_line_each_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    world = World()
    await world.break_down()
    for _ in range(50):
        await world.hit()
    world.server.error = None
    world.clock.reading_s += PROBE_EVERY_S
    for _ in range(50):
        assert not (await world.hit("b")).is_degraded
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "broken down" in caplog.messages[0]
    assert world.storage.describe()["breaker"] == "closed"


async def test_a_key_in_the_way_goes_by_the_policy_and_opens_nothing() -> None:
    world = World()
    world.server.error = KeyInTheWay("a")
    answers = [await world.hit() for _ in range(3 * FAILURES_TO_OPEN)]
    assert [answer.allowed for answer in answers[:3]] == [True, True, False]
    stats = world.storage.describe()
    assert (stats["breaker"], stats["failures"]) == ("closed", 3 * FAILURES_TO_OPEN)


async def test_a_mistake_in_the_code_is_not_hidden_by_the_policy() -> None:
    world = World()
    world.server.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await world.hit()


async def test_a_reset_reaches_both_and_raises_when_the_server_does_not_hear_it() -> None:
    world = World()
    world.server.error = StorageUnavailable("away")
    for _ in range(2):
        await world.hit()
    with pytest.raises(StorageUnavailable, match="away"):
        await world.storage.reset("account", "a")
    assert (await world.hit()).allowed
    await world.break_down()
    with pytest.raises(StorageUnavailable, match="try again later"):
        await world.storage.reset("account", "a")
    world.server.error = None
    world.clock.reading_s += PROBE_EVERY_S
    await world.storage.reset("account", "a")
    assert (await world.hit()).remaining == 1


def test_a_policy_or_deadline_that_cannot_be_is_a_value_error() -> None:
    on_failure: Any = "shut"
    with pytest.raises(ValueError, match="'shut'"):
        FailoverStorage(MemoryStorage(), on_failure=on_failure)
    with pytest.raises(ValueError, match="deadline_s is 0"):
        FailoverStorage(MemoryStorage(), deadline_s=0)


# Real servers


@pytest.fixture(params=["redis", "valkey"])
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that a test may kill, pause and break."""
    with (
        tempfile.TemporaryDirectory(prefix="ck-") as folder,
        running_redis(request.param, Path(folder), port=free_port()) as server,
    ):
        yield server


class Away:
    """A limiter over a real server, and the clock of its breaker."""

    def __init__(self, server: RedisServer, deadline_s: float = 5.0) -> None:
        self.clock = Clock()
        self.storage = FailoverStorage(
            RedisStorage(server.url), deadline_s=deadline_s, clock=self.clock
        )
        self.limiter = RateLimiter("2/minute", storage=self.storage)

    async def degraded(self) -> bool:
        return (await self.limiter.hit("a")).is_degraded

    async def comes_back(self) -> bool:
        self.clock.reading_s += PROBE_EVERY_S
        return not await self.degraded()

    async def breaks_and_comes_back(
        self, break_it: Callable[[], object], mend: Callable[[], object]
    ) -> None:
        async with self.storage:
            assert not await self.degraded()
            break_it()
            try:
                assert await self.degraded()
            finally:
                mend()
            assert await self.comes_back()
            assert self.storage.describe()["breaker"] == "closed"


async def test_a_killed_server_is_missed_and_found_again(own_server: RedisServer) -> None:
    await Away(own_server).breaks_and_comes_back(own_server.kill, own_server.start)


async def test_a_frozen_server_costs_one_caller_the_deadline_once(
    own_server: RedisServer,
) -> None:
    away = Away(own_server, deadline_s=0.25)
    async with away.storage:
        await away.degraded()
        own_server.pause()
        try:
            started_s = anyio.current_time()
            assert await away.degraded()
            waited_s = anyio.current_time() - started_s
            for _ in range(100):
                assert await away.degraded()
            assert anyio.current_time() - started_s < waited_s + 2.0
        finally:
            own_server.resume()
        assert 0.2 < waited_s < 5.0
        assert await away.comes_back()


async def test_a_server_that_restarts_empty_is_never_missed(own_server: RedisServer) -> None:
    away = Away(own_server)
    async with away.storage:
        assert [(await away.limiter.hit("a")).remaining for _ in range(2)] == [1, 0]
        own_server.kill()
        own_server.start()
        again = await away.limiter.hit("a")
    assert (again.remaining, again.is_degraded) == (1, False)


async def test_a_full_server_goes_by_the_policy(own_server: RedisServer) -> None:
    with Redis(port=own_server.port) as client:

        def fill() -> None:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)

        await Away(own_server).breaks_and_comes_back(
            fill, lambda: client.config_set("maxmemory", 0)
        )


async def test_a_replica_that_may_not_write_goes_by_the_policy(own_server: RedisServer) -> None:
    with Redis(port=own_server.port) as client:
        await Away(own_server).breaks_and_comes_back(
            lambda: client.replicaof("127.0.0.1", str(own_server.port)),
            lambda: client.replicaof("NO", "ONE"),
        )


async def test_a_password_that_changed_goes_by_the_policy(own_server: RedisServer) -> None:
    with Redis(port=own_server.port) as client, Redis(port=own_server.port) as other:
        other.ping()

        def lock() -> None:
            client.config_set("requirepass", "changed")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        await Away(own_server).breaks_and_comes_back(
            lock, lambda: client.config_set("requirepass", "")
        )


async def test_a_server_that_is_still_loading_goes_by_the_policy(own_server: RedisServer) -> None:
    away = Away(own_server, deadline_s=0.25)
    with Redis(port=own_server.port) as client:
        client.config_set("rdbcompression", "no")
        for number in range(30):
            client.set(str(number), bytes(1_000_000))
        client.save()
    own_server.kill()
    # Microseconds a key: while it loads, it answers after every 2 MB.
    own_server.start("--key-load-delay", "50000", until=b"oading RDB")
    async with away.storage:
        assert await away.degraded()
        own_server.kill()
        own_server.start()
        assert await away.comes_back()


async def test_a_connection_that_is_cut_while_it_waits_is_replaced(
    own_server: RedisServer,
) -> None:
    away = Away(own_server)
    async with away.storage:
        await away.degraded()
        with Redis(port=own_server.port) as client:
            # A script waits for the end of the pause, and is cut before that.
            client.client_pause(5000, all=False)
            async with anyio.create_task_group() as group:
                group.start_soon(cut_the_waiting, client)
                assert not await away.degraded()


async def cut_the_waiting(client: Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)
    client.client_unpause()


async def test_a_key_of_another_type_in_the_way_goes_by_the_policy(
    own_server: RedisServer,
) -> None:
    away = Away(own_server)
    async with away.storage:
        with Redis(port=own_server.port) as client:
            client.rpush("ck:{default:a}", "in the way")
        answers = [await away.limiter.hit("a") for _ in range(3)]
        assert [answer.allowed for answer in answers] == [True, True, False]
        assert all(answer.is_degraded for answer in answers)
        assert not (await away.limiter.hit("b")).is_degraded
        await away.limiter.reset("a")
        assert not await away.degraded()


# From URLs


async def test_a_limiter_from_a_url_decides_on_the_server(own_server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{own_server.port}/1"
    answers = []
    for _ in range(2):
        async with RateLimiter.from_url(url, "3/minute", name="ingest", deadline_s=5) as limiter:
            answers.append(await limiter.hit("a"))
    assert [(one.remaining, one.is_degraded) for one in answers] == [(2, False), (1, False)]


async def test_a_limiter_from_a_url_of_nothing_limits_in_this_process(tmp_path: Path) -> None:
    async with RateLimiter.from_url(f"unix://{tmp_path}/none", "1/minute") as limiter:
        answers = [await limiter.hit("a") for _ in range(2)]
    assert [answer.allowed for answer in answers] == [True, False]


@pytest.mark.parametrize("url", ["", "memcached://:hunter2@host", "redis+other://:hunter2@host"])
def test_a_url_of_no_storage_is_a_value_error_and_never_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"[Rr]edis") as caught:
        open_storage(url)
    assert "hunter2" not in str(caught.value)


def test_a_rule_that_cannot_be_read_is_refused_before_a_server_is_asked() -> None:
    with pytest.raises(ValueError, match="'often' is not a rate limit"):
        RateLimiter.from_url("redis://127.0.0.1:1", "often")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "capturekit.ratelimit.redis", None)
    with pytest.raises(MissingExtra, match=r"capturekit\[redis\]"):
        open_storage("redis://host")


async def test_a_limiter_in_memory_closes_without_a_server() -> None:
    async with RateLimiter.from_url("memory://", "1/minute") as limiter:
        assert (await limiter.hit("a")).allowed


async def test_keys_are_the_servers_and_else_those_of_this_process() -> None:
    world = World()
    await world.storage.decide("a", "there", TWO, 1, spend=True)
    there = await world.storage.keys("a", 10)
    world.server.error = StorageUnavailable("gone")
    await world.storage.decide("a", "here", TWO, 1, spend=True)

    assert (there, await world.storage.keys("a", 10)) == (["there"], ["here"])
