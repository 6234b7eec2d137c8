"""QR codes, for screens, files and terminals."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from capturekit.errors import MissingExtra

if TYPE_CHECKING:
    import segno

SUFFIXES: Final = (".svg", ".png")


def claim_url(code: str, server: str | None) -> str:
    """What a camera or a phone reads: the code of a claim, and where to take it if that is known.

    Never a token: pictures of it are taken and kept.
    """
    known = {"server": server} if server else {}
    return "capturekit://claim?" + urlencode(known | {"code": code})


def as_svg(text: str) -> bytes:
    """The code as a SVG document. Raises MissingExtra."""
    return _saved(text, "svg")


def as_text(text: str) -> str:
    """The code in half blocks, to print. Raises MissingExtra."""
    lines = io.StringIO()
    _made(text).terminal(out=lines, compact=True)
    return lines.getvalue()


def write(text: str, path: Path) -> None:
    """Write it as SVG or PNG, by the name's end; ValueError for another. Raises MissingExtra."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: give a name that ends in {' or '.join(SUFFIXES)}")
    path.write_bytes(_saved(text, suffix[1:]))


def _made(text: str) -> "segno.QRCode":
    try:
        import segno
    except ImportError as error:
        raise MissingExtra("a QR code", "server") from error
    return segno.make_qr(text, error="m")


def _saved(text: str, kind: str) -> bytes:
    content = io.BytesIO()
    # White around it: on a dark page it could not be read.
    _made(text).save(content, kind=kind, scale=8, light="white")
    return content.getvalue()
