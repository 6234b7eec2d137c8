"""Cameras are looked after over HTTP: listed, added, changed, given other tokens, shut out."""

import json
from collections.abc import Iterator

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import Server, run_cli, running_server

CODE = "4006381333931"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("devices")) as server:
        yield server


def add(server: Server, name: str, **more: object) -> str:
    """The token of a new device."""
    answer = server.admin.post("/v1/devices", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def kind(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def test_a_device_is_added_and_its_token_shown_once(server: Server) -> None:
    answer = server.admin.post(
        "/v1/devices", json={"name": "Pantry, upper", "id": "pantry", "exhaustive": True}
    )
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/devices/pantry"
    token = answer.json()["token"]
    assert server.upload(token, picture(CODE), battery_v="3.9", rssi="-60").status_code == 200
    shown = server.admin.get("/v1/devices/pantry")
    assert token not in shown.text
    told = shown.json()
    assert (told["name"], told["location"], told["exhaustive"]) == ("Pantry, upper", "pantry", True)
    assert (told["battery_v"], told["rssi"]) == (3.9, -60)
    assert told["last_seen_at"] is not None
    assert len(told["keys"]) == 1
    assert kind(server.admin.post("/v1/devices", json={"name": "pantry"})) == (409, "conflict")


def test_devices_come_in_pages(server: Server) -> None:
    for number in range(3):
        add(server, f"page-{number}")
    first = server.admin.get("/v1/devices", params={"q": "page-", "limit": 2}).json()
    assert [one["id"] for one in first["devices"]] == ["page-0", "page-1"]
    parameters = {"q": "page-", "limit": 2, "cursor": first["next"]}
    last = server.admin.get("/v1/devices", params=parameters).json()
    assert ([one["id"] for one in last["devices"]], last["next"]) == (["page-2"], None)


def test_a_device_is_changed(server: Server) -> None:
    add(server, "changed")
    server.admin.post("/v1/locations", json={"location_id": "cellar"})
    change = {"name": "Cellar", "location": "cellar", "exhaustive": True}
    answer = server.admin.patch("/v1/devices/changed", json=change)
    assert answer.status_code == 200
    assert change.items() <= server.admin.get("/v1/devices/changed").json().items()


def test_a_device_sees_locations(server: Server) -> None:
    add(server, "viewer")
    view = {"polygon": [[0, 0], [1, 0], [1, 1]], "is_exhaustive": False}
    server.admin.put("/v1/devices/viewer/views/bin", json=view)
    (shown,) = server.admin.get("/v1/devices/viewer").json()["views"]
    assert shown == view | {"location_id": "bin"}


def test_an_old_token_uploads_while_the_device_learns_the_new_one(server: Server) -> None:
    old = add(server, "learner")
    answer = server.admin.post("/v1/devices/learner/rotate")
    new = answer.json()["token"]
    assert [key["ends_at"] is None for key in answer.json()["keys"]] == [False, True]
    for number, token in enumerate((old, new)):
        assert server.upload(token, picture(CODE) + b"%d" % number).status_code == 200
    newest = server.admin.post("/v1/devices/learner/rotate", params={"grace_s": 0}).json()["token"]
    assert server.upload(old, picture(CODE)).status_code == 401
    assert server.upload(new, picture(CODE)).status_code == 401
    assert server.upload(newest, picture(CODE)).status_code == 200


def test_revoking_ends_both_tokens(server: Server) -> None:
    old = add(server, "lost")
    new = server.admin.post("/v1/devices/lost/rotate").json()["token"]
    answer = server.admin.post("/v1/devices/lost/revoke")
    assert (answer.status_code, answer.json()["keys"]) == (200, [])
    assert answer.json()["revoked_at"] is not None
    assert [server.upload(token, picture(CODE)).status_code for token in (old, new)] == [401, 401]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1/devices/none", None, (404, "not-found")),
        ("PATCH", "/v1/devices/none", {"name": "x"}, (404, "not-found")),
        ("POST", "/v1/devices/none/rotate", None, (404, "not-found")),
        ("POST", "/v1/devices/none/revoke", None, (404, "not-found")),
        ("GET", "/v1/devices?cursor=x", None, (422, "invalid-input")),
        ("POST", "/v1/devices", {"name": "not an id"}, (422, "invalid-input")),
        ("POST", "/v1/devices", {"name": "claims"}, (422, "invalid-input")),
        ("POST", "/v1/devices", {"name": "x", "token": "mine"}, (422, "invalid-input")),
        ("POST", "/v1/devices/none/rotate?grace_s=1e9", None, (422, "invalid-input")),
    ],
)
def test_what_cannot_be_is_told(
    server: Server, method: str, path: str, body: object, expected: tuple[int, str]
) -> None:
    assert kind(server.admin.request(method, path, json=body)) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/devices"),
        ("POST", "/v1/devices"),
        ("GET", "/v1/devices/x"),
        ("PATCH", "/v1/devices/x"),
        ("POST", "/v1/devices/x/rotate"),
        ("POST", "/v1/devices/x/revoke"),
    ],
)
def test_devices_are_none_of_a_cameras_business(server: Server, method: str, path: str) -> None:
    assert httpx2.request(method, server.url + path, timeout=20).status_code == 401
    token = server.add_device(f"nosy-{abs(hash((method, path)))}")
    own = {"Authorization": f"Bearer {token}"}
    assert httpx2.request(method, server.url + path, headers=own, timeout=20).status_code == 403


def test_the_command_line_rotates_with_grace(server: Server) -> None:
    old = server.add_device("by-hand")
    rotated = run_cli(server.data, "devices", "rotate", "by-hand", "--grace", "3600", "--json")
    new = json.loads(rotated)["token"]
    assert [server.upload(token, picture(CODE)).status_code for token in (old, new)] == [200, 200]
    last = json.loads(run_cli(server.data, "devices", "rotate", "by-hand", "--json"))["token"]
    tokens = (old, new, last)
    codes = [server.upload(token, picture(CODE)).status_code for token in tokens]
    assert codes == [401, 401, 200]
