"""Uploads over real HTTP to a real server process."""

import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import huge_png, picture
from tests.servers import Server, running_server

APPLES = "4006381333931"
CAMERA_FIELDS = {
    "trigger_type": "door",
    "battery_v": "3.91",
    "rssi": "-67",
    "metadata": '{"fw": "1.2.0"}',
    "field_of_another_version": "ignored",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def token(server: Server, request: pytest.FixtureRequest) -> str:
    return server.add_device(_device(request))


def _device(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^a-z0-9]+", "-", request.node.name)[:60].strip("-")


def _captures_of(server: Server, request: pytest.FixtureRequest) -> list[dict[str, object]]:
    answer = server.admin.get("/v1/captures", params={"device": _device(request)})
    captures: list[dict[str, object]] = answer.json()["captures"]
    return captures


def test_an_upload_becomes_stock(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    answer = server.upload(token, picture(APPLES, APPLES), **CAMERA_FIELDS)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["duplicate"]) == ("stored", False)
    processed = server.admin.get(f"/v1/captures/{body['capture_id']}", params={"wait": "20"}).json()
    assert processed["state"] == "completed"
    assert processed["battery_v"] == 3.91
    assert processed["rssi"] == -67
    assert processed["metadata"] == {"fw": "1.2.0"}
    assert server.stock()[APPLES, _device(request)] == 2


def test_an_existing_client_with_token_and_device_in_the_form_is_served(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    answer = httpx2.post(
        f"{server.url}/v1/ingest",
        files={"image": ("a.jpg", picture(APPLES), "image/jpeg")},
        data={"device_id": _device(request), "token": token, "timestamp": "2026-11-24T10:00:00"},
    )
    assert answer.json()["status"] == "stored"
    (capture,) = _captures_of(server, request)
    assert capture["captured_at"] == "2026-11-24T10:00:00.000Z"


def test_the_same_upload_again_is_the_same_capture(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    content = picture(APPLES)
    first, again = (
        server.upload(token, content, captured_at="2026-11-24T11:00:00Z").json() for _ in range(2)
    )
    assert again == first | {"duplicate": True, "message": again["message"]}
    assert len(_captures_of(server, request)) == 1


def test_the_same_bytes_at_another_time_are_another_capture(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    content = picture(APPLES)
    for moment in ("2026-11-24T11:00:00Z", "2026-11-24T11:00:01Z"):
        server.upload(token, content, captured_at=moment)
    assert len(_captures_of(server, request)) == 2


def test_an_idempotency_key_with_another_picture_is_a_conflict(server: Server, token: str) -> None:
    def send(content: bytes) -> httpx2.Response:
        return httpx2.post(
            f"{server.url}/v1/ingest",
            files={"image": ("a.jpg", content, "image/jpeg")},
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "door-17"},
        )

    assert send(picture(APPLES)).json()["duplicate"] is False
    assert send(picture(APPLES)).json()["duplicate"] is True
    assert send(picture("96385074")).status_code == 409


BAD_PICTURES = {
    "empty": (b"", 422, "empty-picture"),
    "text": (b"not a picture at all" * 50, 415, "not-an-image"),
    "cut in the middle": (picture(APPLES)[:20_000], 422, "damaged"),
    "100 megapixels": (huge_png(10_000, 10_000), 413, "too-many-pixels"),
    "30 MB": (b"\xff\xd8\xff" + bytes(30_000_000), 413, "too-many-bytes"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_gets_its_status_and_leaves_nothing(
    server: Server, token: str, request: pytest.FixtureRequest, name: str
) -> None:
    content, status, kind = BAD_PICTURES[name]
    answer = server.upload(token, content)
    assert answer.status_code == status
    _assert_problem(server, answer, kind)
    assert _captures_of(server, request) == []
    assert not _blob(server, content).exists()


def _blob(server: Server, content: bytes) -> Path:
    sha256 = hashlib.sha256(content).hexdigest()
    return server.data / "blobs" / sha256[:2] / sha256[2:]


def _assert_problem(server: Server, answer: httpx2.Response, kind: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:capturekit:problem:{kind}"
    assert body["status"] == answer.status_code
    assert "Traceback" not in answer.text
    (line,) = server.log_lines(f"id={body['id']}")
    assert kind in line


def test_a_picture_without_its_end_marker_is_taken_and_flagged(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    assert server.upload(token, picture(APPLES)[:-2]).status_code == 200
    (capture,) = _captures_of(server, request)
    assert capture["flags"] == ["truncated"]


@pytest.mark.parametrize(
    ("moment", "at"),
    [
        ("1763978400", "2025-11-24T10:00:00.000Z"),
        ("1763978400.5", "2025-11-24T10:00:00.500Z"),
        ("1763978400250", "2025-11-24T10:00:00.250Z"),
        ("20251124", "2025-11-24T00:00:00.000Z"),
    ],
)
def test_a_time_may_be_a_number(
    server: Server, token: str, request: pytest.FixtureRequest, moment: str, at: str
) -> None:
    assert server.upload(token, picture(APPLES), timestamp=moment).status_code == 200
    (capture,) = _captures_of(server, request)
    assert capture["captured_at"] == at


@pytest.mark.parametrize("moment", ["0", "123456", "946684799", "9999999999"])
def test_a_clock_that_is_not_set_or_ahead_is_not_believed(
    server: Server, token: str, request: pytest.FixtureRequest, moment: str
) -> None:
    assert server.upload(token, picture(APPLES), timestamp=moment).status_code == 200
    (capture,) = _captures_of(server, request)
    assert capture["captured_at"] == capture["received_at"]


@pytest.mark.parametrize(
    "moment", ["yesterday", "2026-13-45", "99999-01-01T00:00:00Z", "1e9", "nan", "-5"]
)
def test_a_bad_timestamp_is_refused(server: Server, token: str, moment: str) -> None:
    answer = server.upload(token, picture(APPLES), captured_at=moment)
    assert answer.status_code == 422
    _assert_problem(server, answer, "bad-timestamp")


def test_odd_telemetry_costs_no_picture(server: Server, token: str) -> None:
    answer = server.upload(
        token, picture(APPLES), battery_v="full", rssi="NaN", metadata="{not json"
    )
    assert answer.status_code == 200


def test_a_wrong_token_an_unknown_device_and_none_get_the_same_answer(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    def refused(data: dict[str, str], headers: dict[str, str]) -> dict[str, object]:
        answer = httpx2.post(
            f"{server.url}/v1/ingest",
            files={"image": ("a.jpg", picture(APPLES), "image/jpeg")},
            data=data,
            headers=headers,
        )
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        body: dict[str, object] = answer.json()
        return {name: body[name] for name in ("type", "title", "status", "detail")}

    own = _device(request)
    answers = [
        refused({}, {"Authorization": "Bearer wrong"}),
        refused({"device_id": own, "token": "wrong"}, {}),
        refused({"device_id": "unknown", "token": token}, {}),
        refused({}, {}),
    ]
    assert all(answer == answers[0] for answer in answers)


def test_a_revoked_device_is_refused_at_once(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    from tests.servers import run_cli

    assert server.upload(token, picture(APPLES)).status_code == 200
    run_cli(server.data, "devices", "revoke", _device(request))
    assert server.upload(token, picture(APPLES, APPLES)).status_code == 401
    assert len(_captures_of(server, request)) == 1


def test_a_client_that_leaves_halfway_leaves_nothing(
    server: Server, token: str, request: pytest.FixtureRequest
) -> None:
    head = (
        "POST /v1/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        f"Authorization: Bearer {token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    )
    address = (server.url.removeprefix("http://").split(":")[0], int(server.url.split(":")[2]))
    with socket.create_connection(address) as connection:
        connection.sendall(head.encode() + picture(APPLES)[:5000])
    assert server.upload(token, picture(APPLES, APPLES)).status_code == 200
    (capture,) = _captures_of(server, request)
    assert capture["sha256"] == hashlib.sha256(picture(APPLES, APPLES)).hexdigest()


def test_two_pictures_in_one_form_are_refused(server: Server, token: str) -> None:
    answer = httpx2.post(
        f"{server.url}/v1/ingest",
        files=[("image", ("a.jpg", picture(APPLES))), ("image", ("b.jpg", picture("96385074")))],
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 422
    _assert_problem(server, answer, "two-pictures")


def test_the_eleventh_upload_in_a_minute_is_told_to_wait(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_RATE_LIMITS="ingest=10/minute") as server:
        token = server.add_device("camera")
        answers = [server.upload(token, picture(APPLES)) for _ in range(11)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429]
        refused = answers[-1]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"ingest";r=0;t=')
        assert refused.headers["ratelimit-policy"] == '"ingest";q=10;w=60'
        assert refused.json()["type"].endswith("#quota-exceeded")
        assert server.log_lines(f"id={refused.json()['id']}")
        other = server.add_device("other")
        assert server.upload(other, picture(APPLES)).status_code == 200


def test_a_form_without_its_last_boundary_is_refused(server: Server, token: str) -> None:
    answer = httpx2.post(
        f"{server.url}/v1/ingest",
        content=b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nxxxx',
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "multipart/form-data; boundary=b",
        },
    )
    assert answer.status_code == 400
    _assert_problem(server, answer, "malformed-form")
