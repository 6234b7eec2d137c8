"""Options and steps that several commands share."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import click

from capturekit.errors import ConfigError

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings

T = TypeVar("T")

DATA_HELP: Final = "Data folder  [default: CAPTUREKIT_DATA_DIR, else ./capturekit-data]"

data_option = click.option("--data", "data_dir", type=click.Path(path_type=Path), help=DATA_HELP)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def with_kit(
    settings: "Settings",
    work: "Callable[[CaptureKit], Awaitable[T]]",
    *,
    may_be_new: bool = False,
) -> T:
    """Open the data folder as a command does, run ``work`` and return what it returns.

    Raises ConfigError when there is no database yet, unless it ``may_be_new``: a mistyped
    folder is then not made.
    """
    from capturekit.kit import CaptureKit, Role

    path = settings.database_path
    if not may_be_new and path is not None and not path.exists():
        raise ConfigError(
            f"there is no capturekit database in {settings.data_dir}; name its folder with --data"
        )

    async def run() -> T:
        async with CaptureKit(settings, role=Role.COMMAND) as kit:
            return await work(kit)

    return anyio.run(run)


def log_to_stderr(settings: "Settings") -> None:
    """Log lines on standard error; a library leaves that to its host, a command is the host."""
    from capturekit.logs import handler

    lines = handler(is_json=settings.log_format == "json")
    logging.basicConfig(level=settings.log_level, handlers=[lines], force=True)
    logging.getLogger("alembic").setLevel("WARNING")
