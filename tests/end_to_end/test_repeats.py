"""Requests with an Idempotency-Key, sent again: also at once, changed, and after a kill."""

import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.servers import Server, running_server

pytestmark = pytest.mark.needs_extra("server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        yield server


def add(server: Server, name: str, key: str) -> httpx2.Response:
    """Make a device, which cannot be made twice and answers with a secret."""
    headers = {"Idempotency-Key": key}
    return server.admin.post("/v1/devices", json={"name": name}, headers=headers)


def test_a_repeated_request_has_the_same_answer(server: Server) -> None:
    first = add(server, "porch", "a")
    again = add(server, "porch", "a")

    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert add(server, "porch", "b").status_code == 409


def test_a_key_is_for_one_request(server: Server) -> None:
    add(server, "attic", "c")
    other = add(server, "roof", "c")

    assert other.status_code == 422
    assert other.json()["type"].endswith("key-reused")
    assert server.admin.get("/v1/devices/roof").status_code == 404


def test_a_key_is_the_callers_own(server: Server) -> None:
    new = {"name": "second", "role": "admin"}
    token = server.admin.post("/v1/tokens", json=new).json()["token"]
    add(server, "garden", "d")

    headers = {"Idempotency-Key": "d", "Authorization": f"Bearer {token}"}
    answer = httpx2.post(f"{server.url}/v1/devices", json={"name": "garden"}, headers=headers)
    assert answer.status_code == 409


def test_of_many_at_once_one_is_done(server: Server) -> None:
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: add(server, "shed", "e"), range(12)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["token"] for answer in answers}) == 1


def test_what_was_refused_may_be_tried_again(server: Server) -> None:
    headers = {"Idempotency-Key": "f"}
    new = {"location_id": "loft", "parent_id": "house"}
    refused = server.admin.post("/v1/locations", json=new, headers=headers)
    server.admin.post("/v1/locations", json={"location_id": "house"})
    made = server.admin.post("/v1/locations", json=new, headers=headers)

    assert (refused.status_code, made.status_code) == (404, 201)


def test_a_stranger_is_told_nothing(server: Server) -> None:
    add(server, "cellar", "g")
    headers = {"Idempotency-Key": "g"}
    answer = httpx2.post(f"{server.url}/v1/devices", json={"name": "cellar"}, headers=headers)

    assert answer.status_code == 401


def test_answers_outlive_a_kill_and_are_not_to_be_read_in_the_database(server: Server) -> None:
    first = add(server, "door", "h")
    server.end(signal.SIGKILL)
    server.start()

    assert add(server, "door", "h").json() == first.json()
    with sqlite3.connect(f"file:{server.data}/capturekit.db?mode=ro", uri=True) as database:
        kept = str(database.execute("SELECT sealed FROM kept_answer").fetchall())
    assert first.json()["token"] not in kept
    assert "door" not in kept
