"""Starts workers of taskiq, each a process with a child, and ends them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 40.0
"""A machine under load starts a worker of taskiq in 5 s."""

ROOT: Final = Path(__file__).parents[1]


@contextmanager
def taskiq_worker(
    broker: str, environment: Mapping[str, str], *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "taskiq", "worker", broker, "--workers", "1", *options],
        cwd=ROOT,
        env=dict(os.environ) | dict(environment),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
