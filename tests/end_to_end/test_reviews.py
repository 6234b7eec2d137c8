"""Reviews, policies and reprocessing over real HTTP and from the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.doubts import doubt
from tests.made_pictures import picture
from tests.servers import Server, run_cli, running_server

pytestmark = pytest.mark.needs_extra("server")

CODE = "4006381333931"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    with running_server(data) as server:
        for item in ("tea", "cocoa"):
            body = {"item_id": item, "name": item.title()}
            assert server.admin.post("/v1/items", json=body).status_code == 201
        yield server


@pytest.fixture
def doubted(server: Server, data: Path, request: pytest.FixtureRequest) -> tuple[str, int]:
    """A capture of a device of the test's own, and its observation of doubtful tea."""
    device = "".join(letter for letter in request.node.name if letter.isalnum())
    stored = server.upload(server.add_device(device), picture(CODE)).json()["capture_id"]
    server.wait_until_processed()
    doubt(data, stored)
    waiting = server.admin.get("/v1/reviews").json()["reviews"]
    return stored, next(one["observation_id"] for one in waiting if one["capture_id"] == stored)


def decide(server: Server, observation: int | str, word: str, **body: object) -> httpx2.Response:
    return server.admin.post(f"/v1/reviews/{observation}/{word}", json=body)


def changes(answer: httpx2.Response) -> list[tuple[str, int, int]]:
    assert answer.status_code == 200, answer.text
    return [(one["item_id"], one["before"], one["after"]) for one in answer.json()["changes"]]


def test_a_review_says_why_it_waits(server: Server, doubted: tuple[str, int]) -> None:
    waiting = server.admin.get("/v1/reviews?limit=500").json()["reviews"]

    (one,) = [row for row in waiting if row["observation_id"] == doubted[1]]
    assert (one["waits_for"], one["quantity"], one["item_id"]) == ("confidence", 3, "tea")


def test_what_is_decided_twice_changes_stock_once(server: Server, doubted: tuple[str, int]) -> None:
    _, one = doubted

    assert changes(decide(server, one, "accept", reason="seen it")) == [("tea", 0, 3)]
    assert changes(decide(server, one, "accept", reason="seen it")) == []
    assert changes(decide(server, one, "correct", item="cocoa", quantity=2)) == [
        ("cocoa", 0, 2),
        ("tea", 3, 0),
    ]
    assert changes(decide(server, one, "withdraw")) == [("cocoa", 2, 0)]
    assert changes(decide(server, one, "reject")) == []


def test_what_cannot_be_decided_is_refused(server: Server, doubted: tuple[str, int]) -> None:
    _, one = doubted

    assert decide(server, 10**12, "accept").status_code == 404
    assert decide(server, "x", "accept").status_code == 404
    assert decide(server, one, "correct", item="gold").status_code == 404
    assert decide(server, one, "correct").status_code == 422
    assert decide(server, one, "correct", quantity=-1).status_code == 422
    assert server.admin.get("/v1/reviews?cursor=x").status_code == 422
    assert httpx2.get(f"{server.url}/v1/reviews").status_code == 401


def test_reprocessing_is_rehearsed_and_done(server: Server, doubted: tuple[str, int]) -> None:
    capture, _ = doubted
    url = f"/v1/captures/{capture}/reprocess"

    rehearsed = server.admin.post(url, params={"dry_run": "true"})
    again = server.admin.post(url, params={"dry_run": "true"})
    done = server.admin.post(url)

    assert changes(rehearsed) == changes(again) == changes(done) == [(CODE, 0, 1)]
    assert done.json()["task_id"] is None
    assert server.admin.post("/v1/captures/none/reprocess").status_code == 404


def test_policies_are_set_listed_and_removed(server: Server) -> None:
    scope = {"item": "tea"}
    body = {"max_step_per_hour": 5}

    assert server.admin.put("/v1/policies", params=scope, json=body).status_code == 200
    (told,) = server.admin.get("/v1/policies").json()["policies"]
    assert (told["item_id"], told["max_step_per_hour"], told["by"]) == ("tea", 5.0, "admin")
    assert server.admin.put("/v1/policies", json=body).status_code == 422
    assert server.admin.delete("/v1/policies", params=scope).status_code == 200
    assert server.admin.delete("/v1/policies", params=scope).status_code == 404


def cli(data: Path, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(run_cli(data, *arguments, "--json"))


def test_all_of_it_is_done_from_the_command_line(data: Path, doubted: tuple[str, int]) -> None:
    capture, number = doubted
    one = str(number)

    assert number in [row["observation_id"] for row in cli(data, "review", "list")]
    (change,) = cli(data, "review", "correct", one, "--quantity", "7", "--by", "ana")
    assert (change["before"], change["after"]) == (0, 7)
    assert [row["after"] for row in cli(data, "review", "withdraw", one)] == [0]
    assert [row["after"] for row in cli(data, "review", "accept", one)] == [3]
    rehearsed = cli(data, "reprocess", capture, "--dry-run")
    assert sorted((row["item_id"], row["after"]) for row in rehearsed) == [(CODE, 1), ("tea", 0)]
    assert [row["after"] for row in cli(data, "review", "reject", one)] == [0]
    done = cli(data, "reprocess", "--fingerprint", "unsure")
    assert done["batch_id"] is None
    assert done["chosen"] >= 1
    assert cli(data, "reprocess", capture)[0]["changes"] == 0
    (policy,) = cli(data, "review", "policy", "set", "--item", "tea", "--threshold", "0.1")
    assert cli(data, "review", "policy", "list") == [policy]
    assert cli(data, "review", "policy", "remove", "--item", "tea") == []
