"""The real application in a process of its own, on a folder that lasts as long as it runs."""

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import Process

from capturekit.errors import CaptureKitError

START_S: Final = 30.0
STOP_S: Final = 12.0
"""More than the server gives requests under way; after that it is killed."""
POLL_S: Final = 0.02

_READY: Final = re.compile(r"capturekit listening on (http://\S+)")


class ServerFailed(CaptureKitError):
    """The server did not start or went away; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where the server is and who may talk to it."""

    base_url: str
    admin_token: str
    device_tokens: dict[str, str]
    """By device."""
    data_dir: Path

    @property
    def dashboard_url(self) -> str:
        """Opens the dashboard signed in; a fragment never reaches the server or its logs."""
        return f"{self.base_url}/#token={self.admin_token}"


@asynccontextmanager
async def running_server(
    devices: Iterable[str], names: Mapping[str, str], settings: Mapping[str, str] | None = None
) -> AsyncIterator[RunningServer]:
    """Start ``capturekit serve`` with these devices, each marked exhaustive.

    ``names`` says what people call the item of a code, ``settings`` are variables for the server.

    Raises ServerFailed. However the block ends, the process is gone and the folder deleted.
    """
    with TemporaryDirectory(prefix="capturekit-demo-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        admin_token = secrets.token_urlsafe(32)
        async with _process(home, admin_token, settings or {}) as process:
            base_url = await _ready_url(process, home)
            tokens = await _set_up(home / "data", devices, names)
            yield RunningServer(base_url, admin_token, tokens, home / "data")


@asynccontextmanager
async def _process(
    home: Path, admin_token: str, settings: Mapping[str, str]
) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "capturekit", "serve", "--data", str(home / "data")]
    with (home / "server.log").open("wb") as log:
        process = await anyio.open_process(
            [*command, "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # Settings files in the user's working directory are not the demo's.
            cwd=home,
            env={
                **clean_environment(),
                "CAPTUREKIT_ADMIN_TOKEN": admin_token,
                "CAPTUREKIT_RATE_LIMITS": "off",
                **settings,
            },
            # Ctrl-C is for the demo alone; it then stops the server in order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


def clean_environment() -> dict[str, str]:
    """The variables of this process without settings: the user's own are not the demo's."""
    return {name: text for name, text in os.environ.items() if not name.startswith("CAPTUREKIT_")}


async def _ready_url(process: Process, home: Path) -> str:
    with anyio.move_on_after(START_S):
        while process.returncode is None:
            if found := _READY.search((home / "server.log").read_text(errors="replace")):
                return found[1]
            await anyio.sleep(POLL_S)
    raise ServerFailed(f"the server did not start:\n{_last_words(home)}")


def _last_words(home: Path) -> str:
    """The end of the server's log."""
    lines = (home / "server.log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-12:])


async def _set_up(
    data_dir: Path, devices: Iterable[str], names: Mapping[str, str]
) -> dict[str, str]:
    # As `capturekit devices add` does it, without the start of a process for each.
    from capturekit.kit import CaptureKit, Role
    from capturekit.settings import Settings

    # Constructed, not loaded: the user's own variables and files are not the demo's.
    settings = Settings.model_construct(data_dir=data_dir)
    async with CaptureKit(settings, role=Role.COMMAND) as kit:
        added = {name: await kit.store.devices.add(name, is_exhaustive=True) for name in devices}
        for code, name in names.items():
            await kit.store.inventory.add_item(code, name)
    return {name: token for name, (_, token) in added.items()}


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    with anyio.move_on_after(STOP_S):
        await process.wait()
        return
    # Its children too: it leads a session of its own.
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
