"""People sign in, act and sign out, over real HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from capturekit.cli.main import cli
from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, run_cli, running_server

PASSWORD = "correct horse battery"
LONG_TOKEN = "an-admin-token-that-an-operator-chose"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(
        tmp_path_factory.mktemp("data"),
        CAPTUREKIT_TRUSTED_PROXIES="127.0.0.1/32",
        CAPTUREKIT_CORS_ORIGINS="https://shop.example",
    ) as server:
        for name, role in (("ana", "operator"), ("vic", "viewer"), ("root", "admin")):
            new = {"name": name, "role": role, "password": PASSWORD}
            assert server.admin.post("/v1/people", json=new).status_code == 201
        yield server


@contextmanager
def signed_in(server: Server, name: str) -> Iterator[httpx2.Client]:
    """A browser: it has the cookie, and sends the CSRF token."""
    with httpx2.Client(base_url=server.url, timeout=20) as client:
        answer = client.post("/v1/session", json={"name": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
        yield client


def test_what_a_browser_sends_again_is_done_once(server: Server) -> None:
    new = {"name": "till", "role": "viewer"}
    with signed_in(server, "root") as first, signed_in(server, "root") as other:
        once, again = (
            first.post("/v1/tokens", json=new, headers={"Idempotency-Key": "t"}) for _ in range(2)
        )
        assert once.status_code == again.status_code == 201
        assert once.json() == again.json()
        # Another session is another caller: it may not read the first one's secret.
        answer = other.post("/v1/tokens", json=new, headers={"Idempotency-Key": "t"})
        assert answer.json() != once.json()


def test_a_session_says_who_one_is_until_one_signs_out(server: Server) -> None:
    with signed_in(server, "ana") as ana:
        told = ana.get("/v1/session").json()
        assert (told["kind"], told["name"], told["role"]) == ("person", "ana", "operator")
        assert told["csrf_token"] == ana.headers["X-CSRF-Token"]
        secret = ana.cookies["capturekit_session"]

        assert ana.delete("/v1/session").status_code == 204

        assert "capturekit_session" not in ana.cookies
    kept = {"Cookie": f"capturekit_session={secret}"}
    assert httpx2.get(f"{server.url}/v1/session", headers=kept).status_code == 401


def test_a_token_has_no_session_to_end(server: Server) -> None:
    told = server.admin.get("/v1/session").json()
    assert told == {"kind": "token", "name": "admin", "role": "admin", "csrf_token": None}
    assert server.admin.delete("/v1/session").status_code == 409


@pytest.mark.parametrize(
    ("headers", "is_secure"),
    [
        ({}, False),
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-Proto": "https, http"}, False),
        ({"Forwarded": 'for=192.0.2.7; proto="https"'}, True),
    ],
)
def test_the_cookie_is_kept_from_scripts_other_sites_and_plain_http(
    server: Server, headers: dict[str, str], *, is_secure: bool
) -> None:
    answer = httpx2.post(
        f"{server.url}/v1/session", json={"name": "vic", "password": PASSWORD}, headers=headers
    )

    parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert ("secure" in parts) is is_secure


def test_an_unknown_name_hears_what_a_wrong_password_hears(server: Server) -> None:
    answers = [
        httpx2.post(f"{server.url}/v1/session", json={"name": name, "password": "wrong"})
        for name in ("ana", "nobody")
    ]

    assert [answer.status_code for answer in answers] == [401, 401]
    known, unknown = (
        {k: v for k, v in answer.json().items() if k in ("type", "title", "detail")}
        for answer in answers
    )
    assert known == unknown


def test_what_changes_something_needs_the_token_of_this_session(server: Server) -> None:
    count = {"item": "tea", "location": "shelf", "quantity": 2}
    with signed_in(server, "ana") as ana, signed_in(server, "ana") as other:
        ana.post("/v1/items", json={"item_id": "tea", "name": "Tea"})
        ana.post("/v1/locations", json={"location_id": "shelf"})
        good = ana.headers["X-CSRF-Token"]
        for wrong in ("", "0" * 64, other.headers["X-CSRF-Token"]):
            ana.headers["X-CSRF-Token"] = wrong
            answer = ana.post("/v1/inventory/override", json=count)
            assert (answer.status_code, answer.json()["type"][-4:]) == (403, "csrf")
        ana.headers["X-CSRF-Token"] = good

        done = ana.post("/v1/inventory/override", json=count)

    assert done.json()["movement"]["by"] == "ana"


def test_a_session_may_do_what_its_role_may(server: Server) -> None:
    with signed_in(server, "vic") as vic:
        assert vic.get("/v1/inventory").status_code == 200
        assert vic.post("/v1/admin/process-pending").status_code == 403
        assert vic.get("/v1/people").status_code == 403


def test_a_page_of_another_site_signs_nobody_in(server: Server) -> None:
    answer = httpx2.post(
        f"{server.url}/v1/session",
        json={"name": "vic", "password": PASSWORD},
        headers={"Sec-Fetch-Site": "cross-site"},
    )

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_an_admin_lets_people_in_and_out_but_not_herself_out(server: Server) -> None:
    with signed_in(server, "root") as root:
        made = root.post("/v1/people", json={"name": "new", "role": "viewer"}).json()
        hers = {"name": "new", "password": made["password"]}
        assert root.post("/v1/people", json={"name": "new", "role": "viewer"}).status_code == 409
        assert "password" not in root.get("/v1/people").text
        assert httpx2.post(f"{server.url}/v1/session", json=hers).status_code == 201

        shut = root.patch("/v1/people/new", json={"disabled": True})

        assert shut.json()["disabled_at"] is not None
        assert httpx2.post(f"{server.url}/v1/session", json=hers).status_code == 401
        for change in ({"disabled": True}, {"role": "viewer"}):
            assert root.patch("/v1/people/root", json=change).status_code == 409
        assert root.patch("/v1/people/no-one", json={"role": "viewer"}).status_code == 404


def test_the_command_line_manages_people_beside_the_server(server: Server) -> None:
    shown = run_cli(server.data, "people", "add", "cli", "--role", "viewer", "--generate")
    password = shown.split()[1]
    mine = {"name": "cli", "password": password}
    assert httpx2.post(f"{server.url}/v1/session", json=mine).status_code == 201

    arguments = ("people", "password", "cli", "--data", str(server.data))
    piped = CliRunner().invoke(cli, arguments, input=f"{PASSWORD}\n")
    assert piped.exit_code == 0, piped.output
    piped_in = mine | {"password": PASSWORD}
    assert httpx2.post(f"{server.url}/v1/session", json=piped_in).status_code == 201
    renewed = run_cli(server.data, "people", "password", "cli", "--generate").split()[1]
    assert httpx2.post(f"{server.url}/v1/session", json=piped_in).status_code == 401
    run_cli(server.data, "people", "disable", "cli")
    mine["password"] = renewed
    assert httpx2.post(f"{server.url}/v1/session", json=mine).status_code == 401
    run_cli(server.data, "people", "disable", "cli", "--undo")
    assert httpx2.post(f"{server.url}/v1/session", json=mine).status_code == 201
    listed = json.loads(run_cli(server.data, "people", "list", "--json"))
    assert "cli" in {one["name"] for one in listed}


def test_only_listed_origins_may_use_the_api_and_never_with_a_cookie(server: Server) -> None:
    def allowed(origin: str) -> dict[str, str]:
        headers = {"Origin": origin, "Authorization": f"Bearer {ADMIN_TOKEN}"}
        answer = httpx2.get(f"{server.url}/v1/inventory", headers=headers)
        return {k: v for k, v in answer.headers.items() if k.startswith("access-control")}

    assert allowed("https://shop.example")["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in allowed("https://shop.example")
    assert "access-control-allow-origin" not in allowed("https://evil.example")


def test_guessing_is_slowed_by_name_and_by_address(tmp_path: Path) -> None:
    limits = "login=6/minute, login-name=3/minute, auth-failures=4/minute"
    with running_server(
        tmp_path, CAPTUREKIT_RATE_LIMITS=limits, CAPTUREKIT_ADMIN_TOKEN=LONG_TOKEN
    ) as server:
        chosen = {"Authorization": f"Bearer {LONG_TOKEN}"}
        made = httpx2.post(
            f"{server.url}/v1/tokens", json={"name": "till", "role": "admin"}, headers=chosen
        ).json()["token"]
        tries = [
            httpx2.post(f"{server.url}/v1/session", json={"name": name, "password": "wrong"})
            for name in ("ana", "ana", "ana", "ana", "bea", "bea", "bea")
        ]
        assert [one.status_code for one in tries] == [401, 401, 401, 429, 401, 401, 429]
        assert "retry-after" in tries[-1].headers

        stock = f"{server.url}/v1/inventory"
        wrong = [
            httpx2.get(stock, headers={"Authorization": f"Bearer guess-{number}"}).status_code
            for number in range(5)
        ]

        assert wrong == [401, 401, 401, 401, 429]
        assert httpx2.get(stock, headers=chosen).status_code == 429
        assert httpx2.get(stock, headers={"Authorization": f"Bearer {made}"}).status_code == 200


def test_no_secret_is_ever_logged(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_LOG_LEVEL="DEBUG") as server:
        device = server.add_device("cam")
        new = {"name": "ana", "role": "admin", "password": PASSWORD}
        server.admin.post("/v1/people", json=new)
        made = server.admin.post("/v1/tokens", json={"name": "t", "role": "viewer"}).json()["token"]
        with signed_in(server, "ana") as ana:
            csrf, session = ana.headers["X-CSRF-Token"], ana.cookies["capturekit_session"]
            ana.patch("/v1/people/ana", json={"password": "short"})
            ana.post("/v1/people", json={**new, "role": "emperor"})
            ana.delete("/v1/session")
        httpx2.post(f"{server.url}/v1/session", content=f'{{"password": "{PASSWORD}"')
        httpx2.post(f"{server.url}/v1/session", json={"name": "ana", "password": PASSWORD[:-1]})
        server.upload(device, picture("4006381333931"), captured_at="never")
        ingest = f"{server.url}/v1/ingest"
        httpx2.post(ingest, data={"token": device}, files={"image": b"no picture"})
        httpx2.post(ingest, data={"token": device, "image": "text"})
        frame = f"{server.url}/v1/devices/cam/frames/a-1"
        bearer = {"Authorization": f"Bearer {device}", "Capturekit-Meta": "((("}
        httpx2.put(frame, content=b"no", headers={**bearer, "Content-Type": "image/jpeg"})
        httpx2.get(f"{server.url}/v1/inventory", headers={"Authorization": f"Bearer {made}x"})
        server.end()

        log = "".join(server.log)
    secrets = (device, made, csrf, session, PASSWORD, PASSWORD[:-1], ADMIN_TOKEN)
    assert [secret for secret in secrets if secret in log] == []
    assert log.count("/v1/session") >= 4
