"""Devices that sign their uploads (RFC 9421): what holds, and what nobody can do with it."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import Server, running_server
from tests.servers_postgres import PostgresServer

CODE = "4006381333931"
TEN_YEARS_S = 10 * 365 * 86400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("signed")) as server:
        yield server


@dataclass
class Signer:
    """A device that signs, written from the RFC and not from the server."""

    device: str
    token: str
    clock_off_s: float = 0.0
    extra: dict[str, str] = field(default_factory=dict)

    def headers(self, method: str, path: str, content: bytes, nonce: str) -> dict[str, str]:
        """The fields of a request with this body."""
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        fields = {
            "content-digest": f"sha-256=:{digest}:",
            "content-length": str(len(content)),
            **self.extra,
        }
        covered = {"@method": method, "@path": path} | fields
        names = " ".join(f'"{name}"' for name in covered)
        created = int(time.time() + self.clock_off_s)
        parameters = (
            f'({names});created={created};keyid="{self.device}";alg="hmac-sha256";nonce="{nonce}"'
        )
        lines = [f'"{name}": {value}' for name, value in covered.items()]
        base = "\n".join([*lines, f'"@signature-params": {parameters}'])
        key = hashlib.sha256(self.token.encode()).digest()
        value = base64.b64encode(hmac.digest(key, base.encode(), "sha256")).decode()
        return fields | {"signature-input": f"sig={parameters}", "signature": f"sig=:{value}:"}


def path_of(device: str, name: str) -> str:
    return f"/v1/devices/{device}/frames/{name}"


def nonce_of(server: Server) -> str:
    nonce: str = httpx2.get(f"{server.url}/v1/hello", timeout=20).json()["nonce"]
    return nonce


def send(
    server: Server, path: str, content: bytes, headers: dict[str, str], method: str = "PUT"
) -> httpx2.Response:
    typed = {"content-type": "image/jpeg"} | headers
    return httpx2.request(method, server.url + path, content=content, headers=typed, timeout=20)


def kind(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def refused(answer: httpx2.Response, why: str) -> None:
    """It is a 401 with all that the next try needs."""
    assert kind(answer) == (401, why), answer.text
    assert answer.headers["capturekit-nonce"] == answer.json()["nonce"]
    away = datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])
    assert abs(away.total_seconds()) < 5


def test_a_signed_upload_is_taken_and_brings_the_next_nonce(server: Server) -> None:
    meta = {"capturekit-meta": "age=37, vbat=3912"}
    signer = Signer("cam", server.add_device("cam"), extra=meta)
    content, nonce = picture(CODE), nonce_of(server)
    for number in range(3):
        path = path_of("cam", f"a-{number}")
        answer = send(server, path, content, signer.headers("PUT", path, content, nonce))
        assert answer.status_code == 201, answer.text
        told = server.admin.get(f"/v1/captures/{answer.json()['capture_id']}").json()
        assert told["battery_v"] == 3.912
        nonce = answer.headers["capturekit-nonce"]


def test_the_same_request_again_is_the_same_frame(server: Server) -> None:
    """Its answer was lost: the device cannot know, and has no other nonce."""
    signer = Signer("again", server.add_device("again"))
    content, path = picture(CODE), path_of("again", "a-1")
    headers = signer.headers("PUT", path, content, nonce_of(server))
    first = send(server, path, content, headers)
    again = send(server, path, content, headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["capture_id"] == again.json()["capture_id"]


def test_a_nonce_is_good_for_one_request(server: Server) -> None:
    signer = Signer("once", server.add_device("once"))
    content, nonce = picture(CODE), nonce_of(server)
    paths = [path_of("once", f"a-{number}") for number in range(2)]
    first, second = (
        send(server, path, content, signer.headers("PUT", path, content, nonce)) for path in paths
    )
    assert first.status_code == 201
    refused(second, "nonce-used")
    fresh = signer.headers("PUT", paths[1], content, second.json()["nonce"])
    assert send(server, paths[1], content, fresh).status_code == 201


def test_what_was_signed_cannot_be_changed(server: Server) -> None:
    meta = {"capturekit-meta": "age=37"}
    signer = Signer("fixed", server.add_device("fixed"), extra=meta)
    content, path = picture(CODE), path_of("fixed", "a-1")
    headers = signer.headers("PUT", path, content, nonce_of(server))
    other = content + b"x"
    digest = base64.b64encode(hashlib.sha256(other).digest()).decode()

    refused(send(server, path, content, headers | {"capturekit-meta": "age=38"}), "not-authorized")
    refused(send(server, path_of("fixed", "a-2"), content, headers), "not-authorized")
    lengthened = headers | {"content-length": str(len(other))}
    refused(send(server, path, other, lengthened), "not-authorized")
    redigested = headers | {"content-digest": f"sha-256=:{digest}:"}
    refused(send(server, path, content, redigested), "not-authorized")
    same_length = content[:-1] + bytes([content[-1] ^ 1])
    assert kind(send(server, path, same_length, headers)) == (400, "digest-mismatch")
    assert not [row for row in server.captures() if row["device_id"] == "fixed"]
    assert send(server, path, content, headers).status_code == 201


def test_another_key_opens_nothing(server: Server) -> None:
    content, nonce = picture(CODE), nonce_of(server)
    own, other = server.add_device("own"), server.add_device("other")
    path = path_of("own", "a-1")
    for device, token in (("own", other), ("own", "guess"), ("nobody", own)):
        headers = Signer(device, token).headers("PUT", path, content, nonce)
        refused(send(server, path, content, headers), "not-authorized")
    as_other = Signer("other", other).headers("PUT", path, content, nonce)
    assert kind(send(server, path, content, as_other)) == (403, "forbidden")


def test_a_clock_that_is_ten_years_off_is_set_by_one_refusal(server: Server) -> None:
    signer = Signer("asleep", server.add_device("asleep"), clock_off_s=-TEN_YEARS_S)
    content, path = picture(CODE), path_of("asleep", "a-1")
    first = send(server, path, content, signer.headers("PUT", path, content, "none"))
    refused(first, "signature-too-old")
    signer.clock_off_s = 0.0
    told = signer.headers("PUT", path, content, first.headers["capturekit-nonce"])
    assert send(server, path, content, told).status_code == 201


@pytest.mark.parametrize(("off_s", "status"), [(-290, 201), (-310, 401), (310, 401)])
def test_a_clock_may_be_five_minutes_off(server: Server, off_s: float, status: int) -> None:
    name = f"off{off_s}".replace("-", "m")
    signer = Signer(name, server.add_device(name), clock_off_s=off_s)
    content, path = picture(CODE), path_of(name, "a-1")
    headers = signer.headers("PUT", path, content, nonce_of(server))
    assert send(server, path, content, headers).status_code == status


def test_a_nonce_that_was_made_up_is_refused(server: Server) -> None:
    signer = Signer("inventor", server.add_device("inventor"))
    content, path = picture(CODE), path_of("inventor", "a-1")
    headers = signer.headers("PUT", path, content, "A" * 32)
    refused(send(server, path, content, headers), "nonce-refused")


def test_all_that_matters_must_be_signed(server: Server) -> None:
    signer = Signer("lazy", server.add_device("lazy"))
    content, path = picture(CODE), path_of("lazy", "a-1")
    headers = signer.headers("PUT", path, content, nonce_of(server))
    unsigned_meta = send(server, path, content, headers | {"capturekit-meta": "age=1"})
    refused(unsigned_meta, "bad-signature")
    assert "capturekit-meta" in unsigned_meta.json()["detail"]
    less = headers["signature-input"].replace('"content-digest" ', "")
    refused(send(server, path, content, headers | {"signature-input": less}), "bad-signature")
    other_digest = Signer("lazy", signer.token, extra={"content-digest": "sha-512=:AAAA:"})
    odd = other_digest.headers("PUT", path, content, nonce_of(server))
    refused(send(server, path, content, odd), "bad-signature")


def test_a_device_may_have_to_sign(server: Server) -> None:
    token = server.add_device("strict")
    signer = Signer("strict", token)
    content, path = picture(CODE), path_of("strict", "a-1")
    bearer = {"authorization": f"Bearer {token}"}
    assert send(server, path, content, bearer).status_code == 201
    changed = server.admin.patch("/v1/devices/strict", json={"signed_only": True})
    assert changed.json()["signed_only"] is True

    refused(send(server, path, content, bearer), "signature-required")
    refused(server.upload(token, content), "signature-required")
    by_field = httpx2.post(
        f"{server.url}/v1/ingest",
        files={"image": ("a.jpg", content, "image/jpeg")},
        data={"token": token},
        timeout=20,
    )
    refused(by_field, "signature-required")
    headers = signer.headers("PUT", path, content, nonce_of(server))
    stripped = {name: value for name, value in headers.items() if name != "signature"}
    refused(send(server, path, content, stripped | bearer), "bad-signature")
    del stripped["signature-input"]
    refused(send(server, path, content, stripped), "not-authorized")
    assert send(server, path, content, headers).status_code == 200


def test_a_wrong_token_is_told_a_nonce_as_well(server: Server) -> None:
    wrong = {"authorization": "Bearer wrong"}
    refused(send(server, path_of("x", "a-1"), b"x", wrong), "not-authorized")
    refused(server.upload("wrong", picture(CODE)), "not-authorized")


def test_both_keys_of_a_rotation_sign_and_a_revoked_one_does_not(server: Server) -> None:
    old = server.add_device("turned")
    new = server.admin.post("/v1/devices/turned/rotate").json()["token"]
    content = picture(CODE)

    def upload(token: str, name: str) -> int:
        path = path_of("turned", name)
        headers = Signer("turned", token).headers("PUT", path, content, nonce_of(server))
        return send(server, path, content, headers).status_code

    assert (upload(old, "a-1"), upload(new, "a-2")) == (201, 201)
    server.admin.post("/v1/devices/turned/revoke")
    assert (upload(old, "a-3"), upload(new, "a-4")) == (401, 401)


def test_a_form_can_be_signed(server: Server) -> None:
    request = httpx2.Request(
        "POST",
        f"{server.url}/v1/ingest",
        files={"image": ("a.jpg", picture(CODE), "image/jpeg")},
        data={"trigger_type": "door"},
    )
    content, media_type = request.read(), request.headers["content-type"]
    extra = {"content-type": media_type, "idempotency-key": "17"}
    signer = Signer("form", server.add_device("form"), extra=extra)
    headers = signer.headers("POST", "/v1/ingest", content, nonce_of(server))
    changed = content.replace(b"door", b"lamp")
    assert kind(send(server, "/v1/ingest", changed, headers, "POST")) == (400, "digest-mismatch")
    stored = send(server, "/v1/ingest", content, headers, "POST")
    assert stored.status_code == 200, stored.text
    assert "capturekit-nonce" in stored.headers
    rekeyed = headers | {"idempotency-key": "18"}
    refused(send(server, "/v1/ingest", content, rekeyed, "POST"), "not-authorized")
    untyped = Signer("form", signer.token).headers("POST", "/v1/ingest", content, "n")
    odd = untyped | {"content-type": media_type}
    refused(send(server, "/v1/ingest", content, odd, "POST"), "bad-signature")


@pytest.mark.needs_extra("postgres")
def test_a_nonce_is_used_once_over_two_servers(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTUREKIT_DATABASE_URL", postgres.new_database())
    monkeypatch.setenv("CAPTUREKIT_BLOB_URL", f"file://{tmp_path}/blobs")
    with running_server(tmp_path / "one") as one, running_server(tmp_path / "two") as two:
        signer = Signer("cam", one.add_device("cam"))
        content, nonce = picture(CODE), nonce_of(one)
        paths = [path_of("cam", f"a-{number}") for number in range(2)]
        requests = [signer.headers("PUT", path, content, nonce) for path in paths]
        assert send(two, paths[0], content, requests[0]).status_code == 201
        refused(send(one, paths[1], content, requests[1]), "nonce-used")
        assert send(one, paths[0], content, requests[0]).status_code == 200
