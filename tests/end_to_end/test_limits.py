"""The application's limits: shared by Redis, lowered under load, told in stats."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, running_server
from tests.servers_redis import RedisServer, running_redis

LIMIT = 6
TARGET_WAIT_S = 0.6


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis("valkey", tmp_path / "redis") as server:
        yield server


def statuses(servers: list[Server], count: int) -> list[int]:
    """Of requests to the servers in turn, from one address."""
    turns = itertools.islice(itertools.cycle(servers), count)
    return [httpx2.get(f"{server.url}/livez").status_code for server in turns]


def test_two_servers_share_one_limit_by_redis(tmp_path: Path, redis: RedisServer) -> None:
    settings = {
        "CAPTUREKIT_REDIS_URL": f"unix://{redis.socket}",
        "CAPTUREKIT_RATE_LIMITS": f"ip={LIMIT}/minute",
    }
    with (
        running_server(tmp_path / "one", **settings) as one,
        running_server(tmp_path / "two", **settings) as two,
    ):
        answered = statuses([one, two], LIMIT + 4)

    assert answered == [200] * LIMIT + [429] * 4


def test_a_server_limits_by_itself_while_redis_is_gone(tmp_path: Path, redis: RedisServer) -> None:
    settings = {
        "CAPTUREKIT_REDIS_URL": f"unix://{redis.socket}",
        "CAPTUREKIT_RATE_LIMITS": f"ip={LIMIT}/minute",
    }
    with running_server(tmp_path / "data", **settings) as server:
        assert statuses([server], 1) == [200]
        redis.kill()
        answered = statuses([server], LIMIT + 2)
        told = server.log_lines("rate limits")

    assert answered == [200] * LIMIT + [429] * 2
    assert len(told) == 1


def test_pictures_that_would_wait_too_long_are_refused_for_now(tmp_path: Path) -> None:
    settings = {
        "CAPTUREKIT_PIPELINE": "tests.slow_steps:pipeline",
        "CAPTUREKIT_CONCURRENCY": "1",
        "CAPTUREKIT_TARGET_WAIT_S": str(TARGET_WAIT_S),
    }
    with running_server(tmp_path / "data", **settings) as server:
        token = server.add_device("camera")
        accepted, refused = upload_until_refused(server, token)
        stats = server.admin.get("/v1/admin/stats").json()["limits"]
        done = server.wait_until_processed()

    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"].endswith("#temporary-reduced-capacity")
    assert refused.json()["id"] == refused.headers["x-request-id"]
    assert int(refused.headers["retry-after"]) >= 1
    assert stats["status"] == "ok"
    assert stats["admission"]["refused"] >= 1
    assert stats["scaling"]["loads"]["queue"] is not None
    # Nothing that was taken is lost for it.
    assert len(done) == accepted
    assert {row["state"] for row in done} == {"completed"}


def test_what_is_refused_for_other_reasons_is_not_let_in_first(tmp_path: Path) -> None:
    settings = {
        "CAPTUREKIT_RATE_LIMITS": "ingest=3/minute",
        "CAPTUREKIT_PIPELINE": "tests.slow_steps:pipeline",
        "CAPTUREKIT_CONCURRENCY": "1",
        "CAPTUREKIT_TARGET_WAIT_S": "2",
    }
    with running_server(tmp_path / "data", **settings) as server:
        hog, modest = server.add_device("hog"), server.add_device("modest")
        hogged = [server.upload(hog, picture("4006381333931", str(n))) for n in range(40)]
        strangers = [server.upload("no token", picture("4006381333931")) for _ in range(20)]
        server.wait_until_processed()
        other = server.upload(modest, picture("4006381333931"))

    assert [answer.status_code for answer in hogged] == [200] * 3 + [429] * 37
    assert {answer.status_code for answer in strangers} == {401}
    assert other.status_code == 200


def test_metrics_tell_what_was_decided(tmp_path: Path, redis: RedisServer) -> None:
    settings = {
        "CAPTUREKIT_REDIS_URL": f"unix://{redis.socket}",
        "CAPTUREKIT_RATE_LIMITS": "ingest=2/minute, ip=100/minute",
    }
    with running_server(tmp_path / "data", **settings) as server:
        token = server.add_device("shelf")
        for number in range(3):
            server.upload(token, picture("4006381333931", str(number)))
        redis.kill()
        server.upload(token, picture("4006381333931"))
        answer = httpx2.get(f"{server.url}/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, sample.labels.get("route"), sample.labels.get("decision")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    decisions = "capturekit_ratelimit_decisions_total"
    assert samples[decisions, "ingest", "refused"] == 1
    assert samples[decisions, "ingest", "allowed"] == 3
    assert samples[decisions, "admission", "allowed"] == 3
    assert samples["capturekit_ratelimit_scale_ratio", "ingest", None] == 1
    assert samples["capturekit_ratelimit_backend_errors_total", None, None] >= 1


def test_an_address_that_is_locked_out_can_still_be_let_in_again(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", CAPTUREKIT_RATE_LIMITS="ip=3/minute") as server:
        assert statuses([server], 4) == [200] * 3 + [429]
        stranger = httpx2.get(
            f"{server.url}/v1/admin/limits", headers={"Authorization": "Bearer x"}
        )
        told = command(server, "reset", "ip", "ip:127.0.0.1")
        after = statuses([server], 1)

    assert (stranger.status_code, told.exit_code, after) == (429, 0, [200])


def upload_until_refused(server: Server, token: str) -> tuple[int, httpx2.Response]:
    accepted = 0
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = server.upload(
            token,
            picture("4006381333931"),
            captured_at=f"2026-01-01T00:{accepted // 60:02}:{accepted % 60:02}Z",
        )
        if answer.status_code == 503:
            return accepted, answer
        assert answer.status_code == 200, answer.text
        accepted += 1
    raise AssertionError(f"{accepted} uploads were taken and none refused")


@pytest.mark.parametrize("is_shared", [False, True])
def test_who_spent_what_is_shown_and_can_be_forgotten(
    tmp_path: Path, redis: RedisServer, *, is_shared: bool
) -> None:
    settings = {"CAPTUREKIT_RATE_LIMITS": "ingest=2/minute"}
    if is_shared:
        settings["CAPTUREKIT_REDIS_URL"] = f"unix://{redis.socket}"
    with running_server(tmp_path / "data", **settings) as server:
        token = server.add_device("shelf")
        answered = [server.upload(token, picture("4006381333931")).status_code for _ in range(3)]
        before = limits_of(server)
        told = command(server, "reset", "ingest", "device:shelf")
        after = limits_of(server)
        again = server.upload(token, picture("4006381333931")).status_code
        wrong = command(server, "reset", "nothing", "device:shelf")

    assert answered == [200, 200, 429]
    assert before["device:shelf"] == (2, 0)
    assert told.exit_code == 0
    assert "device:shelf" not in after or after["device:shelf"] == (2, 2)
    assert again == 200
    assert (wrong.exit_code, "no limit with id" in wrong.stderr) == (1, True)


def test_limits_of_no_server_say_where_they_were_looked_for() -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "capturekit",
            "limits",
            "--url",
            "http://127.0.0.1:9",
            "--token",
            "x",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("capturekit: no server answers at http://127.0.0.1:9")


@dataclass(frozen=True)
class Ended:
    exit_code: int
    stdout: str
    stderr: str


def command(server: Server, *arguments: str) -> Ended:
    given = ["--url", server.url, "--token", ADMIN_TOKEN, *arguments]
    ended = subprocess.run(
        [sys.executable, "-m", "capturekit", "limits", *given],
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def limits_of(server: Server) -> dict[str, tuple[int, int]]:
    """Limit and remaining of the limit on uploads, by key, as the command tells."""
    [ingest] = (
        limit
        for limit in json.loads(command(server, "--json").stdout)["limits"]
        if limit["name"] == "ingest"
    )
    assert command(server).exit_code == 0
    return {one["key"]: (one["limit"], one["remaining"]) for one in ingest["usage"]}


def test_limits_do_not_adapt_when_told_so(tmp_path: Path) -> None:
    settings = {"CAPTUREKIT_ADAPTIVE_LIMITS": "false", "CAPTUREKIT_RATE_LIMITS": "ingest=5/minute"}
    with running_server(tmp_path / "data", **settings) as server:
        limits = server.admin.get("/v1/admin/stats").json()["limits"]

    assert (limits["scale"], "admission" in limits) == (1.0, False)
    assert limits["rules"]["ingest"]["scale"] == 1.0
