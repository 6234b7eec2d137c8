"""What an admin and ``capturekit doctor`` learn of what is stored, and what they can do."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from capturekit.cli.main import cli
from tests.made_pictures import picture
from tests.servers import DidNotStartError, Server, run_cli, running_server

CODES = ("4006381333931", "5901234123457")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of an ended server: an old picture, and a newer one that stock rests on."""
    with running_server(tmp_path / "data") as server:
        token = server.add_device("shelf")
        for second in range(2):
            answer = server.upload(
                token, picture(CODES[0]), captured_at=f"2026-11-25T08:00:0{second}Z"
            )
            assert answer.status_code == 200
            server.wait_until_processed()
        server.upload(token, picture(CODES[1]), captured_at="2026-11-25T08:00:05Z")
        server.wait_until_processed()
    return server.data


def doctor(data: Path, *options: str) -> tuple[int, list[dict[str, str]]]:
    ended = CliRunner().invoke(cli, ["doctor", "--json", *options, "--data", str(data)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, json.loads(ended.stdout)["findings"]


def test_an_admin_sees_checks_and_frees_storage(data: Path) -> None:
    with running_server(data) as server:
        told = server.admin.get("/v1/admin/storage").json()
        assert told["pictures"]["count"] == 2
        assert told["unneeded"] == {"count": 0, "size_bytes": 0}
        assert told["blob_bytes"] > told["pictures"]["size_bytes"] > 0
        assert server.admin.post("/v1/admin/storage/verify").json()["is_whole"] is True

        path = "/v1/admin/retention?days=0&dry_run="
        dry = server.admin.post(path + "true").json()
        done = server.admin.post(path + "false").json()
        assert (dry["captures"], dry["blobs"]) == (1, 0)
        assert (done["captures"], done["spared"]) == (1, 2)
        gone = [row for row in server.captures() if row["picture_removed_at"]]
        answer = server.admin.get(f"/v1/captures/{gone[0]['capture_id']}/thumbnail")
        assert answer.status_code == 410
        assert "retention" in answer.json()["detail"]
        again = server.admin.post(f"/v1/admin/process-capture/{gone[0]['capture_id']}")
        assert again.status_code == 409
        collected = server.admin.post("/v1/admin/storage/collect?dry_run=true").json()
        assert collected["deleted"] == 0
        assert server.admin.post("/v1/admin/retention?state=pending&days=1").status_code == 422
    assert json.loads(run_cli(data, "storage", "stats", "--json"))["pictures"]["count"] == 2


def test_a_sound_installation_has_no_errors(data: Path) -> None:
    code, found = doctor(data, "--blobs")
    assert code == 0, found
    assert {one["level"] for one in found} <= {"warning"}


def test_lost_and_changed_pictures_and_misspelt_settings_are_found(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTUREKIT_RETENTION_DAY", "3")
    first, second, *_ = sorted((data / "blobs").glob("??/*"))
    first.unlink()
    second.write_bytes(b"x" + second.read_bytes()[1:])
    code, found = doctor(data, "--blobs")
    assert code == 1
    told = {(one["about"], one["says"].partition(": ")[0]) for one in found}
    assert ("blobs", f"{first.parent.name}{first.name} is missing") in told
    assert ("blobs", f"{second.parent.name}{second.name} is corrupt") in told
    assert "CAPTUREKIT_RETENTION_DAY" in {one["about"] for one in found}


def test_a_corrupt_page_is_detected_at_start_and_doctor_says_what_to_do(data: Path) -> None:
    path = data / "capturekit.db"
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    for page in range(20, len(content) // size):
        content[page * size : page * size + 100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(DidNotStartError, match="capturekit doctor"):
        Server(data, {}).start()
    code, found = doctor(data)
    assert code == 1
    assert any("capturekit restore" in one["says"] for one in found)
