"""What people do to stock over real HTTP, on each engine."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import Server, running_server
from tests.servers_postgres import PostgresServer


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_extra("postgres"))],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if request.param == "postgres":
            postgres: PostgresServer = request.getfixturevalue("postgres")
            # For the command line as well.
            patch.setenv("CAPTUREKIT_DATABASE_URL", postgres.new_database())
        server = stack.enter_context(running_server(tmp_path_factory.mktemp("data")))
        for place, parent in (("room", None), ("shelf", "room"), ("attic", None)):
            body = {"location_id": place, "parent_id": parent}
            assert server.admin.post("/v1/locations", json=body).status_code == 201
        yield server


@pytest.fixture
def item(server: Server, request: pytest.FixtureRequest) -> str:
    """An item of the test's own."""
    name = f"item of {request.node.name}"
    answer = server.admin.post("/v1/items", json={"item_id": name, "name": name, "unit": "pcs"})
    assert answer.status_code == 201
    return name


def move(server: Server, kind: str, item: str, quantity: int, **more: object) -> httpx2.Response:
    headers = {"Idempotency-Key": str(more.pop("key"))} if "key" in more else {}
    source = {"from": more.pop("source")} if "source" in more else {}
    target = {"to": more.pop("target")} if "target" in more else {}
    body = {"kind": kind, "item": item, "quantity": quantity, **source, **target, **more}
    return server.admin.post("/v1/movements", json=body, headers=headers)


def test_the_same_key_is_answered_with_the_same_movement(server: Server, item: str) -> None:
    first = move(server, "receive", item, 5, target="shelf", key="once", reason="weekly", by="ana")
    again = move(server, "receive", item, 5, target="shelf", key="once", reason="weekly", by="ana")

    assert first.status_code == again.status_code == 200
    assert first.json()["movement"] == again.json()["movement"]
    assert [change["after"] for change in first.json()["changes"]] == [5]
    assert again.json()["changes"] == []
    shown = server.admin.get(f"/v1/movements/{first.json()['movement']['movement_id']}").json()
    assert (shown["by"], shown["reason"], shown["to"]) == ("ana", "weekly", "shelf")
    other = move(server, "receive", item, 6, target="shelf", key="once")
    assert other.status_code == 409
    assert move(server, "use", item, 1, source="shelf", key="x" * 201).status_code == 422


def test_many_who_say_the_same_at_once_are_believed_once(server: Server, item: str) -> None:
    def say(_: int) -> str:
        answer = move(server, "receive", item, 5, target="shelf", key=f"once for {item}")
        movement_id: str = answer.json()["movement"]["movement_id"]
        return movement_id

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(say, range(16)))) == 1

    (row,) = server.admin.get("/v1/inventory", params={"item": item}).json()["items"]
    assert row["quantity"] == 5


def test_what_was_moved_is_taken_back_and_told(server: Server, item: str) -> None:
    received = move(server, "receive", item, 5, target="shelf").json()["movement"]
    move(server, "move", item, 2, source="shelf", target="attic")
    void = server.admin.post(
        f"/v1/movements/{received['movement_id']}/void", json={"by": "bo"}
    ).json()

    assert (void["movement"]["voided_by"], void["changes"][0]["after"]) == ("bo", -2)
    again = server.admin.post(f"/v1/movements/{received['movement_id']}/void")
    assert again.json()["changes"] == []
    lines = server.admin.get("/v1/inventory/history", params={"item": item}).json()["lines"]
    assert [line["cause"]["kind"] for line in lines] == ["void", "movement", "movement"]
    assert [end["after"] for end in lines[1]["ends"]] == [3, 2]
    (alert,) = server.admin.get("/v1/alerts", params={"item": item}).json()["alerts"]
    assert (alert["kind"], alert["quantity"]) == ("below_zero", -2)


def test_an_override_replaces_what_was_thought(server: Server, item: str) -> None:
    move(server, "receive", item, 5, target="shelf", at="2026-01-01T08:00:00Z")
    body = {"item": item, "location": "shelf", "quantity": 3, "reason": "counted"}
    assert server.admin.post("/v1/inventory/override", json=body).status_code == 200

    (why,) = server.admin.get(f"/v1/inventory/{item}/why").json()["stock"]
    assert (why["quantity"], why["basis"]["kind"], why["basis"]["reason"]) == (
        3,
        "person",
        "counted",
    )
    then = {"as_of": "2026-01-02T00:00:00Z"}
    (row,) = server.admin.get("/v1/inventory", params={**then, "item": item}).json()["items"]
    assert row["quantity"] == 5
    (was,) = server.admin.get(f"/v1/inventory/{item}/why", params=then).json()["stock"]
    assert [one["kind"] for one in was["movements"]] == ["receive"]


