"""Where settings come from, and what is wrong with them."""

from pathlib import Path

import pytest

from capturekit.errors import ConfigError
from capturekit.settings import DEFAULT_RATE_LIMITS, Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arguments_beat_variables_beat_dotenv_beat_toml_beat_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [Settings.load().port]
    (folder / "capturekit.toml").write_text("port = 1")
    seen.append(Settings.load().port)
    (folder / ".env").write_text("CAPTUREKIT_PORT=2")
    seen.append(Settings.load().port)
    monkeypatch.setenv("CAPTUREKIT_PORT", "3")
    seen.append(Settings.load().port)
    seen.append(Settings.load(port=4).port)
    assert seen == [8000, 1, 2, 3, 4]


def test_an_argument_that_is_none_counts_as_not_given() -> None:
    assert Settings.load(port=None).port == 8000


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("off", {}),
        ("ingest=5/minute", {**DEFAULT_RATE_LIMITS, "ingest": "5/minute"}),
        (
            "ingest=5/minute; 20/hour, ip=9/second",
            {**DEFAULT_RATE_LIMITS, "ingest": "5/minute; 20/hour", "ip": "9/second"},
        ),
        ('{"ingest": "5/minute"}', {**DEFAULT_RATE_LIMITS, "ingest": "5/minute"}),
    ],
)
def test_rate_limits_are_read(
    monkeypatch: pytest.MonkeyPatch, text: str, rules: dict[str, str]
) -> None:
    monkeypatch.setenv("CAPTUREKIT_RATE_LIMITS", text)
    assert Settings.load().rate_limits == rules


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "99999"),
        ("rate_limits", "uploads=3/minute"),
        ("rate_limits", "fast"),
        ("trusted_proxies", "not-a-network"),
        ("queue_url", "kafka://localhost"),
        ("queue_url", "redis"),
        ("max_queued", "0"),
        ("executor", "gpu"),
        ("load_signals", "queue,moon"),
        ("database_url", "mysql://localhost/captures"),
        ("max_pixels", "many"),
    ],
)
def test_a_wrong_value_is_told_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CAPTUREKIT_{name.upper()}", value)
    with pytest.raises(ConfigError, match=f"CAPTUREKIT_{name.upper()}"):
        Settings.load()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTUREKIT_ADMIN_TOKEN", "do-not-print-me")
    settings = Settings.load()
    assert "do-not-print-me" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTUREKIT_ADMIN_TOKEN", "")
    assert Settings.load().admin_token is None
