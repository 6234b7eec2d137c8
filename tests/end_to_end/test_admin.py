"""The admin endpoints over real HTTP, as their shapes are promised."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import Server, running_server

CODE = "4006381333931"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def capture_id(server: Server) -> str:
    token = server.add_device("camera")
    answer = server.upload(token, picture(CODE)).json()
    server.wait_until_processed()
    capture_id: str = answer["capture_id"]
    return capture_id


ADMIN_PATHS = [
    ("POST", "/v1/admin/process-capture/x"),
    ("POST", "/v1/admin/process-pending"),
    ("GET", "/v1/admin/task-status/x"),
    ("POST", "/v1/admin/cancel-task/x"),
    ("GET", "/v1/admin/stats"),
    ("GET", "/v1/admin/queue-info"),
    ("GET", "/v1/inventory"),
    ("GET", "/v1/captures"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_PATHS)
def test_nothing_is_open_without_a_token(server: Server, method: str, path: str) -> None:
    assert httpx2.request(method, server.url + path).status_code == 401


@pytest.mark.parametrize(("method", "path"), ADMIN_PATHS)
def test_a_device_token_opens_no_admin_route(server: Server, method: str, path: str) -> None:
    token = server.add_device(f"nosy-{method}-{path.replace('/', '.')}".lower())
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.request(method, server.url + path, headers=headers).status_code == 403


def test_process_capture_queues_a_task_whose_status_can_be_followed(
    server: Server, capture_id: str
) -> None:
    answer = server.admin.post(f"/v1/admin/process-capture/{capture_id}")
    assert answer.status_code == 202
    body = answer.json()
    assert body == {
        "capture_id": capture_id,
        "task_id": body["task_id"],
        "status": "queued",
        "sync": False,
    }
    status = server.admin.get(answer.headers["location"], params={"wait": "20"}).json()
    assert set(status) >= {"queued_at", "started_at", "finished_at", "next_retry_at", "progress"}
    assert (status["state"], status["ready"], status["successful"]) == ("succeeded", True, True)
    assert status["error"] is None
    assert len(status["attempts"]) == 1


def test_sync_and_async_give_the_same_observations(server: Server, capture_id: str) -> None:
    path = f"/v1/admin/process-capture/{capture_id}"
    task = server.admin.post(path).json()["task_id"]
    status = server.admin.get(f"/v1/admin/task-status/{task}", params={"wait": "20"}).json()
    answer = server.admin.post(path, params={"sync": "true"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["sync"]) == ("completed", True)
    assert body["observation_ids"] == status["result"]["observation_ids"] != []


def test_processing_again_changes_no_stock(server: Server, capture_id: str) -> None:
    before = server.stock()
    server.admin.post(f"/v1/admin/process-capture/{capture_id}", params={"sync": "true"})
    assert server.stock() == before


def test_an_unknown_capture_and_an_unknown_task_are_404(server: Server) -> None:
    assert server.admin.post("/v1/admin/process-capture/nope").status_code == 404
    assert server.admin.get("/v1/admin/task-status/nope").status_code == 404
    assert server.admin.post("/v1/admin/cancel-task/nope").status_code == 404


def test_cancelling_a_finished_task_says_so(server: Server, capture_id: str) -> None:
    path = f"/v1/admin/process-capture/{capture_id}"
    task = server.admin.post(path, params={"sync": "true"}).json()["task_id"]
    answer = server.admin.post(f"/v1/admin/cancel-task/{task}")
    assert answer.status_code == 409
    assert answer.json()["type"].endswith("already_finished")


@pytest.mark.usefixtures("capture_id")
def test_process_pending_with_nothing_pending_queues_nothing(server: Server) -> None:
    server.wait_until_processed()
    answer = server.admin.post("/v1/admin/process-pending")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["task_ids"], body["pending_count"], body["skipped"]) == ([], 0, 0)
    assert body["batch_id"]


@pytest.mark.usefixtures("capture_id")
def test_stats_count_what_there_is(server: Server) -> None:
    server.wait_until_processed()
    stats = server.admin.get("/v1/admin/stats").json()
    assert all(block["status"] == "ok" for block in stats.values())
    captures = stats["captures"]
    assert captures["total"] == captures["completed"] == len(server.captures())
    assert (captures["pending"], captures["processing"], captures["failed"]) == (0, 0, 0)
    assert set(stats["queue"]) >= {"active_jobs", "reserved_jobs", "total_queued"}
    assert set(stats) == {
        "devices",
        "captures",
        "observations",
        "inventory",
        "queue",
        "limits",
        "storage",
    }


def test_queue_info_shows_the_worker(server: Server) -> None:
    body = server.admin.get("/v1/admin/queue-info").json()
    assert body["reserved"] == {"tasks": [], "by_worker": {}}
    (worker,) = body["workers"]
    assert worker["pid"] == server.process.pid
    assert body["pool_size"] == worker["concurrency"]
    assert set(body["depth"]) == {
        "queued",
        "scheduled",
        "running",
        "succeeded",
        "failed",
        "cancelled",
    }


@pytest.mark.usefixtures("capture_id")
def test_an_item_can_be_renamed_and_have_a_second_code(server: Server) -> None:
    renamed = server.admin.patch(f"/v1/items/{CODE}", json={"name": "Apples", "unit": "pcs"})
    assert renamed.json()["name"] == "Apples"
    assert server.admin.put(f"/v1/items/{CODE}/codes/96385074", json={}).status_code == 200
    (row,) = server.admin.get("/v1/inventory", params={"q": "apples"}).json()["items"]
    assert row["codes"] == [CODE, "96385074"]
    assert set(row) == {
        "item_id",
        "name",
        "quantity",
        "unit",
        "location",
        "confidence",
        "last_seen_at",
        "codes",
    }


def test_why_leads_from_the_figure_to_the_box_on_the_picture(
    server: Server, capture_id: str
) -> None:
    (why,) = server.admin.get(f"/v1/inventory/{CODE}/why").json()["stock"]
    assert why["quantity"] == 1
    assert [(move["from"], move["to"], move["quantity"]) for move in why["moves"]] == [
        ("~adjusted", "camera", 1)
    ]
    assert why["basis"]["capture_id"] == capture_id
    (evidence,) = why["basis"]["evidence"]
    assert len(evidence["box"]) == 4


def test_an_unknown_path_is_a_problem(server: Server) -> None:
    answer = server.admin.get("/nowhere")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"cursor": "nonsense"}])
def test_a_wrong_query_says_which_part_is_wrong(server: Server, query: dict[str, str]) -> None:
    answer = server.admin.get("/v1/inventory", params=query)
    assert answer.status_code == 422
    assert next(iter(query)) in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_health_is_ok_and_open(server: Server, path: str) -> None:
    assert httpx2.get(server.url + path).json()["status"] == "ok"
