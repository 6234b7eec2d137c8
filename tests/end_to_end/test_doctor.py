"""What ``capturekit doctor`` says of settings, Redis and clocks; of storage: test_storage.py."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from capturekit.cli.main import cli
from capturekit.kit import CaptureKit, Role, Upload
from capturekit.settings import Settings
from tests.made_pictures import picture
from tests.servers import run_cli
from tests.servers_redis import running_redis


@pytest.fixture
def data(tmp_path: Path) -> Path:
    run_cli(tmp_path / "data", "devices", "add", "cam")
    return tmp_path / "data"


def doctor(data: Path) -> tuple[int, dict[str, str]]:
    """The exit code, and what is said by what it is about."""
    ended = CliRunner().invoke(cli, ["doctor", "--json", "--data", str(data)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    findings = json.loads(ended.stdout)["findings"]
    return ended.exit_code, {one["about"]: one["says"] for one in findings}


def test_names_that_are_no_settings_are_told_wherever_they_stand(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("CAPTUREKIT_REDIS_URI=redis://x\nOTHER=1\ncapturekit_port=1\n")
    (tmp_path / "capturekit.toml").write_text('data_dirr = "x"\nthreshold = 0.4\n')
    monkeypatch.setenv("CAPTUREKIT_MAX_ATTEMPT", "3")
    monkeypatch.setenv("CAPTUREKIT_XYZZY", "3")
    code, said = doctor(data)
    assert code == 0
    assert "did you mean CAPTUREKIT_REDIS_URL?" in said["CAPTUREKIT_REDIS_URI in .env"]
    assert "did you mean data_dir?" in said["data_dirr in capturekit.toml"]
    assert "did you mean CAPTUREKIT_MAX_ATTEMPTS?" in said["CAPTUREKIT_MAX_ATTEMPT"]
    assert "correct or unset it" in said["CAPTUREKIT_XYZZY"]
    assert not {"OTHER in .env", "CAPTUREKIT_PORT in .env"} & said.keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"),
            ("allkeys-lru", "noeviction"),
        ),
        (("--appendonly", "no"), ("appendonly is no",)),
        (("--appendonly", "yes", "--maxmemory-policy", "noeviction"), ()),
    ],
)
def test_a_redis_that_may_lose_jobs_is_told(
    options: Sequence[str],
    words: Sequence[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_redis("valkey", tmp_path / "redis", *options) as redis:
        monkeypatch.setenv("CAPTUREKIT_QUEUE_URL", redis.url)
        code, said = doctor(data)
    assert code == 0
    told = said.get("Redis", "")
    assert all(word in told for word in words)
    assert words or not told


def test_pictures_from_the_future_tell_of_a_wrong_clock(data: Path) -> None:
    assert "clock" not in doctor(data)[1]

    async def receive() -> None:
        kit = CaptureKit(
            Settings(data_dir=data), role=Role.COMMAND, clock=lambda: time.time() + 3600
        )
        async with kit:
            await kit.receive(Upload(picture("4006381333931"), "cam"))

    anyio.run(receive)
    assert "60 minutes from now" in doctor(data)[1]["clock"]
