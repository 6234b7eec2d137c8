"""The API does what its description says: every route is asked, and every answer compared."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from tests.doubts import doubt
from tests.made_pictures import picture
from tests.servers import Server, running_server

pytestmark = [pytest.mark.needs_extra("server"), pytest.mark.timeout(180)]

CODE = "4006381333931"


class Contract:
    """A server, its description, and which answers were seen to be as described."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.told: dict[str, Any] = server.admin.get("/openapi.json").json()
        self.components = _closed(self.told["components"])
        self.seen: set[tuple[str, str, int]] = set()

    def ask(
        self,
        route: str,
        status: int,
        of: Mapping[str, object] | None = None,
        *,
        by: httpx2.Client | None = None,
        **sent: Any,  # noqa: ANN401  # what httpx2 takes
    ) -> dict[str, Any]:
        """Ask a route and compare status and body with the description.

        ``of`` fills in the path. Returns the body where it is a JSON object.
        """
        method, template = route.split(" ")
        answer = (by or self.server.admin).request(method, template.format(**of or {}), **sent)
        assert answer.status_code == status, answer.text
        self.seen.add((method, template, status))
        described = self.told["paths"][template][method.lower()]["responses"][str(status)]
        if "$ref" in described:
            name = described["$ref"].rpartition("/")[2]
            described = self.told["components"]["responses"][name]
        return self._compared(answer, described.get("content", {}))

    def _compared(self, answer: httpx2.Response, contents: dict[str, Any]) -> dict[str, Any]:
        if not contents:
            assert answer.content == b""
            return {}
        media_type = answer.headers["content-type"].partition(";")[0]
        schema = contents[media_type]["schema"]
        if "json" not in media_type:
            return {}
        body: dict[str, Any] = answer.json()
        Draft202012Validator({**schema, "components": self.components}).validate(body)
        return body


