"""The levers on the queue over real HTTP, on every backend that a server can have."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import Server, running_server
from tests.servers_redis import running_redis

pytestmark = pytest.mark.timeout(180)

CODE = "4006381333931"
PATHS = [
    "/v1/admin/queue/pause",
    "/v1/admin/queue/resume",
    "/v1/admin/queue/drain",
    "/v1/admin/queue/retry-failed",
    "/v1/admin/queue/workers/x/resize?concurrency=1",
]


@pytest.fixture(scope="module", params=["sql", "memory", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("data")
    if request.param == "redis":
        with (
            running_redis("valkey", folder / "redis") as redis,
            running_server(folder / "data", CAPTUREKIT_QUEUE_URL=redis.url) as server,
        ):
            yield server
    else:
        url = f"{request.param}://"
        with running_server(folder / "data", CAPTUREKIT_QUEUE_URL=url) as server:
            yield server


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.add_device("camera")


def ask(server: Server, path: str, **query: str | float) -> dict[str, object]:
    answer = server.admin.post(f"/v1/admin/queue/{path}", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, object] = answer.json()
    return body


def test_a_paused_queue_hands_nothing_out_until_it_is_resumed(server: Server, token: str) -> None:
    assert ask(server, "pause")["is_paused"] is True
    capture = server.upload(token, picture(CODE)).json()["capture_id"]
    assert ask(server, "drain", wait=5)["is_drained"] is True
    path = f"/v1/captures/{capture}"
    assert server.admin.get(path, params={"wait": "0.5"}).json()["state"] == "pending"
    resumed = ask(server, "resume")
    assert (resumed["is_paused"], resumed["paused"]) == (False, [])
    assert server.admin.get(path, params={"wait": "30"}).json()["state"] == "completed"


def test_one_queue_may_be_paused_alone(server: Server, token: str) -> None:
    paused = ask(server, "pause", queue="maintenance")
    assert (paused["is_paused"], paused["paused"]) == (False, ["maintenance"])
    server.upload(token, picture(CODE, CODE))
    server.wait_until_processed()
    assert ask(server, "resume", queue="maintenance")["paused"] == []


def test_what_did_not_fail_is_not_retried(server: Server) -> None:
    assert ask(server, "retry-failed") == {"retried": 0}
    assert ask(server, "retry-failed", queue="default", batch="none") == {"retried": 0}


def test_a_worker_is_told_how_many_to_run(server: Server) -> None:
    (worker,) = server.admin.get("/v1/admin/queue-info").json()["workers"]
    asked = {"worker_id": worker["id"], "concurrency": 7}
    assert ask(server, f"workers/{worker['id']}/resize", concurrency=7) == asked
    for _ in range(100):
        (worker,) = server.admin.get("/v1/admin/queue-info").json()["workers"]
        if worker["concurrency"] == 7:
            break
        server.admin.get("/v1/admin/task-status/none", params={"wait": "1"})
        ask(server, "drain", wait=0.2)
        ask(server, "resume")
    assert worker["concurrency"] == 7


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("workers/nobody/resize?concurrency=2", 404),
        ("workers/nobody/resize?concurrency=0", 422),
        ("workers/nobody/resize", 422),
        ("pause?queue=", 422),
        (f"pause?queue={'x' * 101}", 422),
        ("drain?wait=nan", 422),
    ],
)
def test_what_cannot_be_is_refused(server: Server, path: str, status: int) -> None:
    answer = server.admin.post(f"/v1/admin/queue/{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", PATHS)
def test_only_an_admin_may(server: Server, token: str, path: str) -> None:
    assert httpx2.post(server.url + path).status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.post(server.url + path, headers=headers).status_code == 403
