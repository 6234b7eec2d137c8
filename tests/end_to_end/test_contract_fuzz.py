"""Requests of every kind that the API's description allows, and many that it does not.

schemathesis makes them, for an admin, a device and nobody: no answer is a 500, none is of a status,
type or shape that is not described, and what breaks the description is refused. ``nox -s fuzz_api``
asks for longer.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ADMIN_TOKEN, Server, running_server

LONG = int(os.environ.get("CAPTUREKIT_FUZZ_EXAMPLES", "0"))
"""Examples of each operation; 0 is the short form."""

pytestmark = [pytest.mark.needs_extra("server"), pytest.mark.timeout(3600 if LONG else 180)]

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        # Under the names of the description's examples.
        item = {"item_id": "pasta", "name": "Pasta", "codes": [{"code": "4006381333931"}]}
        assert server.admin.post("/v1/items", json=item).status_code == 201
        bought = {"kind": "receive", "item": "pasta", "quantity": 12, "to": "pantry"}
        assert server.admin.post("/v1/locations", json={"location_id": "pantry"}).is_success
        assert server.admin.post("/v1/movements", json=bought).is_success
        yield server


def fuzz(server: Server, token: str | None, *options: str) -> str:
    """Run schemathesis against the server; what it printed, with its findings if any."""
    who = ("-H", f"Authorization: Bearer {token}") if token else ()
    how_long = ("-n", str(LONG)) if LONG else options
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG),
            *("run", f"{server.url}/openapi.json", *who, *how_long),
            *("--continue-on-failure", "--request-timeout", "20", "--warnings", "off"),
            "--no-color",
        ],
        capture_output=True,
        text=True,
        check=False,
        # It keeps what it found in a folder of its own.
        cwd=server.data.parent,
    )
    # Its exit code is 0 also when it found nothing to ask.
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert "Operations:       0 selected" not in done.stdout
    assert server.process.poll() is None
    return done.stdout


def test_an_admin_finds_no_fault(server: Server) -> None:
    assert "No issues found" in fuzz(server, ADMIN_TOKEN, "-n", "4", "--max-time", "20")


def test_a_device_finds_no_fault(server: Server) -> None:
    token = server.add_device("pantry-cam")
    assert "No issues found" in fuzz(server, token, "--phases", "fuzzing", "-n", "3")


def test_a_stranger_finds_no_fault(server: Server) -> None:
    assert "No issues found" in fuzz(server, None, "--phases", "fuzzing", "-n", "3")
