"""Every route, asked by each kind of caller: who may, and who hears 401 or 403."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx2
import pytest

from capturekit.web.routes import ROUTES
from tests.servers import ADMIN_TOKEN, Server, run_cli, running_server

ANYONE: Final = "anyone"
DEVICE: Final = "device"
VIEWER: Final = "viewer"
OPERATOR: Final = "operator"
ADMIN: Final = "admin"

RULES: Final = {
    "POST /v1/ingest": DEVICE,
    "PUT /v1/devices/{device_id}/frames/{name}": DEVICE,
    "GET /v1/hello": ANYONE,
    "POST /v1/admin/process-capture/{capture_id}": OPERATOR,
    "POST /v1/admin/process-pending": OPERATOR,
    "GET /v1/admin/task-status/{task_id}": VIEWER,
    "POST /v1/admin/cancel-task/{task_id}": OPERATOR,
    "GET /v1/admin/stats": VIEWER,
    "GET /v1/admin/queue-info": VIEWER,
    "GET /v1/admin/storage": ADMIN,
    "POST /v1/admin/storage/verify": ADMIN,
    "POST /v1/admin/storage/collect": ADMIN,
    "POST /v1/admin/retention": ADMIN,
    "GET /v1/admin/limits": ADMIN,
    "DELETE /v1/admin/limits/{name}/{key:path}": ADMIN,
    "GET /v1/captures": VIEWER,
    "GET /v1/captures/{capture_id}": VIEWER,
    "GET /v1/captures/{capture_id}/thumbnail": VIEWER,
    "POST /v1/captures/{capture_id}/reprocess": OPERATOR,
    "GET /v1/reviews": VIEWER,
    "POST /v1/reviews/{observation_id}/accept": OPERATOR,
    "POST /v1/reviews/{observation_id}/reject": OPERATOR,
    "POST /v1/reviews/{observation_id}/correct": OPERATOR,
    "POST /v1/reviews/{observation_id}/withdraw": OPERATOR,
    "GET /v1/policies": VIEWER,
    "PUT /v1/policies": ADMIN,
    "DELETE /v1/policies": ADMIN,
    "GET /v1/inventory": VIEWER,
    "GET /v1/inventory/history": VIEWER,
    "GET /v1/inventory/expiring": VIEWER,
    "POST /v1/inventory/override": OPERATOR,
    "GET /v1/inventory/{item_id:path}/why": VIEWER,
    "POST /v1/movements": OPERATOR,
    "GET /v1/movements/{movement_id}": VIEWER,
    "POST /v1/movements/{movement_id}/void": OPERATOR,
    "GET /v1/items": VIEWER,
    "POST /v1/items": OPERATOR,
    "GET /v1/items/{item_id:path}/lots": VIEWER,
    "GET /v1/items/{item_id:path}/forecast": VIEWER,
    "PUT /v1/items/{item_id:path}/codes/{code:path}": OPERATOR,
    "DELETE /v1/items/{item_id:path}/codes/{code:path}": OPERATOR,
    "GET /v1/items/{item_id:path}": VIEWER,
    "PATCH /v1/items/{item_id:path}": OPERATOR,
    "GET /v1/locations": VIEWER,
    "POST /v1/locations": OPERATOR,
    "PATCH /v1/locations/{location_id}": OPERATOR,
    "PUT /v1/devices/{device_id}/views/{location_id}": ADMIN,
    "GET /v1/par-levels": VIEWER,
    "PUT /v1/par-levels/{location_id}/{item_id:path}": OPERATOR,
    "DELETE /v1/par-levels/{location_id}/{item_id:path}": OPERATOR,
    "GET /v1/alerts": VIEWER,
    "POST /v1/import": OPERATOR,
    "GET /v1/export": VIEWER,
    "GET /v1/events": VIEWER,
    "GET /v1/webhooks": ADMIN,
    "POST /v1/webhooks": ADMIN,
    "GET /v1/webhooks/{webhook_id}": ADMIN,
    "DELETE /v1/webhooks/{webhook_id}": ADMIN,
    "POST /v1/webhooks/{webhook_id}/enable": ADMIN,
    "POST /v1/webhooks/{webhook_id}/replay": ADMIN,
    "POST /v1/webhooks/{webhook_id}/test": ADMIN,
    "GET /v1/webhooks/{webhook_id}/attempts": ADMIN,
    "GET /v1/devices": ADMIN,
    "POST /v1/devices": ADMIN,
    "GET /v1/devices/{device_id}": ADMIN,
    "PATCH /v1/devices/{device_id}": ADMIN,
    "POST /v1/devices/{device_id}/rotate": ADMIN,
    "POST /v1/devices/{device_id}/revoke": ADMIN,
    "GET /v1/devices/{device_id}/config": ADMIN,
    "PUT /v1/devices/{device_id}/config": ADMIN,
    "POST /v1/session": ANYONE,
    "GET /v1/session": VIEWER,
    "DELETE /v1/session": VIEWER,
    "GET /v1/people": ADMIN,
    "POST /v1/people": ADMIN,
    "PATCH /v1/people/{name}": ADMIN,
    "POST /v1/devices/claims": ADMIN,
    "GET /v1/devices/claims/{claim_id}": ADMIN,
    "GET /v1/devices/claims/{claim_id}/qr.svg": ADMIN,
    "POST /v1/claim": ANYONE,
    "GET /capture": ANYONE,
    "POST /v1/admin/queue/pause": ADMIN,
    "POST /v1/admin/queue/resume": ADMIN,
    "POST /v1/admin/queue/drain": ADMIN,
    "POST /v1/admin/queue/retry-failed": ADMIN,
    "POST /v1/admin/queue/workers/{worker_id}/resize": ADMIN,
    "GET /v1/tokens": ADMIN,
    "POST /v1/tokens": ADMIN,
    "DELETE /v1/tokens/{token_id}": ADMIN,
    "GET /livez": ANYONE,
    "GET /readyz": ANYONE,
    "GET /health": ANYONE,
    "GET /metrics": ANYONE,
    "GET /openapi.json": ANYONE,
    "GET /docs": ANYONE,
    "GET /": ANYONE,
}
"""The least that a caller must be. A route that is not here fails the tests."""

RANKS: Final = (VIEWER, OPERATOR, ADMIN)


@dataclass(frozen=True)
class Callers:
    """A server, and the token of each kind of caller; None for one that has none."""

    server: Server
    tokens: dict[str, str | None]

    def status(self, caller: str, route: str) -> int:
        """What the caller hears at the route, for things that are not there."""
        method, _, path = route.partition(" ")
        address = path.replace(":path", "").replace("{device_id}/frames/{name}", "cam/frames/b-1")
        token = self.tokens[caller]
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = self.server.url + address.replace("{", "no-").replace("}", "")
        # Only the status is read: a stream would not end.
        with httpx2.stream(method, url, headers=headers, timeout=20) as answer:
            return answer.status_code


def made(server: Server, name: str, role: str) -> str:
    answer = run_cli(server.data, "tokens", "add", name, "--role", role, "--json")
    token: str = json.loads(answer)["token"]
    return token


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        tokens: dict[str, str | None] = {"nobody": None, DEVICE: server.add_device("cam")}
        tokens |= {role: made(server, f"a-{role}", role) for role in RANKS}
        tokens["revoked"] = made(server, "old", ADMIN)
        run_cli(server.data, "tokens", "revoke", "old")
        tokens["first"] = ADMIN_TOKEN
        yield Callers(server, tokens)


def expected(caller: str, rule: str) -> set[int]:
    """The refusals that a caller hears under a rule; none of them where it is let in."""
    if rule == ANYONE:
        return set()
    if caller in ("nobody", "revoked"):
        return {401}
    if rule == DEVICE:
        return set() if caller == DEVICE else {403}
    if caller == DEVICE:
        return {403}
    rank = ADMIN if caller == "first" else caller
    return set() if RANKS.index(rank) >= RANKS.index(rule) else {403}


def test_every_route_has_its_rule_also_in_the_reference() -> None:
    assert {f"{one.method} {one.path}": one.access for one in ROUTES} == RULES


@pytest.mark.parametrize("route", RULES)
def test_a_route_opens_to_those_who_may_and_to_no_others(callers: Callers, route: str) -> None:
    for caller in callers.tokens:
        # A form is asked for before who is asking, where its token may be in it.
        if route == "POST /v1/ingest" and caller != "revoked":
            continue
        status = callers.status(caller, route)
        refusal = expected(caller, RULES[route])
        assert {status} & {401, 403} == refusal, (caller, status)


def test_a_form_of_pictures_is_taken_from_devices_alone(callers: Callers) -> None:
    for caller in (VIEWER, OPERATOR, ADMIN, "first"):
        assert callers.server.upload(str(callers.tokens[caller]), b"\xff\xd8").status_code == 403
    assert callers.server.upload("wrong", b"\xff\xd8").status_code == 401


def test_a_refusal_says_which_role_it_takes(callers: Callers) -> None:
    headers = {"Authorization": f"Bearer {callers.tokens[VIEWER]}"}

    answer = httpx2.post(f"{callers.server.url}/v1/admin/process-pending", headers=headers)

    assert "takes the role operator" in answer.json()["detail"]


def test_a_token_is_shown_once_listed_without_its_secret_and_revoked(callers: Callers) -> None:
    admin = callers.server.admin
    answer = admin.post("/v1/tokens", json={"name": "till", "role": "operator"})
    assert answer.status_code == 201
    token = answer.json()
    headers = {"Authorization": f"Bearer {token['token']}"}
    stock = f"{callers.server.url}/v1/inventory"
    assert httpx2.get(stock, headers=headers).status_code == 200

    listed = {one["name"]: one for one in admin.get("/v1/tokens").json()["tokens"]}
    assert (listed["till"]["role"], listed["till"]["id"]) == ("operator", token["id"])
    assert token["token"] not in json.dumps(listed)

    assert admin.delete(f"/v1/tokens/{token['id']}").status_code == 204
    assert httpx2.get(stock, headers=headers).status_code == 401


def test_what_is_done_is_told_of_who_asked(callers: Callers) -> None:
    headers = {"Authorization": f"Bearer {callers.tokens[OPERATOR]}"}
    callers.server.admin.post("/v1/items", json={"item_id": "tea", "name": "Tea"})
    count = {"item": "tea", "location": "cam", "quantity": 2}
    url = f"{callers.server.url}/v1/inventory/override"

    by_default = httpx2.post(url, json=count, headers=headers).json()["movement"]["by"]
    as_said = httpx2.post(url, json=count | {"by": "ana"}, headers=headers).json()["movement"]["by"]

    assert (by_default, as_said) == ("a-operator", "ana")
