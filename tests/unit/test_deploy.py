"""The files of examples/deploy name metrics, settings, commands and services that there are.

No container engine, Prometheus or Grafana is asked: this reads the files.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
ASKED_ELSEWHERE = {"up"}
"""Prometheus's own."""

pytestmark = pytest.mark.needs_extra("server")


def loaded(name: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return found


def exported() -> set[str]:
    """Names of samples that /metrics may have."""
    from capturekit.telemetry import MEASURES
    from capturekit.web import metrics

    source = Path(metrics.__file__).read_text()
    names = set(re.findall(r'"(capturekit_\w+)"', source))
    counters = set(re.findall(r'CounterMetricFamily\(\s*"(capturekit_\w+)"', source))
    names |= {f"{name}_total" for name in counters}
    for name, measure in MEASURES.items():
        endings = ("_bucket", "_count", "_sum") if measure.bounds else ("_total",)
        names |= {f"capturekit_{name}{ending}" for ending in endings}
    return names


def expressions() -> Iterator[tuple[str, str]]:
    for group in loaded("prometheus/alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    board = json.loads((DEPLOY / "grafana/dashboards/capturekit.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_an_expression_asks_for_what_is_exported(where: str, expression: str) -> None:
    without_strings = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"\bcapturekit_\w+", without_strings))
    assert names or "up{" in expression, where
    assert names <= exported()
    for opening, closing in ("()", "{}", "[]"):
        assert without_strings.count(opening) == without_strings.count(closing)


def test_labels_that_expressions_choose_by_are_those_of_their_metric() -> None:
    from capturekit.telemetry import MEASURES

    asked = 0
    for _, expression in expressions():
        for name, chosen in re.findall(r"capturekit_(\w+)\{([^}]*)\}", expression):
            plain = re.sub(r"_(total|bucket|count|sum)$", "", name)
            if plain in MEASURES:
                asked += 1
                labels = set(re.findall(r"(\w+)\s*[=!]", chosen))
                assert labels <= {*MEASURES[plain].labels, "le"}, name
    assert asked


def test_outcomes_that_expressions_choose_by_are_given() -> None:
    from capturekit import measuring

    source = Path(measuring.__file__).read_text()
    given = set(re.findall(r'"(\w+)"', source)) | {"stored", "duplicate"}
    for _, expression in expressions():
        for chosen in re.findall(r'outcome=~?"([^"]*)"', expression):
            assert set(chosen.split("|")) <= given


def settings_named(text: str) -> set[str]:
    return set(re.findall(r"\bCAPTUREKIT_([A-Z_]+)\b", text))


def test_every_setting_is_one() -> None:
    from capturekit.settings import Settings

    known = {name.upper() for name in Settings.model_fields}
    # Compose's own: the address on which it publishes the port.
    asked = {"PUBLISH"}
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            assert settings_named(file.read_text()) - asked <= known, file.name


def test_every_command_is_one() -> None:
    from capturekit.cli.main import cli

    units = [file.read_text() for file in (DEPLOY / "systemd").glob("*.service")]
    commands = [
        line.split("capturekit ", 1)[1].split()[0]
        for unit in units
        for line in unit.splitlines()
        if line.startswith("ExecStart=")
    ]
    services = loaded("compose.yaml")["services"]
    commands += [service["command"][0] for service in services.values() if _is_ours(service)]
    commands = [command.split("capturekit ")[-1].split()[0] for command in commands]
    assert len(commands) >= 6
    assert set(commands) <= set(cli.list_commands(None))  # type: ignore[arg-type]


def _is_ours(service: dict[str, Any]) -> bool:
    return service["image"] == "capturekit" and "command" in service


def test_compose_services_depend_on_each_other_within_a_profile() -> None:
    compose = loaded("compose.yaml")
    services, volumes = compose["services"], compose["volumes"]
    assert {profile for one in services.values() for profile in one["profiles"]} == {"one", "scale"}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert services[other]["profiles"] == service["profiles"], name
            if how["condition"] == "service_healthy":
                has_check = "healthcheck" in services[other] or other in ("one", "server")
                assert has_check, f"{name} waits for the health of {other}, which has no check"
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in volumes or (DEPLOY / source).exists(), mount
        if service["image"] == "capturekit":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for source in line.split():
            assert (DEPLOY.parents[1] / source).exists(), source
    assert dockerfile.count("FROM ") == 2
    assert re.search(r"^USER capturekit$", dockerfile, re.MULTILINE)
    assert "HEALTHCHECK" in dockerfile
