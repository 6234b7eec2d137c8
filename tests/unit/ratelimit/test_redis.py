"""Rate limits in real servers: what they promise, and that they answer as memory does."""

import asyncio
import itertools
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from capturekit.errors import KeyInTheWay, StorageUnavailable
from capturekit.ratelimit import Decision, MemoryStorage, Quota
from capturekit.ratelimit.redis import MAX_WINDOW_US, SCRIPT, RedisStorage
from tests.redis_together import fail_over, form_cluster
from tests.servers_redis import (
    RedisServer,
    free_port,
    running_cluster,
    running_redis,
    running_sentinel,
)

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("redis")]

WINDOW_S = 64
MINUTE = Quota("minute", 3, 60.0)
SHORT, LONG, LONGER = (Quota(f"{window_s} s", 9, window_s) for window_s in (16.0, 64.0, 256.0))
START_US = 1_000_000_000_000_000
TICK_US = 62_500
"""A 16th of a second: as microseconds and as a float of seconds, sums of them are exact."""
HOUR_US = 3_600_000_000

accounts = (f"account {number}" for number in itertools.count())
"""A test that takes a fresh one meets nothing of others."""


@pytest.fixture
async def storage(redis_server: RedisServer) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_server.url) as storage:
        yield storage


@pytest.fixture
def account() -> str:
    return next(accounts)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(redis_server.socket)) as client:
        client.flushall()
        yield client


@contextmanager
def short_folder() -> Iterator[Path]:
    """The path of a unix socket has at most 108 bytes: pytest's own folders can be too long."""
    with tempfile.TemporaryDirectory(prefix="ck-") as folder:
        yield Path(folder)


async def hit(storage: RedisStorage, account: str, quota: Quota, cost: int = 1) -> Decision:
    return await storage.decide(account, "a", [quota], cost, spend=True)


class Pair:
    """Redis, and for each key a memory that sees the same calls at the same times."""

    def __init__(self, storage: RedisStorage) -> None:
        self.storage = storage
        self.account = next(accounts)
        self.now_us = START_US
        self._memories: dict[str, MemoryStorage] = {}

    async def ask(
        self, key: str, quotas: list[Quota], cost: int, *, spend: bool
    ) -> tuple[Decision, Decision]:
        ours, _ = await self.storage.decide_timed(
            self.account, key, quotas, cost, spend=spend, now_us=self.now_us
        )
        memory = self._memory(key)
        return ours, await memory.decide(self.account, key, quotas, cost, spend=spend)

    async def reset(self, key: str) -> None:
        await self.storage.reset(self.account, key)
        await self._memory(key).reset(self.account, key)

    def _memory(self, key: str) -> MemoryStorage:
        return self._memories.setdefault(key, MemoryStorage(clock=lambda: self.now_us / 1e6))


ticks = st.sampled_from([0, 1, 1, 8, 15, 16, 17, 500, 1000, 1008, 1022, 1023, 1024, 5000])
costs = st.sampled_from([1, 1, 1, 2, 3, 21, 30, 32, 101])
limits = st.sampled_from([0, 1, 2, 3, 3, 10, 63, 64, 65, 90, 100])
windows = st.sampled_from([16, WINDOW_S, WINDOW_S, 256])
acts = st.sampled_from(["hit"] * 8 + ["peek", "peek", "reset"])


@st.composite
def rules(draw: st.DrawFn) -> list[Quota]:
    some = draw(st.lists(windows, min_size=1, max_size=3, unique=True))
    return [Quota(f"{window_s} s", draw(limits), float(window_s)) for window_s in some]


@st.composite
def calls_under_few_rules(draw: st.DrawFn) -> list[tuple[int, list[Quota], int, str]]:
    some = st.sampled_from(draw(st.lists(rules(), min_size=1, max_size=3)))
    return draw(st.lists(st.tuples(ticks, some, costs, acts), min_size=3, max_size=50))


