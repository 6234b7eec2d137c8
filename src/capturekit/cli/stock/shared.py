"""What the commands of ``capturekit stock`` share: options, times, one question to the ledger."""

import functools
import getpass
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from capturekit.cli.options import with_kit

if TYPE_CHECKING:
    from pydantic import JsonValue

    from capturekit.store import Inventory

T = TypeVar("T")

TIME: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])
"""Times are given in UTC."""

location_option = click.option(
    "--location", metavar="ID", help="Only what is there and in the locations below it."
)
item_option = click.option("--item", metavar="ID", help="Only this item.")
as_of_option = click.option(
    "--as-of",
    type=TIME,
    metavar="TIME",
    help="As it was then, in UTC, such as 2026-01-31 or 2026-01-31T09:00:00.",
)
by_option = click.option("--by", metavar="NAME", help="Who it was; you, unless you say.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Lines at most."
)


@dataclass(frozen=True, slots=True)
class Said:
    """What goes with everything that a person says was done."""

    by: str
    at: float | None
    reason: str | None
    key: str | None
    data_dir: Path | None
    as_json: bool


def said_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options for a ``Said``, which the command gets as ``said``."""

    @click.option("--reason", metavar="TEXT", help="Why.")
    @by_option
    @click.option("--at", type=TIME, metavar="TIME", help="When it was done, in UTC; else now.")
    @click.option("--key", metavar="KEY", help="Its name: said again under it, it is done once.")
    @functools.wraps(command)
    def with_said(
        by: str | None,
        at: datetime | None,
        reason: str | None,
        key: str | None,
        data_dir: Path | None,
        as_json: bool,
        **own: object,  # what the command itself asks for
    ) -> None:
        said = Said(name_of(by), seconds(at), reason, key, data_dir, as_json)
        command(said=said, **own)

    return with_said


def name_of(by: str | None) -> str:
    """Who it was: the name given, else that of whoever is logged in here."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def seconds(time: datetime | None) -> float | None:
    """Seconds since 1970 of a time in UTC."""
    return None if time is None else time.replace(tzinfo=UTC).timestamp()


def ask(
    data_dir: Path | None,
    work: "Callable[[Inventory], Awaitable[T]]",
    *,
    may_be_new: bool = False,
) -> T:
    """Ask the ledger in the data folder. A wrong value is a usage error."""
    from capturekit.settings import Settings

    settings = Settings.load(data_dir=data_dir or _data_of_group())
    try:
        return with_kit(settings, lambda kit: work(kit.store.inventory), may_be_new=may_be_new)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _data_of_group() -> Path | None:
    """The --data that was given before the subcommand, which holds for it, too."""
    context: click.Context | None = click.get_current_context()
    while context is not None:
        if isinstance(given := context.params.get("data_dir"), Path):
            return given
        context = context.parent
    return None


def show(
    rows: "Iterable[Mapping[str, JsonValue]]", columns: tuple[str, ...], *, as_json: bool
) -> None:
    """Print rows as a JSON list, or these columns of them as a table."""
    found = list(rows)
    if as_json:
        click.echo(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Column, Table

    # Folded, not cut: an id that is shown must be one that can be named.
    table = Table(*(Column(name.replace("_", " "), overflow="fold") for name in columns))
    for row in found:
        table.add_row(*(_text(row.get(name)) for name in columns))
    Console().print(table)


def _text(value: "JsonValue") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