def test_too_much_used_is_a_conflict_and_nonsense_is_told(server: Server, item: str) -> None:
    assert move(server, "use", item, 1, source="shelf").status_code == 409
    for more in (
        {"target": "shelf", "quantity": 0},
        {"source": "shelf"},
        {"target": "shelf", "at": "2999-01-01T00:00:00Z"},
        {"target": "shelf", "by": "a\nb"},
        {"target": "shelf", "reason": "a\0b"},
    ):
        quantity = int(str(more.pop("quantity", 1)))
        assert move(server, "receive", item, quantity, **more).status_code == 422
    assert move(server, "receive", item, 1, target="nowhere").status_code == 404
    assert move(server, "receive", "no such", 1, target="shelf").status_code == 404
    assert server.admin.get("/v1/movements/none").status_code == 404


def test_items_have_codes_that_stand_for_packs(server: Server, item: str) -> None:
    path = f"/v1/items/{item}"
    made = server.admin.post("/v1/items", json={"item_id": item, "name": "again"})
    assert made.status_code == 409
    code = "https://example.org/a b"
    assert server.admin.put(f"{path}/codes/{code}", json={"quantity": 6}).status_code == 200
    assert server.admin.get(path).json()["codes"] == [{"code": code, "quantity": 6}]
    (found,) = server.admin.get("/v1/items", params={"q": code}).json()["items"]
    assert found["item_id"] == item
    assert server.admin.delete(f"{path}/codes/{code}").status_code == 204
    assert server.admin.get(path).json()["codes"] == []
    # The code names an item of its own now, whose id has slashes.
    assert server.admin.get(f"/v1/items/{code}").json()["name"] == code
    assert server.admin.get(f"/v1/items/{code}/lots").json()["quantity"] == 0


def test_a_par_level_raises_one_alert_and_clears_it(server: Server, item: str) -> None:
    move(server, "receive", item, 5, target="shelf")
    path = f"/v1/par-levels/room/{item}"
    level = server.admin.put(path, json={"minimum": 2, "restock_at": 4}).json()
    assert (level["is_low"], level["restock_at"]) == (False, 4)

    move(server, "use", item, 3, source="shelf")
    (alert,) = server.admin.get("/v1/alerts", params={"item": item}).json()["alerts"]
    assert (alert["kind"], alert["location_id"], alert["quantity"]) == ("low", "room", 2)
    move(server, "receive", item, 2, target="shelf")

    assert server.admin.get("/v1/alerts", params={"item": item}).json()["alerts"] == []
    past = server.admin.get("/v1/alerts", params={"item": item, "open": "false"}).json()
    assert past["alerts"][0]["cleared_at"] is not None
    levels = server.admin.get("/v1/par-levels", params={"item": item}).json()["par_levels"]
    assert [one["minimum"] for one in levels] == [2]
    assert server.admin.delete(path).status_code == 204
    assert server.admin.delete(path).status_code == 404
    assert server.admin.put(path, json={"minimum": 2, "restock_at": 1}).status_code == 422


def test_lots_and_forecasts_are_told(server: Server, item: str) -> None:
    move(server, "receive", item, 5, target="shelf", lot="L1", expires_on="2020-01-31")
    move(server, "use", item, 2, source="shelf")

    lots = server.admin.get(f"/v1/items/{item}/lots", params={"location": "room"}).json()
    assert lots["lots"] == [{"lot": "L1", "expires_on": "2020-01-31", "quantity": 3}]
    expiring = server.admin.get("/v1/inventory/expiring").json()["items"]
    assert [one["quantity"] for one in expiring if one["item_id"] == item] == [3]
    forecast = server.admin.get(f"/v1/items/{item}/forecast").json()
    assert (forecast["quantity"], forecast["days_left"]) == (3, None)


def test_locations_are_moved_and_named(server: Server) -> None:
    path = "/v1/locations/attic"
    changed = server.admin.patch(path, json={"name": "The attic", "parent_id": "room"}).json()
    assert changed == {"location_id": "attic", "name": "The attic", "parent_id": "room"}
    loop = server.admin.patch("/v1/locations/room", json={"parent_id": "attic"})
    assert loop.status_code == 409
    assert server.admin.patch(path, json={"parent_id": None}).json()["parent_id"] is None
    assert server.admin.patch("/v1/locations/none", json={"name": "x"}).status_code == 404
    assert server.admin.post("/v1/locations", json={"location_id": "room"}).status_code == 409
    assert server.admin.post("/v1/locations", json={"location_id": "~x"}).status_code == 422
    listed = server.admin.get("/v1/locations").json()["locations"]
    assert {one["location_id"] for one in listed} >= {"attic", "room", "shelf"}


