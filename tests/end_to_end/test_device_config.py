"""What cameras should do is set by people, and rides on the answers to uploads."""

import json
import re
from collections.abc import Iterator

import httpx2
import pytest
from click.testing import CliRunner

from capturekit.cli.main import cli
from tests.made_pictures import picture
from tests.servers import Server, run_cli, running_server

CODE = "4006381333931"
CONFIG = {"every_s": 300, "phase_s": 118, "size": "uxga", "quality": 12}
FIELD = 'v=1, every=300, phase=118, size="uxga", q=12'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("configured")) as server:
        yield server


def put(server: Server, token: str, device: str, name: str, meta: str = "q=0") -> httpx2.Response:
    return httpx2.put(
        f"{server.url}/v1/devices/{device}/frames/{name}",
        content=picture(CODE),
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "image/jpeg",
            "Capturekit-Meta": meta,
        },
        timeout=20,
    )


def configure(server: Server, device: str, **fields: object) -> httpx2.Response:
    return server.admin.put(f"/v1/devices/{device}/config", json=fields)


def test_a_device_is_told_what_it_does_not_know(server: Server) -> None:
    token = server.add_device("told")
    assert "capturekit-config" not in put(server, token, "told", "a-1").headers
    assert configure(server, "told", **CONFIG).status_code == 200
    new = put(server, token, "told", "a-2")
    again = put(server, token, "told", "a-2")
    older = put(server, token, "told", "a-3", "cfg=0")
    of_a_backup = put(server, token, "told", "a-4", "cfg=9")
    assert [one.status_code for one in (new, again, older, of_a_backup)] == [201, 200, 201, 201]
    for answer in (new, again, older, of_a_backup):
        assert answer.headers["capturekit-config"] == FIELD
    assert "capturekit-config" not in put(server, token, "told", "a-5", "cfg=1").headers


def test_forms_are_told_as_well(server: Server) -> None:
    token = server.add_device("form")
    assert "capturekit-config" not in server.upload(token, picture(CODE)).headers
    configure(server, "form", **CONFIG)
    for _ in range(2):
        assert server.upload(token, picture(CODE)).headers["capturekit-config"] == FIELD
    assert "capturekit-config" not in server.upload(token, picture(CODE), cfg="1").headers
    by_field = httpx2.post(
        f"{server.url}/v1/ingest",
        files={"image": ("picture.jpg", picture(CODE), "image/jpeg")},
        data={"token": token, "cfg": "what?"},
        timeout=20,
    )
    assert by_field.headers["capturekit-config"] == FIELD


def test_a_phase_is_chosen_for_who_has_none(server: Server) -> None:
    token = server.add_device("spread")
    configure(server, "spread", every_s=60)
    header = put(server, token, "spread", "a-1").headers["capturekit-config"]
    found = re.fullmatch(r"v=1, every=60, phase=(\d+)", header)
    assert found is not None, header
    assert int(found[1]) in range(60)


def test_a_change_of_what_changed_since_is_refused(server: Server) -> None:
    server.add_device("edited")
    path = "/v1/devices/edited/config"
    tag = server.admin.get(path).headers["etag"]
    assert tag == '"v0"'
    first = server.admin.put(path, json={"every_s": 60}, headers={"If-Match": tag})
    assert (first.status_code, first.headers["etag"]) == (200, '"v1"')
    for stale in (tag, '"other"', 'W/"v1"'):
        answer = server.admin.put(path, json={"every_s": 90}, headers={"If-Match": stale})
        assert answer.status_code == 412
        assert answer.json()["type"] == "urn:capturekit:problem:out-of-date"
    shown = server.admin.get(path)
    assert (shown.json()["version"], shown.json()["config"]["every_s"]) == (1, 60)
    for current in ('"v1"', "*"):
        answer = server.admin.put(path, json={}, headers={"If-Match": current})
        assert answer.status_code == 200


def test_what_cannot_be_is_told(server: Server) -> None:
    token = server.add_device("strict")
    assert configure(server, "strict", every=60).status_code == 422
    assert configure(server, "strict", quality=1).status_code == 422
    assert configure(server, "none", every_s=60).status_code == 404
    assert server.admin.get("/v1/devices/none/config").status_code == 404
    url = f"{server.url}/v1/devices/strict/config"
    assert httpx2.get(url, timeout=20).status_code == 401
    own = {"Authorization": f"Bearer {token}"}
    assert httpx2.put(url, json={}, headers=own, timeout=20).status_code == 403


def test_the_command_line_configures(server: Server) -> None:
    server.add_device("by-hand")
    sets = ("--set", "every=300", "--set", "size=vga", "--set", "phase=7")
    told = json.loads(run_cli(server.data, "devices", "config", "by-hand", *sets, "--json"))
    assert (told["version"], told["config"]["every_s"], told["config"]["size"]) == (1, 300, "vga")
    changed = run_cli(server.data, "devices", "config", "by-hand", "--set", "size=", "--set", "q=9")
    assert changed.splitlines() == ["v: 2", "every: 300", "phase: 7", "q: 9"]
    assert run_cli(server.data, "devices", "config", "by-hand") == changed
    for wrong in ("speed=1", "every", "every=-1", "q=much"):
        arguments = ["devices", "config", "by-hand", "--set", wrong, "--data", str(server.data)]
        ended = CliRunner().invoke(cli, arguments)
        assert ended.exit_code == 2, wrong
