"""Workers, apps and servers killed while jobs flow: nothing is lost and nothing is done twice."""

import os
import random
from pathlib import Path

import pytest

from tests.faults.killing import kill_for
from tests.faults.worlds import WORLDS

KILLS = 12
SEED = int(os.environ.get("CAPTUREKIT_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
"""Printed with the figures; set it to see a failure again."""


@pytest.mark.parametrize("backend", WORLDS)
def test_random_kills_lose_nothing_and_double_nothing(backend: str, tmp_path: Path) -> None:
    figures = kill_for(backend, KILLS, SEED, tmp_path)
    print(figures)
    assert figures.findings.wrong == [], str(figures)
    assert figures.findings.jobs > KILLS
