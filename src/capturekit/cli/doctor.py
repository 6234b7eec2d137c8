"""``capturekit doctor``: what is wrong with an installation, and what to do about it."""

import difflib
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import anyio
import click

from capturekit.cli.options import data_option, json_option
from capturekit.errors import CaptureKitError

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings

LITTLE_BYTES: Final = 500 * 2**20
"""Free space below which a warning is due."""

RACY: Final = ((3, 7, 0), (3, 51, 2))
"""Versions of SQLite with a reported race between connections that reset the log."""

NEWEST_TIME: Final = 4102444800.0
OLDEST_TIME: Final = 1767225600.0
"""2100 and 2026: a clock outside is wrong."""

AHEAD_S: Final = 60.0
"""Seconds by which a picture may have been received later than now."""

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "valkey", "valkeys")

RECOVER: Final = (
    "stop the server; restore the newest backup into a new folder with `capturekit restore`, or "
    "save what can be read with `sqlite3 capturekit.db .recover | sqlite3 saved.db`"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at and is not as it should be."""

    level: Literal["error", "warning"]
    about: str
    says: str
    """What is wrong, and what to do."""


Findings = AsyncIterator[Finding]


@click.command()
@data_option
@json_option
@click.option(
    "--blobs", "reads_blobs", is_flag=True, help="Read every picture, not only list them."
)
def doctor(data_dir: Path | None, as_json: bool, reads_blobs: bool) -> None:
    """Look for what is wrong and say what to do; exit code 1 if there are errors.

    Changes nothing, and may run beside a server.
    """
    from capturekit.settings import Settings

    async def run() -> list[Finding]:
        return [one async for one in _examine(Settings.load(data_dir=data_dir), reads_blobs)]

    found = anyio.run(run)
    if as_json:
        click.echo(json.dumps({"findings": [asdict(one) for one in found]}))
    else:
        for one in found:
            click.echo(f"{one.level}: {one.about}: {one.says}")
        count = "1 finding" if len(found) == 1 else f"{len(found)} findings"
        click.echo(count if found else "nothing is wrong", err=True)
    sys.exit(any(one.level == "error" for one in found))


async def _examine(settings: "Settings", reads_blobs: bool) -> Findings:
    for one in (*_settings(settings), *_machine(), *_folder(settings)):
        yield one
    path = settings.database_path
    if path is not None and not path.exists():
        yield Finding(
            "error",
            "database",
            f"there is none in {settings.data_dir}: name its folder with --data",
        )
        return
    is_sound = True
    async for one in _file(settings):
        is_sound = False
        yield one
    if is_sound:
        async for one in _contents(settings, reads_blobs):
            yield one


def _settings(settings: "Settings") -> list[Finding]:
    known, found = type(settings).model_fields, []
    for where, given in type(settings).given_names():
        is_plain = where == "capturekit.toml"
        name = given if is_plain else given.removeprefix("CAPTUREKIT_").lower()
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1, cutoff=0.75)
        hint = "correct or unset it"
        if near:
            hint = f"did you mean {near[0] if is_plain else 'CAPTUREKIT_' + near[0].upper()}?"
        about = given if where == "environment" else f"{given} in {where}"
        found.append(Finding("warning", about, f"is no setting and has no effect: {hint}"))
    return found


def _machine() -> list[Finding]:
    found = []
    if not OLDEST_TIME < time.time() < NEWEST_TIME:
        found.append(
            Finding("error", "clock", "this machine's time is wrong: let it be set by NTP")
        )
    if RACY[0] <= sqlite3.sqlite_version_info <= RACY[1]:
        says = (
            f"version {sqlite3.sqlite_version} has a reported race when two connections reset the "
            "write-ahead log; only the server does that here. Use 3.51.3 or newer when you can"
        )
        found.append(Finding("warning", "SQLite", says))
    return found


def _folder(settings: "Settings") -> list[Finding]:
    folder, found = settings.data_dir, []
    if not folder.is_dir():
        return [Finding("error", "data folder", f"{folder} is not there: name another with --data")]
    if not os.access(folder, os.W_OK | os.X_OK):
        found.append(
            Finding("error", "data folder", f"{folder} cannot be written: see to its owner")
        )
    if (free := shutil.disk_usage(folder).free) < LITTLE_BYTES:
        says = f"{free // 2**20} MB are free: make room, or set CAPTUREKIT_RETENTION_DAYS"
        found.append(Finding("warning", "disk", says))
    path = settings.database_path
    if path is not None and path.exists() and path.stat().st_mode & 0o006:
        says = f"every user of this machine can read or write {path}: chmod o-rwx it"
        found.append(Finding("warning", "file modes", says))
    return found


async def _file(settings: "Settings") -> Findings:
    """Whether the database can be opened and is sound."""
    from capturekit.database import Database

    try:
        async with Database(settings.database, is_checkpointing=False) as database:
            for fault in await database.faults():
                yield Finding("error", "database", f"{fault}; {RECOVER}")
    except CaptureKitError as error:
        remedy = (
            RECOVER if settings.database_path else "see that its server runs and the URL is right"
        )
        yield Finding("error", "database", f"{error}; {remedy}")


async def _contents(settings: "Settings", reads_blobs: bool) -> Findings:
    from capturekit.kit import CaptureKit, Role

    looks: tuple[tuple[str, Callable[[CaptureKit], Awaitable[list[Finding]]]], ...] = (
        ("schema", _schema),
        ("ledger", _ledger),
        ("queue", _queue),
        ("clock", _clocks),
        ("blobs", lambda kit: _blobs(kit, reads_blobs=reads_blobs)),
    )
    try:
        async with CaptureKit(settings, role=Role.COMMAND) as kit:
            for about, look in looks:
                try:
                    found = await look(kit)
                except CaptureKitError as error:
                    found = [Finding("error", about, str(error))]
                for one in found:
                    yield one
    except CaptureKitError as error:
        yield Finding("error", "installation", str(error))


async def _schema(kit: "CaptureKit") -> list[Finding]:
    return [
        Finding("error", "schema", f"{one}: someone changed the tables; restore a backup")
        for one in await kit.check_database()
    ]


async def _ledger(kit: "CaptureKit") -> list[Finding]:
    proof = await kit.store.inventory.verify()
    return [
        Finding("error", "ledger", f"{one.message}; compare with a backup")
        for one in proof.findings
    ]


async def _queue(kit: "CaptureKit") -> list[Finding]:
    await kit.queue.stats()
    scheme = kit.settings.queue_url.get_secret_value().partition(":")[0].partition("+")[0]
    if scheme not in REDIS_SCHEMES:
        return []
    from capturekit.queue.redis import RedisQueue

    if not isinstance(kit.queue, RedisQueue):
        return []
    cautions = await kit.queue.cautions(time.time())
    return [Finding("warning", "Redis", says) for says in cautions]


async def _clocks(kit: "CaptureKit") -> list[Finding]:
    """Whether this machine's clock agrees with what was recorded."""
    newest = await kit.store.captures.newest_received_at()
    ahead_s = 0.0 if newest is None else newest - time.time()
    if ahead_s < AHEAD_S:
        return []
    says = (
        f"the newest picture was received {ahead_s / 60:.0f} minutes from now: this clock, or that "
        "of a server, was or is wrong; let all be set by NTP"
    )
    return [Finding("warning", "clock", says)]


async def _blobs(kit: "CaptureKit", *, reads_blobs: bool) -> list[Finding]:
    await kit.require_own_blobs()
    proof = await kit.storage.verify(is_thorough=reads_blobs)
    found = [
        Finding("error", "blobs", f"{one.sha256} is {one.reason}: restore it from a backup")
        for one in proof.faults
    ]
    if left := await kit.storage.left():
        says = f"{left} deletions were begun and not finished: `capturekit storage collect` does"
        found.append(Finding("warning", "blobs", says))
    return found
