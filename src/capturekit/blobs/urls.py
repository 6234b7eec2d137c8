"""Which store of blobs a URL names."""

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from capturekit.blobs.base import Blobs
from capturekit.blobs.files import FileBlobs
from capturekit.errors import ConfigError, MissingExtra

FORMS: Final = "file:///FOLDER or s3://BUCKET/PREFIX?endpoint=URL&region=NAME"


def open_blobs(url: str) -> Blobs:
    """The store that a URL names; nothing is asked of a server yet.

    ``file:///FOLDER`` or ``s3://BUCKET/PREFIX``, with ``endpoint`` and ``region`` in the query.
    Credentials are those of the ``AWS_*`` variables, or ``access_key_id`` and
    ``secret_access_key`` in the query. Raises ConfigError for another URL, without repeating
    what may hold a secret, and MissingExtra.
    """
    if (folder := folder_of(url)) is not None:
        return FileBlobs(folder)
    if urlsplit(url).scheme == "s3":
        try:
            from capturekit.blobs.s3 import S3Blobs
        except ImportError as error:
            raise MissingExtra("blobs in S3", "s3") from error
        return S3Blobs(url)
    raise ConfigError(f"blobs are kept in {FORMS}, and not in what was given")


def folder_of(url: str) -> Path | None:
    """The folder that the URL names; None when it is none of this machine's files."""
    parts = urlsplit(url)
    is_here = parts.scheme == "file" and parts.netloc in ("", "localhost")
    path = unquote(parts.path)
    return Path(path) if is_here and path.startswith("/") and path.strip("/") else None