def _closed(node: object) -> object:
    """The schemas with no room for what they do not name."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(one) for name, one in node.items()}
    if isinstance(node.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    quiet = {
        "CAPTUREKIT_CONCURRENCY": "0",
        "CAPTUREKIT_RATE_LIMITS": "ingest=100/minute",
        "CAPTUREKIT_WEBHOOK_ALLOW_PRIVATE": "true",
    }
    with running_server(tmp_path_factory.mktemp("data"), **quiet) as server:
        yield Contract(server)


def test_every_answer_is_as_described(contract: Contract) -> None:
    """A walk through all of the API, in an order in which each step has what it needs."""
    _look_around(contract)
    _name_things(contract)
    _look_after_cameras(contract)
    capture_id = _upload(contract)
    _process(contract, capture_id)
    _review(contract, capture_id)
    _move(contract)
    _run_the_server(contract)
    _let_people_in(contract)
    _tell_others(contract)
    _take_away(contract)

    described = {
        (method.upper(), template, int(status))
        for template, operations in contract.told["paths"].items()
        for method, operation in operations.items()
        for status in operation["responses"]
        if status.startswith("2")
    }
    # It takes a task that is running at that moment; the workers' tests have one.
    described.remove(("POST", "/v1/admin/cancel-task/{task_id}", 202))
    # This server has no worker; the queue's tests ask one.
    described.remove(("POST", "/v1/admin/queue/workers/{worker_id}/resize", 200))
    assert described == {one for one in contract.seen if one[2] < 300}


def _look_around(contract: Contract) -> None:
    for path in (
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/docs",
        "/",
        "/capture",
        "/openapi.json",
    ):
        contract.ask("GET " + path, 200)
    contract.ask("GET /v1/hello", 200)


def _name_things(contract: Contract) -> None:
    item = {"item_id": "tea", "name": "Tea", "unit": "box", "codes": [{"code": CODE}]}
    contract.ask("POST /v1/items", 201, json=item)
    contract.ask("POST /v1/items", 409, json=item)
    contract.ask("GET /v1/items", 200)
    contract.ask("GET /v1/items/{item_id}", 200, {"item_id": "tea"})
    contract.ask("PATCH /v1/items/{item_id}", 200, {"item_id": "tea"}, json={"name": "Green tea"})
    code = {"item_id": "tea", "code": "TEA-6"}
    contract.ask("PUT /v1/items/{item_id}/codes/{code}", 200, code, json={"quantity": 6})
    contract.ask("POST /v1/locations", 201, json={"location_id": "pantry"})
    contract.ask("GET /v1/locations", 200)
    pantry = {"location_id": "pantry"}
    contract.ask("PATCH /v1/locations/{location_id}", 200, pantry, json={"name": "Pantry"})
    level = "/v1/par-levels/{location_id}/{item_id}"
    contract.ask("PUT " + level, 200, pantry | {"item_id": "tea"}, json={"minimum": 5})
    contract.ask("GET /v1/par-levels", 200)


def _look_after_cameras(contract: Contract) -> None:
    contract.ask("POST /v1/devices", 201, json={"name": "door"})
    door = {"device_id": "door"}
    contract.ask("PATCH /v1/devices/{device_id}", 200, door, json={"location": "pantry"})
    contract.ask("POST /v1/devices/{device_id}/rotate", 200, door)
    claim = contract.ask("POST /v1/devices/claims", 201, json={"device_id": "hatch"})
    offered = {"claim_id": claim["claim_id"]}
    contract.ask("GET /v1/devices/claims/{claim_id}", 200, offered)
    contract.ask("GET /v1/devices/claims/{claim_id}/qr.svg", 200, offered)
    contract.ask("POST /v1/claim", 201, json={"code": claim["code"]})
    contract.ask("POST /v1/claim", 403, json={"code": claim["code"]})
    config = {"every_s": 300, "size": "uxga"}
    contract.ask("PUT /v1/devices/{device_id}/config", 200, door, json=config)
    contract.ask("GET /v1/devices/{device_id}/config", 200, door)
    contract.ask("GET /v1/devices/{device_id}", 200, door)
    contract.ask("POST /v1/devices/{device_id}/revoke", 200, door)
    contract.ask("GET /v1/devices", 200)


def _upload(contract: Contract) -> str:
    token = contract.server.add_device("cam")
    view = {"device_id": "cam", "location_id": "pantry"}
    contract.ask("PUT /v1/devices/{device_id}/views/{location_id}", 200, view, json={})
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=contract.server.url, headers=headers, timeout=20) as device:
        files = {"image": ("a.jpg", picture(CODE), "image/jpeg")}
        stored = contract.ask("POST /v1/ingest", 200, by=device, files=files)
        frame = "/v1/devices/{device_id}/frames/{name}"
        as_jpeg = {"Content-Type": "image/jpeg"}
        jpeg: dict[str, Any] = {"content": picture("4000417025005"), "headers": as_jpeg}
        first = {"device_id": "cam", "name": "7f3a-1"}
        contract.ask("PUT " + frame, 201, first, by=device, **jpeg)
        contract.ask("PUT " + frame, 200, first, by=device, **jpeg)
        contract.ask("POST /v1/ingest", 415, by=device, json={})
        contract.ask("GET /v1/captures", 403, by=device)
    capture_id: str = stored["capture_id"]
    return capture_id


def _process(contract: Contract, capture_id: str) -> None:
    process, of_capture = "/v1/admin/process-capture/{capture_id}", {"capture_id": capture_id}
    again = "/v1/captures/{capture_id}/reprocess"
    contract.ask("POST " + again, 200, of_capture, params={"dry_run": "true"})
    contract.ask("POST " + again, 202, of_capture)
    task_id = contract.ask("POST " + process, 202, of_capture)["task_id"]
    contract.ask("POST /v1/admin/process-pending", 202)
    contract.ask("GET /v1/admin/queue-info", 200)
    contract.ask("POST " + process, 200, of_capture, params={"sync": "true"})
    contract.ask("POST /v1/admin/process-pending", 200, params={"sync": "true"})
    contract.ask("GET /v1/admin/task-status/{task_id}", 200, {"task_id": task_id})
    contract.ask("POST /v1/admin/cancel-task/{task_id}", 409, {"task_id": task_id})
    waiting = contract.ask("POST " + process, 202, of_capture)["task_id"]
    contract.ask("POST /v1/admin/cancel-task/{task_id}", 200, {"task_id": waiting})
    contract.ask("GET /v1/captures", 200)
    contract.ask("GET /v1/captures/{capture_id}", 200, of_capture)
    contract.ask("GET /v1/captures/{capture_id}/thumbnail", 200, of_capture)


def _review(contract: Contract, capture_id: str) -> None:
    doubt(contract.server.data, capture_id)
    contract.ask("PUT /v1/policies", 200, json={"threshold": 0.9})
    contract.ask("GET /v1/policies", 200)
    waiting = contract.ask("GET /v1/reviews", 200)["reviews"]
    one = {"observation_id": waiting[0]["observation_id"]}
    contract.ask("POST /v1/reviews/{observation_id}/accept", 200, one)
    contract.ask("POST /v1/reviews/{observation_id}/reject", 200, one, json={"reason": "no"})
    correction = {"item": "tea", "quantity": 3}
    contract.ask("POST /v1/reviews/{observation_id}/correct", 200, one, json=correction)
    contract.ask("POST /v1/reviews/{observation_id}/withdraw", 200, one)
    contract.ask("DELETE /v1/policies", 200)


def _move(contract: Contract) -> None:
    bought = {"kind": "receive", "item": "tea", "quantity": 9, "to": "pantry"}
    lot = {"lot": "A1", "expires_on": "2026-12-01"}
    moved = contract.ask("POST /v1/movements", 200, json={**bought, **lot})
    of_movement = {"movement_id": moved["movement"]["movement_id"]}
    contract.ask("GET /v1/movements/{movement_id}", 200, of_movement)
    contract.ask("GET /v1/inventory", 200)
    contract.ask("GET /v1/inventory/history", 200)
    contract.ask("GET /v1/inventory/expiring", 200, params={"within_days": 3660})
    contract.ask("GET /v1/inventory/{item_id}/why", 200, {"item_id": "tea"})
    contract.ask("GET /v1/items/{item_id}/lots", 200, {"item_id": "tea"})
    contract.ask("GET /v1/items/{item_id}/forecast", 200, {"item_id": "tea"})
    contract.ask("POST /v1/movements/{movement_id}/void", 200, of_movement)
    counted = {"item": "tea", "location": "pantry", "quantity": 2}
    contract.ask("POST /v1/inventory/override", 200, json=counted)
    contract.ask("GET /v1/inventory/{item_id}/why", 200, {"item_id": "tea"})
    assert contract.ask("GET /v1/alerts", 200)["alerts"]


def _run_the_server(contract: Contract) -> None:
    made = contract.ask("POST /v1/tokens", 201, json={"name": "till", "role": "viewer"})
    contract.ask("GET /v1/tokens", 200)
    contract.ask("DELETE /v1/tokens/{token_id}", 204, {"token_id": made["id"]})
    for order in ("pause", "resume", "drain", "retry-failed"):
        contract.ask(f"POST /v1/admin/queue/{order}", 200)
    contract.ask("POST /v1/admin/queue/resume", 200)
    contract.ask("GET /v1/admin/stats", 200)
    contract.ask("GET /v1/admin/storage", 200)
    contract.ask("POST /v1/admin/storage/verify", 200)
    contract.ask("POST /v1/admin/storage/collect", 200, params={"dry_run": "true"})
    contract.ask("POST /v1/admin/retention", 200, params={"dry_run": "true", "days": 1})
    contract.ask("GET /v1/admin/limits", 200)
    contract.ask("GET /v1/export", 200)
    told = contract.ask("GET /v1/export", 200, params={"format": "json"})
    contract.ask("POST /v1/import", 200, json=told)
    contract.ask("POST /v1/import", 422, content=b"nonsense")


def _let_people_in(contract: Contract) -> None:
    ana = {"name": "ana", "password": "correct horse battery"}
    contract.ask("POST /v1/people", 201, json=ana | {"role": "viewer"})
    contract.ask("POST /v1/people", 409, json=ana | {"role": "viewer"})
    contract.ask("GET /v1/people", 200)
    contract.ask("PATCH /v1/people/{name}", 200, {"name": "ana"}, json={"role": "operator"})
    with httpx2.Client(base_url=contract.server.url, timeout=20) as browser:
        contract.ask("POST /v1/session", 401, by=browser, json=ana | {"password": "wrong"})
        opened = contract.ask("POST /v1/session", 201, by=browser, json=ana)
        contract.ask("GET /v1/session", 200, by=browser)
        contract.ask("DELETE /v1/session", 403, by=browser)
        browser.headers["X-CSRF-Token"] = opened["csrf_token"]
        contract.ask("DELETE /v1/session", 204, by=browser)
    contract.ask("DELETE /v1/session", 409)


def _tell_others(contract: Contract) -> None:
    new = contract.ask("POST /v1/webhooks", 201, json={"url": "http://127.0.0.1:9/"})
    one = {"webhook_id": new["id"]}
    contract.ask("POST /v1/webhooks/{webhook_id}/test", 200, one)
    contract.ask("POST /v1/webhooks/{webhook_id}/replay", 200, one, json={"after": 0})
    contract.ask("POST /v1/webhooks/{webhook_id}/enable", 200, one)
    contract.ask("GET /v1/webhooks", 200)
    contract.ask("GET /v1/webhooks/{webhook_id}", 200, one)
    contract.ask("GET /v1/webhooks/{webhook_id}/attempts", 200, one)
    contract.ask("DELETE /v1/webhooks/{webhook_id}", 204, one)
    with contract.server.admin.stream("GET", "/v1/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        contract.seen.add(("GET", "/v1/events", 200))


def _take_away(contract: Contract) -> None:
    key = {"name": "ingest", "key": "device:cam"}
    contract.ask("DELETE /v1/admin/limits/{name}/{key}", 204, key)
    code = {"item_id": "tea", "code": "TEA-6"}
    contract.ask("DELETE /v1/items/{item_id}/codes/{code}", 204, code)
    level = {"location_id": "pantry", "item_id": "tea"}
    contract.ask("DELETE /v1/par-levels/{location_id}/{item_id}", 204, level)


def test_every_route_opens_to_whom_it_says(contract: Contract) -> None:
    from capturekit.web.operation import Access
    from capturekit.web.routes import ROUTES

    server = contract.server
    tokens = {Access.DEVICE: server.add_device("nosy")}
    for role in (Access.VIEWER, Access.OPERATOR):
        new = {"name": f"some-{role}", "role": role.value}
        tokens[role] = server.admin.post("/v1/tokens", json=new).json()["token"]
    levels = list(Access)

    for route in ROUTES:
        url = server.url + route.template.replace("{device_id}", "nosy")
        is_open = route.access is Access.ANYONE
        stranger = httpx2.request(route.method, url)
        assert (stranger.status_code in (401, 415)) is not is_open, route
        # A stream would not end, and a form that is none is refused before anyone's rights are.
        if is_open or route.template in ("/v1/events", "/v1/ingest"):
            continue
        for level, token in tokens.items():
            answer = httpx2.request(route.method, url, headers={"Authorization": f"Bearer {token}"})
            # What a device may, only a device may.
            is_barred = levels.index(level) < levels.index(route.access)
            is_barred |= (route.access is Access.DEVICE) is not (level is Access.DEVICE)
            assert (answer.status_code == 403) is is_barred, (level, route)
