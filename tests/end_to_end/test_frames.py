"""The raw route of tiny devices: a picture under a name, and what the device knows beside it."""

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, running_server

CODE = "4006381333931"
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(
        tmp_path_factory.mktemp("frames"), CAPTUREKIT_MAX_UPLOAD_BYTES="200000"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.add_device("cam")


def put(
    server: Server, token: str, name: str, content: bytes, device: str = "cam", **fields: str
) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}", **JPEG}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    url = f"{server.url}/v1/devices/{device}/frames/{name}"
    return httpx2.put(url, content=content, headers=headers, timeout=20)


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def kind(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def test_a_frame_is_stored_once_under_its_name(server: Server, token: str) -> None:
    content = picture(CODE)
    new = put(server, token, "7f3a-1", content, Content_Digest=digest(content))
    again = put(server, token, "7f3a-1", content)
    assert (new.status_code, new.json()["duplicate"]) == (201, False)
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert new.json()["capture_id"] == again.json()["capture_id"]
    assert kind(put(server, token, "7f3a-1", picture(CODE, CODE))) == (409, "conflict")
    assert put(server, token, "7f3b-1", content).status_code == 201
    server.wait_until_processed()
    assert server.stock()[CODE, "cam"] == 1


def test_age_is_the_time_of_a_device_without_a_clock(server: Server, token: str) -> None:
    meta = 'age=37, rssi=-71, vbat=3912, heap=48112, q=4, drop=0, try=2, rst="brownout", fw="1.2.0"'
    before = datetime.now(UTC)
    stored = put(
        server, token, "a-1", picture(CODE) + b"x", Capturekit_Meta=f"{meta}, cfg=7, new=?1"
    )
    assert stored.status_code == 201, stored.text
    told = server.admin.get(f"/v1/captures/{stored.json()['capture_id']}").json()
    taken = datetime.fromisoformat(told["captured_at"])
    assert timedelta(seconds=30) < before - taken < timedelta(seconds=40)
    assert (told["battery_v"], told["rssi"]) == (3.912, -71)
    assert told["metadata"] == {
        "age": 37,
        "heap": 48112,
        "q": 4,
        "drop": 0,
        "try": 2,
        "rst": "brownout",
        "fw": "1.2.0",
        "cfg": 7,
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"Content_Type": "image/png"}, (415, "not-jpeg")),
        ({"Content_Digest": digest(b"other")}, (400, "digest-mismatch")),
        ({"Content_Digest": "sha-256=1"}, (400, "bad-content-digest")),
        ({"Content_Digest": "sha-256=:???:"}, (422, "bad-field")),
        ({"Capturekit_Meta": "age=37,,"}, (422, "bad-field")),
        ({"Capturekit_Meta": "age=(1 2)"}, (422, "bad-field")),
        ({"Capturekit_Meta": "age=-1"}, (422, "bad-meta")),
        ({"Capturekit_Meta": 'age="37"'}, (422, "bad-meta")),
        ({"Capturekit_Meta": "x=" + "1" * 2000}, (422, "bad-field")),
    ],
)
def test_what_is_wrong_with_a_field_is_told(
    server: Server, token: str, fields: dict[str, str], expected: tuple[int, str]
) -> None:
    assert kind(put(server, token, "bad-1", picture(CODE), **fields)) == expected


def test_another_digest_than_ours_is_not_checked(server: Server, token: str) -> None:
    stored = put(server, token, "d-1", picture(CODE) + b"d", Content_Digest="sha-512=:AAAA:")
    assert stored.status_code == 201


@pytest.mark.parametrize("name", ["nodash", "a-", "-1", "a-b", "a-1-2", "a-12345678901", "ä-1"])
def test_a_name_that_is_none_is_told(server: Server, token: str, name: str) -> None:
    assert kind(put(server, token, name, picture(CODE))) == (422, "bad-frame-name")


def test_who_may_not_and_what_is_no_picture(server: Server, token: str) -> None:
    content = picture(CODE)
    assert kind(put(server, "wrong", "w-1", content)) == (401, "not-authorized")
    # Whether there is such a device is not told to one who may not know.
    assert kind(put(server, "wrong", "w-1", content, device="none")) == (401, "not-authorized")
    assert kind(put(server, token, "w-1", content, device="other")) == (403, "forbidden")
    assert kind(put(server, ADMIN_TOKEN, "w-1", content)) == (403, "forbidden")
    assert kind(put(server, token, "w-1", b"no picture")) == (415, "not-an-image")
    assert kind(put(server, token, "w-1", content[: len(content) // 2]))[0] in (200, 201, 422)
    large = put(server, token, "w-1", b"x" * 300_000)
    assert kind(large) == (413, "too-many-bytes")
    assert large.json()["max_bytes"] == 200_000
    assert "date" in put(server, "wrong", "w-1", content).headers


def test_frames_are_limited_as_uploads_are(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_RATE_LIMITS="ingest=2/minute") as server:
        token = server.add_device("cam")
        answers = [put(server, token, f"a-{n}", picture(CODE) + b"%d" % n) for n in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_hello_tells_the_time_and_the_limits(server: Server) -> None:
    told = httpx2.get(f"{server.url}/v1/hello", timeout=20).json()
    away = datetime.now(UTC) - datetime.fromisoformat(told["time"])
    assert abs(away) < timedelta(seconds=5)
    assert abs(told["unix"] - datetime.now(UTC).timestamp()) < 5
    assert told["limits"]["max_bytes"] == 200_000
