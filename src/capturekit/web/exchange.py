"""Files of items, codes, locations, par levels and counts, in and out."""

from dataclasses import asdict
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.store import MAX_IMPORT_BYTES, ExchangeFormat, Role
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Name, Query, parse_query, read_body

MEDIA_TYPES: Final = {
    ExchangeFormat.CSV: "text/csv; charset=utf-8",
    ExchangeFormat.JSON: "application/json",
}


class ImportOptions(Query):
    """Query of an import: ``?dry_run=&format=&by=``; the format also follows from the type."""

    dry_run: bool = False
    format: ExchangeFormat | None = None
    by: Name | None = None


class ExportOptions(Query):
    """Query of an export: ``?format=``."""

    format: ExchangeFormat = ExchangeFormat.CSV


async def import_items(request: Request) -> Response:
    """Take all of a file or nothing; 422 with what is wrong in which row."""
    asking = await require(request, Role.OPERATOR)
    options = parse_query(request, ImportOptions)
    is_json = "json" in request.headers.get("content-type", "")
    by_type = ExchangeFormat.JSON if is_json else ExchangeFormat.CSV
    content = await read_body(request, max_bytes=MAX_IMPORT_BYTES)
    report = await kit_of(request).store.inventory.import_items(
        content, options.format or by_type, by=options.by or asking.name, dry_run=options.dry_run
    )
    return JSONResponse(asdict(report))


async def export_items(request: Request) -> Response:
    """A file that can be imported elsewhere, or again."""
    await require(request, Role.VIEWER)
    form = parse_query(request, ExportOptions).format
    content = await kit_of(request).store.inventory.export_items(form)
    named = {"Content-Disposition": f'attachment; filename="items.{form}"'}
    return Response(content, media_type=MEDIA_TYPES[form], headers=named)
