"""What pictures take up, whether all are there, and what may go."""

from dataclasses import asdict

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.kit import CaptureKit
from capturekit.store import CaptureState, Role
from capturekit.times import iso
from capturekit.web.auth import kit_of, require
from capturekit.web.problems import Problem
from capturekit.web.query import Query, parse_query


class DryRun(Query):
    """Query: ``?dry_run=true`` only tells what would be done."""

    dry_run: bool = False


class RetentionOptions(DryRun):
    """Query of a removal: ``?days=&max_bytes=&state=&dry_run=``; the settings' by default."""

    days: float | None = Field(default=None, ge=0)
    max_bytes: int | None = Field(default=None, ge=0)
    state: CaptureState | None = None


async def show_storage(request: Request) -> Response:
    """Counts and bytes by kind, as they were last measured, and the size of the database."""
    await require(request, Role.ADMIN)
    return JSONResponse(await numbers(kit_of(request)))


async def verify_storage(request: Request) -> Response:
    """Read every blob; what is missing or corrupt. Takes as long as reading them takes."""
    await require(request, Role.ADMIN)
    proof = await kit_of(request).storage.verify()
    return JSONResponse(asdict(proof) | {"is_whole": proof.is_whole})


async def collect_blobs(request: Request) -> Response:
    """Delete blobs that nothing needs."""
    await require(request, Role.ADMIN)
    options = parse_query(request, DryRun)
    done = await kit_of(request).storage.collect(is_dry=options.dry_run)
    return JSONResponse(asdict(done) | {"dry_run": options.dry_run})


async def remove_pictures(request: Request) -> Response:
    """Remove old pictures, but none that stock rests on or that a person is to look at."""
    await require(request, Role.ADMIN)
    kit, options = kit_of(request), parse_query(request, RetentionOptions)
    keeping = kit.keeping(days=options.days, max_bytes=options.max_bytes, state=options.state)
    try:
        done = await kit.storage.remove(keeping, is_dry=options.dry_run)
    except ValueError as error:
        raise Problem(422, "invalid-input", str(error)) from error
    return JSONResponse(asdict(done) | {"dry_run": options.dry_run})


async def numbers(kit: CaptureKit) -> dict[str, object]:
    """What is stored."""
    usage = await kit.storage.usage()
    return {
        "blobs": usage.total.count,
        "blob_bytes": usage.total.size_bytes,
        "pictures": asdict(usage.pictures),
        "thumbnails": asdict(usage.thumbnails),
        "unneeded": asdict(usage.unneeded),
        "measured_at": iso(usage.measured_at),
        "database_bytes": await kit.database_bytes(),
    }