@given(calls=calls_under_few_rules())
@example([(0, [LONG], 1, "hit"), (16 * WINDOW_S, [LONG], 1, "hit")])
@example([(0, [LONGER, SHORT], 1, "hit"), (500, [SHORT], 1, "hit"), (1, [LONG], 1, "hit")])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_answers_as_memory_does_when_rules_change(
    redis_server: RedisServer, calls: list[tuple[int, list[Quota], int, str]]
) -> None:
    async def replay() -> None:
        async with RedisStorage(redis_server.url) as storage:
            pair = Pair(storage)
            for step, quotas, cost, act in calls:
                pair.now_us += step * TICK_US
                if act == "reset":
                    await pair.reset("a")
                else:
                    ours, theirs = await pair.ask("a", quotas, cost, spend=act == "hit")
                    assert ours == theirs

    asyncio.run(replay())


exact = st.lists(
    st.builds(
        lambda limit, window_s: Quota(f"{window_s} s", limit, float(window_s)),
        st.integers(0, 64),
        windows,
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda quota: quota.window_s,
)
jumps = st.one_of(ticks, st.integers(-60_000, -1))


@given(quotas=exact, calls=st.lists(st.tuples(jumps, costs, acts), max_size=50))
@example(
    quotas=[MINUTE], calls=[(0, 3, "hit"), (800, 1, "hit"), (-640, 1, "peek"), (304, 1, "hit")]
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_answers_as_memory_does_when_the_clock_steps_back(
    redis_server: RedisServer, quotas: list[Quota], calls: list[tuple[int, int, str]]
) -> None:
    """Of exact limits: the sub-buckets of larger ones go by the clock, and a key that holds
    nothing any more forgets by how much that stepped back."""

    async def replay() -> None:
        async with RedisStorage(redis_server.url) as storage:
            pair = Pair(storage)
            for step, cost, act in calls:
                pair.now_us += step * TICK_US
                if act == "reset":
                    await pair.reset("a")
                else:
                    ours, theirs = await pair.ask("a", quotas, cost, spend=act == "hit")
                    assert ours == theirs

    asyncio.run(replay())


steps_back = st.tuples(st.integers(-60_000, 1200), limits, st.sampled_from("ab"), costs)


@given(calls=st.lists(steps_back, max_size=50))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_clock_that_steps_back_grants_nothing(
    redis_server: RedisServer, calls: list[tuple[int, int, str, int]]
) -> None:
    async def replay() -> None:
        spent: list[tuple[int, str, int]] = []
        elapsed_us = 0
        async with RedisStorage(redis_server.url) as storage:
            pair = Pair(storage)
            for step, limit, key, cost in calls:
                pair.now_us += step * TICK_US
                elapsed_us += max(0, step) * TICK_US
                quota = Quota("q", limit, float(WINDOW_S))
                ours, _ = await pair.ask(key, [quota], cost, spend=True)
                if ours.allowed:
                    spent.append((elapsed_us, key, cost))
                    since = elapsed_us - WINDOW_S * 1_000_000
                    used = sum(paid for at, who, paid in spent if who == key and at > since)
                    assert used <= limit

    asyncio.run(replay())


async def test_a_clock_that_steps_back_an_hour_locks_nobody_out_for_an_hour(
    storage: RedisStorage,
) -> None:
    pair = Pair(storage)
    quota = [Quota("one", 1, 60.0)]
    await pair.ask("a", quota, 1, spend=True)
    pair.now_us -= HOUR_US
    refused, _ = await pair.ask("a", quota, 1, spend=True)
    pair.now_us += 60_000_000
    admitted, _ = await pair.ask("a", quota, 1, spend=True)
    assert (refused.allowed, refused.retry_after_s, admitted.allowed) == (False, 60.0, True)


async def test_a_clock_that_steps_an_hour_forward_and_back_grants_one_limit_more(
    storage: RedisStorage,
) -> None:
    pair = Pair(storage)
    admitted = 0
    for step_us in (0, HOUR_US, -HOUR_US, 0):
        pair.now_us += step_us
        for _ in range(5):
            ours, _ = await pair.ask("a", [MINUTE], 1, spend=True)
            admitted += ours.allowed
    assert admitted == 2 * MINUTE.limit


async def test_a_decision_says_all_that_a_caller_needs(storage: RedisStorage, account: str) -> None:
    quotas = [Quota("short", 5, 60.0), Quota("long", 3, 3600.0)]
    decision = await storage.decide(account, "a", quotas, 2, spend=True)
    assert decision == Decision(
        allowed=True,
        name="long",
        limit=3,
        window_s=3600.0,
        remaining=1,
        reset_s=3600.0,
        retry_after_s=0.0,
        cost=2,
    )


async def test_the_time_is_the_servers(storage: RedisStorage, account: str, client: Redis) -> None:
    before_ms = server_ms(client)
    _, server_us = await storage.decide_timed(account, "a", [MINUTE], 1, spend=True)
    assert before_ms <= server_us / 1000 <= server_ms(client)


async def test_accounts_and_keys_share_nothing(storage: RedisStorage, client: Redis) -> None:
    once = [Quota("once", 1, 60.0)]
    long = "k" * 1000
    pairs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a", ""), ("a", "{}"), ("a", "}{")]
    pairs += [("a;b", "c"), ("a", "\udcff\ud800"), ("a", long), ("a", long + "k")]
    answers = [await storage.decide(*pair, once, 1, spend=True) for pair in pairs]
    assert all(answer.allowed for answer in answers)
    assert client.dbsize() == len(pairs)


@pytest.mark.parametrize("account", ["limit", "a*b?[c]", "ip:%;x", "é"])
async def test_keys_that_spent_are_told_by_account(
    storage: RedisStorage, client: Redis, account: str
) -> None:
    del client  # it emptied the server
    keys = {"192.0.2.7", "2001:db8::/64", "device:shelf *", "a}b"}
    for key in keys:
        await storage.decide(account, key, [MINUTE], 1, spend=True)
        await storage.decide(f"{account}x", f"{key}x", [MINUTE], 1, spend=True)
    await storage.decide(account, "long" * 100, [MINUTE], 1, spend=True)

    assert set(await storage.keys(account, 100)) == keys
    assert len(await storage.keys(account, 2)) == 2


async def test_a_key_has_one_hash_tag_and_a_bounded_length(
    storage: RedisStorage, client: Redis
) -> None:
    for key in ("203.0.113.7", "x" * 100_000):
        await storage.decide("ingest", key, [MINUTE], 1, spend=True)
    short, long = sorted(client.keys(), key=len)
    assert short == b"ck:{ingest:203.0.113.7}"
    assert len(long) < 150


@pytest.mark.parametrize("limit", [10, 64, 65, 100, 10_000, 999_999_999_999_999])
async def test_a_key_costs_at_most_1200_bytes_at_any_limit(
    storage: RedisStorage, client: Redis, limit: int
) -> None:
    pair = Pair(storage)
    quota = Quota("q", limit, float(WINDOW_S))
    for _ in range(200):
        pair.now_us += WINDOW_S * 1_000_000 // 200
        await pair.ask("a", [quota], max(1, limit // 200), spend=True)
    used = client.memory_usage(f"ck:{{{pair.account}:a}}")
    assert used is not None
    assert 200 < used <= 1200


async def test_a_limit_that_moves_across_64_costs_at_most_1900_bytes(
    storage: RedisStorage, client: Redis
) -> None:
    pair = Pair(storage)
    step_us = WINDOW_S * 1_000_000 // 200
    for limit in (64, 10_000):
        for _ in range(64 if limit == 64 else 136):
            pair.now_us += step_us
            await pair.ask("a", [Quota("q", limit, float(WINDOW_S))], 1, spend=True)
    used = client.memory_usage(f"ck:{{{pair.account}:a}}")
    assert used is not None
    assert used <= 1900


async def test_idle_keys_vanish_when_they_hold_nothing_and_not_before(
    storage: RedisStorage, client: Redis
) -> None:
    for number in range(2000):
        await storage.decide("crowd", str(number), [MINUTE], 1, spend=True)
    assert client.info("keyspace")["db0"]["expires"] == 2000
    last, server_us = await storage.decide_timed("crowd", "0", [MINUTE], 1, spend=False)
    holds_until_ms = server_us / 1000 + last.reset_s * 1000
    before_ms, left_ms, after_ms = server_ms(client), client.pttl("ck:{crowd:0}"), server_ms(client)
    assert before_ms + left_ms <= holds_until_ms + 2
    assert after_ms + left_ms >= holds_until_ms - 1


async def test_a_longer_window_that_is_only_peeked_at_keeps_the_key_longer(
    storage: RedisStorage, account: str, client: Redis
) -> None:
    await hit(storage, account, MINUTE)
    await storage.decide(account, "a", [Quota("hour", 9, 3600.0)], 1, spend=False)
    assert client.pttl(f"ck:{{{account}:a}}") > 3_000_000


def server_ms(client: Redis) -> float:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds / 1000


async def test_a_key_whose_costs_have_left_all_windows_is_deleted_when_asked(
    storage: RedisStorage, client: Redis
) -> None:
    pair = Pair(storage)
    await pair.ask("a", [MINUTE], 1, spend=True)
    pair.now_us += 60_000_000
    await pair.ask("a", [MINUTE], 1, spend=False)
    assert client.dbsize() == 0


async def test_a_peek_and_a_refusal_write_the_clocks_reading_alone(
    storage: RedisStorage, account: str, client: Redis
) -> None:
    quotas, name = [Quota("once", 1, 60.0)], f"ck:{{{account}:a}}"
    await storage.decide(account, "a", quotas, 1, spend=True)
    before, left_ms = client.get(name), client.pttl(name)
    assert isinstance(before, bytes)
    for spend in (False, True):
        await storage.decide(account, "a", quotas, 1, spend=spend)
    await storage.decide(account, "nobody", quotas, 1, spend=False)
    after = client.get(name)
    assert isinstance(after, bytes)
    assert (after[:1], after[8:]) == (before[:1], before[8:])
    assert after[1:8] > before[1:8]
    assert 0 < client.pttl(name) <= left_ms
    assert client.dbsize() == 1


@pytest.mark.parametrize("foreign", [b"", b"text", SCRIPT.encode(), b"L" + bytes(15) + b"x"])
async def test_a_string_of_another_kind_in_the_way_is_a_typed_error(
    storage: RedisStorage, account: str, client: Redis, foreign: bytes
) -> None:
    client.set(f"ck:{{{account}:a}}", foreign)
    with pytest.raises(KeyInTheWay) as caught:
        await hit(storage, account, MINUTE)
    assert caught.value.key == "a"
    assert client.get(f"ck:{{{account}:a}}") == foreign


async def test_a_key_of_another_type_in_the_way_is_a_typed_error_until_it_is_reset(
    storage: RedisStorage, account: str, client: Redis
) -> None:
    client.rpush(f"ck:{{{account}:a}}", "x")
    with pytest.raises(KeyInTheWay, match="'a' holds something else"):
        await hit(storage, account, MINUTE)
    await storage.reset(account, "a")
    assert (await hit(storage, account, MINUTE)).allowed


async def test_one_decision_is_one_command_also_after_the_scripts_were_flushed(
    storage: RedisStorage, account: str, client: Redis
) -> None:
    await hit(storage, account, MINUTE)
    client.script_flush()
    await hit(storage, account, MINUTE)
    client.config_resetstat()
    last = await hit(storage, account, MINUTE)
    assert (last.allowed, last.remaining) == (True, 0)
    commands = {name.partition("_")[2] for name in client.info("commandstats")}
    assert {name for name in commands if name.startswith("eval")} == {"evalsha"}


async def test_a_cost_and_a_window_beyond_all_numbers_are_judged(
    storage: RedisStorage, account: str
) -> None:
    forever = Quota("forever", 10, float(MAX_WINDOW_US))
    refused = await hit(storage, account, forever, 10**30)
    assert (refused.allowed, refused.cost, refused.remaining) == (False, 10**30, 10)
    assert (await hit(storage, account, forever, 10)).allowed
    assert not (await hit(storage, account, forever)).allowed


async def test_a_window_that_is_no_whole_number_of_microseconds_holds(
    storage: RedisStorage,
) -> None:
    pair = Pair(storage)
    odd = [Quota("odd", 100, 100.0000001)]
    answers = []
    for cost in (60, 40, 1):
        pair.now_us += 1
        answers.append(
            (
                await pair.storage.decide_timed(
                    pair.account, "a", odd, cost, spend=True, now_us=pair.now_us
                )
            )[0].allowed
        )
    assert answers == [True, True, False]


async def test_a_server_that_restarted_empty_is_asked_again_without_an_error() -> None:
    with short_folder() as folder, running_redis("valkey", folder) as server:
        async with RedisStorage(server.url) as storage:
            for _ in range(3):
                await hit(storage, "a", MINUTE)
            server.kill()
            server.start()
            assert (await hit(storage, "a", MINUTE)).remaining == 2


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async with RedisStorage(f"unix://{tmp_path}/nothing") as storage:
        with pytest.raises(StorageUnavailable, match="ConnectionError"):
            await hit(storage, "a", MINUTE)


async def test_a_wrong_password_is_unavailable_and_never_shown() -> None:
    with (
        short_folder() as folder,
        running_redis("redis", folder, "--requirepass", "right", port=free_port()) as server,
    ):
        for userinfo in ("", ":hunter2@"):
            async with RedisStorage(f"redis://{userinfo}127.0.0.1:{server.port}") as storage:
                with pytest.raises(StorageUnavailable) as caught:
                    await hit(storage, "a", MINUTE)
            assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{storage!r}"
        async with RedisStorage(f"valkey://:right@127.0.0.1:{server.port}/3") as storage:
            assert (await hit(storage, "a", MINUTE)).allowed


async def test_a_cancelled_decision_leaves_no_reply_for_the_next(
    redis_server: RedisServer, storage: RedisStorage, account: str
) -> None:
    await hit(storage, account, MINUTE)
    redis_server.pause()
    try:
        with anyio.move_on_after(0.05) as scope:
            await storage.decide(account, "other", [Quota("other", 77, 60.0)], 7, spend=True)
    finally:
        redis_server.resume()
    assert scope.cancelled_caught
    answer = await hit(storage, account, MINUTE)
    assert (answer.limit, answer.remaining) == (3, 1)


async def test_cancellations_leave_no_connections_behind(
    storage: RedisStorage, account: str, client: Redis
) -> None:
    for number in range(50):
        with anyio.move_on_after(0 if number % 2 else 0.0001):
            await hit(storage, account, MINUTE)
    await storage.aclose()
    with anyio.fail_after(20):
        while client.info("clients")["connected_clients"] > 1:
            await anyio.lowlevel.checkpoint()


async def test_many_tasks_share_a_bounded_number_of_connections(
    storage: RedisStorage, account: str, client: Redis
) -> None:
    answers: list[bool] = []

    async def one() -> None:
        answers.append((await hit(storage, account, Quota("q", 150, 60.0))).allowed)

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(one)
    assert sum(answers) == 150
    assert client.info("clients")["connected_clients"] <= 40


def test_event_loops_of_several_threads_share_a_storage(
    redis_server: RedisServer, account: str
) -> None:
    storage = RedisStorage(redis_server.url)
    answers: list[bool] = []

    async def burst() -> None:
        async with storage:
            quota = Quota("q", 70, 60.0)
            answers.extend([(await hit(storage, account, quota)).allowed for _ in range(30)])

    threads = [threading.Thread(target=anyio.run, args=(burst,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), sum(answers)) == (90, 70)


@pytest.mark.parametrize("limit", [40, 200])
def test_processes_together_never_get_more_than_the_limit_in_any_window(
    redis_server: RedisServer, limit: int
) -> None:
    window_s = 0.25
    with Redis(unix_socket_path=str(redis_server.socket)) as client:
        client.flushall()
    hammer = Path(__file__).parents[2] / "redis_hammer.py"
    command = [sys.executable, str(hammer), redis_server.url, str(limit), str(window_s), "1.5"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=50)[0] for process in processes]
    admitted = sorted(
        (int(server_us), int(cost))
        for text in printed
        for server_us, cost in (line.split() for line in text.splitlines())
    )
    assert all(text for text in printed)
    assert sum(cost for _, cost in admitted) > 3 * limit
    assert most_in_any_window(admitted, int(window_s * 1e6)) <= limit


def most_in_any_window(admitted: list[tuple[int, int]], window_us: int) -> int:
    """The largest sum of costs of which all times lie within less than a window."""
    most = used = first = 0
    for at_us, cost in admitted:
        used += cost
        while admitted[first][0] <= at_us - window_us:
            used -= admitted[first][1]
            first += 1
        most = max(most, used)
    return most


async def test_a_sentinel_leads_to_its_master() -> None:
    with (
        short_folder() as folder,
        running_redis("valkey", folder / "master", port=free_port()) as master,
        running_sentinel(folder / "sentinel", master) as sentinel,
    ):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/2"
        async with RedisStorage(url) as storage:
            assert (await hit(storage, "a", MINUTE)).remaining == 2
            assert (await hit(storage, "a", MINUTE)).remaining == 1
        with Redis(port=master.port, db=2) as client:
            assert client.dbsize() == 1


async def test_after_a_failover_the_new_master_knows_what_was_spent() -> None:
    at_once = ("--repl-diskless-sync-delay", "0")
    with (
        short_folder() as folder,
        running_redis("valkey", folder / "master", *at_once, port=free_port()) as master,
        running_redis("valkey", folder / "replica", port=free_port()) as replica,
        running_sentinel(folder / "sentinel", master, replica) as sentinel,
        Redis(port=replica.port) as replicated,
        Redis(port=sentinel.port) as watcher,
    ):
        replicated.replicaof("127.0.0.1", str(master.port))
        async with RedisStorage(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as storage:
            first = await hit(storage, "a", MINUTE)
            fail_over(watcher, replica)
            with Redis(port=master.port) as old:
                # Old clients are not told; they find a server that may not write.
                old.replicaof("127.0.0.1", str(replica.port))
            second = await hit(storage, "a", MINUTE)
    assert (first.remaining, second.remaining) == (2, 1)


async def test_in_a_cluster_every_key_has_its_node() -> None:
    with short_folder() as folder, running_cluster(folder) as nodes:
        form_cluster(nodes)
        url = f"valkey+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"
        async with RedisStorage(url) as storage:
            answers = [
                await storage.decide("a", str(number % 30), [MINUTE], 2, spend=True)
                for number in range(60)
            ]
            await give_up_on_a_frozen_node(storage, nodes[0])
            left = [
                (await storage.decide("a", str(number), [MINUTE], 1, spend=False)).remaining
                for number in range(30)
            ]
    assert [answer.allowed for answer in answers] == [True] * 30 + [False] * 30
    assert left == [1] * 30


async def give_up_on_a_frozen_node(storage: RedisStorage, node: RedisServer) -> None:
    given_up = 0
    node.pause()
    try:
        for number in range(30):
            with anyio.move_on_after(0.02) as scope:
                await storage.decide("other", str(number), [Quota("q", 77, 60.0)], 7, spend=False)
            given_up += scope.cancelled_caught
    finally:
        node.resume()
    assert 0 < given_up < 30


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "rediss+cluster"])
async def test_tls_is_spoken_or_nothing(scheme: str) -> None:
    with short_folder() as folder, running_redis("valkey", folder, port=free_port()) as server:
        async with RedisStorage(f"{scheme}://127.0.0.1:{server.port}") as storage:
            with pytest.raises((StorageUnavailable, TimeoutError)), anyio.fail_after(0.3):
                await hit(storage, "a", MINUTE)
        with Redis(port=server.port) as client:
            assert client.dbsize() == 0


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port",
        "redis://:hun/ter2@host",
        "redis://host/hunter2",
        "redis://host?socket_timeout=hunter2",
        "redis://host?hunter2=1",
        "redis+sentinel://:hunter2@host",
        "redis+sentinel://:hunter2@host/service/db",
        "redis+sentinel://:hunter2@/service",
        "redis+cluster://:hunter2@host:x",
        "redis+other://:hunter2@host",
        "unix+cluster://:hunter2@host",
        "http://:hunter2@host",
        "redis://:hunter2@[host",
        "hunter2",
    ],
)
def test_a_url_that_cannot_be_read_is_a_value_error_and_never_shown(url: str) -> None:
    with pytest.raises(ValueError, match="RedisStorage") as caught:
        RedisStorage(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__
