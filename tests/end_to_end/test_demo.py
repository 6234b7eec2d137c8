"""`capturekit demo` as a user runs it: real cameras' uploads, a real server, a real verdict."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "capturekit", "demo", "--headless")
KEYS = {
    *("ok", "accuracy", "double_counts", "lost"),
    *("captures", "refused", "p50_ms", "p95_ms", "seed"),
}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def test_a_short_run_agrees_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path, "--seconds", "4", "--seed", "11", "--json") as process:
        out, err = process.communicate(timeout=50)

    assert process.returncode == 0, err
    verdict = json.loads(out)
    assert set(verdict) == KEYS
    assert (verdict["ok"], verdict["accuracy"], verdict["seed"]) == (True, 1.0, 11)
    assert (verdict["double_counts"], verdict["lost"]) == (0, 0)
    assert verdict["captures"] >= 6
    assert verdict["refused"] >= 1
    assert 0 < verdict["p50_ms"] <= verdict["p95_ms"]
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_it_early_with_a_verdict(tmp_path: Path) -> None:
    with start(tmp_path, "--seconds", "600") as process:
        assert process.stderr is not None
        address = next(line for line in process.stderr if "the dashboard is at" in line)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=50)

    assert "#token=" in address
    assert "verdict" in out
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(120)
def test_stock_is_exact_though_workers_are_killed(tmp_path: Path) -> None:
    arguments = ("--chaos", "kill-worker", "--seconds", "8", "--seed", "3", "--json")
    with start(tmp_path, *arguments) as process:
        out, err = process.communicate(timeout=100)

    assert process.returncode == 0, err
    verdict = json.loads(out)
    assert set(verdict) == KEYS | {"kills"}
    assert verdict["kills"] >= 2
    assert (verdict["ok"], verdict["lost"], verdict["double_counts"]) == (True, 0, 0)
    assert not list(tmp_path.iterdir())
