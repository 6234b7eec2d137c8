"""``capturekit backup`` and ``capturekit restore``."""

import json
import sys
from pathlib import Path

import anyio
import click

from capturekit.cli.options import data_option, json_option

folder_argument = click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")


@click.command()
@folder_argument
@data_option
@json_option
def backup(folder: Path, data_dir: Path | None, as_json: bool) -> None:
    """Copy the database and all pictures into DIR, while servers and workers go on.

    Run again into the same DIR it copies only the pictures that are new. Exit code 1 if pictures
    were missing or corrupt already.
    """
    from capturekit.backup import back_up
    from capturekit.settings import Settings

    manifest = anyio.run(back_up, Settings.load(data_dir=data_dir), folder)
    rows = sum(file.lines for name, file in manifest.files.items() if name != "blobs")
    told = {
        "rows": rows,
        "blobs": manifest.files["blobs"].lines,
        "blob_bytes_copied": manifest.blob_bytes_copied,
        "missing": list(manifest.missing),
        "revision": manifest.revision,
    }
    if as_json:
        click.echo(json.dumps(told))
    else:
        click.echo(f"{folder} has {rows} rows and {told['blobs']} pictures and thumbnails")
        for sha256 in manifest.missing:
            click.echo(f"missing or corrupt in storage, and not in the backup: {sha256}", err=True)
    sys.exit(bool(manifest.missing))


@click.command()
@folder_argument
@data_option
@click.option("--verify", "is_verified", is_flag=True, help="Read all of it again afterwards.")
@json_option
def restore(folder: Path, data_dir: Path | None, is_verified: bool, as_json: bool) -> None:
    """Fill a new data folder, or an empty database and bucket, from the backup in DIR.

    Where there is something already it is refused. Jobs that ran are run again; devices and
    tokens are the same.
    """
    from capturekit.backup import restore as restore_backup
    from capturekit.settings import Settings

    async def run() -> int:
        settings = Settings.load(data_dir=data_dir)
        manifest = await restore_backup(settings, folder, is_verified=is_verified)
        return sum(file.lines for name, file in manifest.files.items() if name != "blobs")

    rows = anyio.run(run)
    if as_json:
        click.echo(json.dumps({"rows": rows, "verified": is_verified}))
    else:
        click.echo(f"{rows} rows restored{' and verified' if is_verified else ''}")
