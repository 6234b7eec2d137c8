"""The command line's refusals: one line that says what to do, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_extra("server")


def refused(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code and standard error of a command that must not work."""
    command = [sys.executable, "-m", "capturekit", *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_a_device_name_that_is_no_id_is_a_usage_error(tmp_path: Path) -> None:
    code, text = refused("devices", "add", "bad/name", "--data", "data", cwd=tmp_path)
    assert code == 2
    assert "bad/name" in text


@pytest.mark.parametrize("command", [("stock",), ("db", "check"), ("devices", "list")])
def test_a_mistyped_folder_is_told_and_not_made(tmp_path: Path, command: tuple[str, ...]) -> None:
    code, text = refused(*command, "--data", "typo", cwd=tmp_path)
    assert code == 1
    assert "no capturekit database in typo" in text
    assert not (tmp_path / "typo").exists()


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "capturekit.toml").write_text("nonsense = = ")
    code, text = refused("serve", "--port", "0", cwd=tmp_path)
    assert code == 1
    assert "capturekit.toml" in text


def test_an_output_that_never_ends_is_refused(tmp_path: Path) -> None:
    code, text = refused("process", "a.jpg", "--out", "/dev/full", cwd=tmp_path)
    assert code == 2
    assert "not a regular file" in text
