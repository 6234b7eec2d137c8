"""Events over real HTTP: webhooks and the stream, from a server that is killed and stopped."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from capturekit.events import verify
from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, run_cli, running_server, running_worker

CODE = "4006381333931"
PATIENCE_S = 30.0
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


class Taken:
    """Events that a webhook took, from its own thread."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.changed = threading.Condition()
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _headers, body in self.posts]

    def wait_for(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.posts) >= number, PATIENCE_S), self.posts


@contextmanager
def receiving() -> Iterator[tuple[str, Taken]]:
    """A receiver in a thread, and what it took."""
    taken = Taken()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with taken.changed:
                taken.posts.append((dict(self.headers), body))
                taken.changed.notify_all()
            taken.may_answer.wait(PATIENCE_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", taken
        finally:
            taken.may_answer.set()
            server.shutdown()
            thread.join()


@contextmanager
def streaming(
    server: Server, query: str = "", **headers: str
) -> Iterator[Iterator[dict[str, str]]]:
    """Events of the stream as they come."""
    with httpx2.stream(
        "GET", f"{server.url}/v1/events{query}", headers={**ADMIN, **headers}, timeout=PATIENCE_S
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _blocks(response.iter_lines())


def _blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    block: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        elif "event" in block:
            yield block
            block = {}
        else:
            block = {}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "data", CAPTUREKIT_WEBHOOK_ALLOW_PRIVATE="true") as server:
        yield server


def test_a_webhook_is_told_what_a_picture_changed(server: Server) -> None:
    with receiving() as (url, taken):
        answer = server.admin.post("/v1/webhooks", json={"url": url})
        assert answer.status_code == 201
        webhook = answer.json()
        server.upload(server.add_device("camera"), picture(CODE))
        taken.wait_for(2)
        shown = server.admin.get(answer.headers["location"]).json()
        listed = server.admin.get("/v1/webhooks")
        attempts = server.admin.get(f"/v1/webhooks/{webhook['id']}/attempts").json()["attempts"]

    for headers, body in taken.posts:
        verify(webhook["secret"], headers, body)
    changed, completed = taken.events
    assert (changed["kind"], completed["kind"]) == ("stock.changed", "capture.completed")
    assert (changed["data"]["item_id"], changed["data"]["after"]) == (CODE, 1)
    assert shown["id"] == webhook["id"]
    assert "secret" not in listed.text
    assert {one["status"] for one in attempts} == {204}
    assert not server.log_lines(webhook["secret"])


def test_a_server_killed_before_it_noted_a_delivery_delivers_again(server: Server) -> None:
    with receiving() as (url, taken):
        taken.may_answer.clear()
        server.admin.post("/v1/webhooks", json={"url": url})
        server.upload(server.add_device("camera"), picture(CODE))
        taken.wait_for(1)
        server.end(signal.SIGKILL)
        taken.may_answer.set()
        server.start()
        taken.wait_for(3)

    first, again, *_ = taken.events
    assert first == again
    assert taken.posts[0][0]["webhook-id"] == taken.posts[1][0]["webhook-id"] == first["id"]


def test_webhooks_are_kept_by_the_command_line(server: Server) -> None:
    with receiving() as (url, taken):
        refused = json.loads(server.admin.post("/v1/webhooks", json={"url": "ftp://x"}).text)
        added = server.admin.post("/v1/webhooks", json={"url": url, "kinds": ["stock.changed"]})
        webhook_id = added.json()["id"]
        listed = json.loads(run_cli(server.data, "webhooks", "list", "--json"))
        server.upload(server.add_device("camera"), picture(CODE))
        taken.wait_for(1)
        run_cli(server.data, "webhooks", "replay", webhook_id, "--after", "0")
        taken.wait_for(2)
        attempts = json.loads(run_cli(server.data, "webhooks", "attempts", webhook_id, "--json"))
        run_cli(server.data, "webhooks", "enable", webhook_id)
        run_cli(server.data, "webhooks", "remove", webhook_id)

    assert refused["status"] == 422
    assert [one["id"] for one in listed] == [webhook_id]
    assert "secret" not in listed[0]
    assert taken.events[0] == taken.events[1]
    assert {one["seq"] for one in attempts} == {taken.events[0]["seq"]}
    assert server.admin.get("/v1/webhooks").json() == {"webhooks": []}
    assert server.admin.get(f"/v1/webhooks/{webhook_id}").status_code == 404


def test_a_private_address_is_refused_unless_allowed(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server, receiving() as (url, taken):
        answer = server.admin.post("/v1/webhooks", json={"url": url})

    assert answer.status_code == 422
    assert "private" in answer.json()["detail"]
    assert taken.posts == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"url": "https://u:p@example.com/"}, "no user or password"),
        ({"url": "https://1.1.1.1/", "kinds": ["stock.lo"]}, "stock.changed"),
        ({"url": "https://1.1.1.1/", "after": 1, "since": "2026-01-01T00:00:00Z"}, "not both"),
        ({"url": "https://1.1.1.1/", "since": "2026-01-01T00:00:00"}, "timezone"),
    ],
)
def test_what_cannot_be_added_is_explained(
    server: Server, body: dict[str, object], text: str
) -> None:
    answer = server.admin.post("/v1/webhooks", json=body)

    assert answer.status_code == 422
    assert text in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_webhooks_and_events_are_for_admins(server: Server, method: str) -> None:
    path = "/v1/webhooks" if method == "POST" else "/v1/events"
    token = server.add_device("camera")

    assert httpx2.request(method, server.url + path).status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.request(method, server.url + path, headers=headers).status_code == 403


def test_the_stream_tells_what_a_worker_did(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data, CAPTUREKIT_CONCURRENCY="0") as server, running_worker(data):
        token = server.add_device("camera")
        with streaming(server) as events:
            server.upload(token, picture(CODE))
            changed, completed = next(events), next(events)

        assert (changed["event"], completed["event"]) == ("stock.changed", "capture.completed")
        assert json.loads(changed["data"])["seq"] == int(changed["id"])
        with streaming(server, "?after=0", **{"Last-Event-ID": changed["id"]}) as events:
            assert next(events) == completed
        with streaming(server, "?after=0&kinds=capture.completed, capture.failed") as events:
            assert next(events) == completed


def test_a_stream_ends_when_the_server_does(server: Server) -> None:
    server.add_device("camera")
    began = time.monotonic()
    with streaming(server) as events, streaming(server) as others:
        assert server.end() == 0
        assert list(events) == list(others) == []

    assert time.monotonic() - began < 8.0  # What requests under way may take is 10 s.


def test_a_place_that_is_none_is_refused(server: Server) -> None:
    for query in ("?after=-1", "?after=x", f"?after={2**63}"):
        assert server.admin.get(f"/v1/events{query}").status_code == 422
    answer = server.admin.get("/v1/events", headers={"Last-Event-ID": "1_0"})
    assert answer.status_code == 422


def test_a_head_of_the_stream_is_answered(server: Server) -> None:
    answer = server.admin.head("/v1/events")

    assert answer.status_code == 200
    assert "content-length" not in answer.headers


def test_a_client_from_another_time_is_reset(server: Server) -> None:
    server.upload(server.add_device("camera"), picture(CODE))
    server.wait_until_processed()

    with streaming(server, "?after=1000000") as events:
        reset = next(events)

    assert reset["event"] == "reset"
    assert json.loads(reset["data"]) == {"oldest": 1, "newest": 2}
    assert reset["id"] == "2"
