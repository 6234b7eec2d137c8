"""``capturekit openapi``: the description of the HTTP API."""

import json

import click


@click.command()
def openapi() -> None:
    """Print the description of the HTTP API, OpenAPI 3.1 as JSON.

    A running server has the same at /openapi.json, and at /docs as a page to read.
    """
    from capturekit.web.openapi import document
    from capturekit.web.routes import ROUTES

    click.echo(json.dumps(document(ROUTES), indent=2, ensure_ascii=False))