def test_a_device_is_given_a_view(server: Server) -> None:
    server.add_device("cam")
    path = "/v1/devices/cam/views/shelf"
    view = {"polygon": [[0, 0], [9, 0], [9, 9]], "is_exhaustive": True}
    assert server.admin.put(path, json=view).json()["is_exhaustive"] is True
    assert server.admin.put("/v1/devices/none/views/shelf", json={}).status_code == 404
    assert server.admin.put(path, json={"polygon": [[0, 0]]}).status_code == 422


def test_odd_telemetry_never_costs_a_picture(server: Server) -> None:
    token = server.add_device("odd")

    answer = server.upload(token, picture("4006381333931"), trigger_type="do\0or")

    assert answer.status_code == 200
    server.wait_until_processed()
    (capture,) = server.admin.get("/v1/captures", params={"device": "odd"}).json()["captures"]
    assert (capture["trigger_type"], capture["state"]) == ("do\ufffdor", "completed")


def test_files_are_taken_whole_and_given_back(server: Server) -> None:
    sheet = "item,name,code,pack_size,location,count\nrice,Rice,777,2,shelf,8\n"
    csv = {"Content-Type": "text/csv"}
    dry = server.admin.post(
        "/v1/import", params={"dry_run": "true"}, content=sheet, headers=csv
    ).json()
    assert (dry["is_dry_run"], dry["items_added"], dry["counts_recorded"]) == (True, 1, 1)
    assert server.admin.get("/v1/items/rice").status_code == 404

    assert server.admin.post("/v1/import", content=sheet, headers=csv).json()["items_added"] == 1
    file = server.admin.get("/v1/export", params={"format": "json"})
    assert file.headers["content-disposition"] == 'attachment; filename="items.json"'
    again = server.admin.post(
        "/v1/import", content=file.content, headers={"Content-Type": "application/json"}
    ).json()
    assert (again["items_added"], again["codes_assigned"], again["counts_recorded"]) == (0, 0, 0)
    assert "rice,Rice" in server.admin.get("/v1/export").text


def test_a_wrong_file_is_told_row_by_row(server: Server) -> None:
    answer = server.admin.post("/v1/import", content="item,name,code,pack_size\nx,X,1,six\n")

    assert answer.status_code == 422
    assert answer.json()["type"].endswith("import-refused")
    (error,) = answer.json()["errors"]
    assert (error["row"], error["column"], error["given"]) == (2, "pack_size", "six")
    large = server.admin.post("/v1/import", content=b"x" * (4 * 1024 * 1024 + 1))
    assert large.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/v1/inventory?as_of=yesterday",
        "/v1/inventory/history?since=never",
        "/v1/inventory/history?cursor=x",
        "/v1/items?cursor=x",
        "/v1/par-levels?cursor=x",
        "/v1/alerts?cursor=x",
        "/v1/items/x/forecast?days=0",
        "/v1/items?q=%00",
        "/v1/items/x%00",
        "/v1/movements/%00",
        "/v1/captures/%00",
        "/v1/captures?device=%00",
    ],
)
def test_a_wrong_question_is_refused(server: Server, path: str) -> None:
    assert server.admin.get(path).status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/inventory/history"),
        ("GET", "/v1/inventory/expiring"),
        ("POST", "/v1/inventory/override"),
        ("POST", "/v1/movements"),
        ("GET", "/v1/movements/x"),
        ("POST", "/v1/movements/x/void"),
        ("GET", "/v1/items"),
        ("POST", "/v1/items"),
        ("GET", "/v1/items/x"),
        ("PATCH", "/v1/items/x"),
        ("GET", "/v1/items/x/lots"),
        ("GET", "/v1/items/x/forecast"),
        ("PUT", "/v1/items/x/codes/y"),
        ("DELETE", "/v1/items/x/codes/y"),
        ("GET", "/v1/locations"),
        ("POST", "/v1/locations"),
        ("PATCH", "/v1/locations/x"),
        ("PUT", "/v1/devices/x/views/y"),
        ("GET", "/v1/par-levels"),
        ("PUT", "/v1/par-levels/x/y"),
        ("DELETE", "/v1/par-levels/x/y"),
        ("GET", "/v1/alerts"),
        ("POST", "/v1/import"),
        ("GET", "/v1/export"),
    ],
)
def test_nothing_is_open_without_a_token(server: Server, method: str, path: str) -> None:
    assert httpx2.request(method, server.url + path).status_code == 401
