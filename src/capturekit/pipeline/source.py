"""What a run is given, in the forms that people have it in."""

import stat
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from capturekit.errors import TooManyBytes
from capturekit.frame import Frame

Source: TypeAlias = bytes | str | Path | NDArray[Any] | Frame  # Any: checked when opened
"""The bytes of a picture, the path of its file, or its pixels."""
Taken: TypeAlias = bytes | Path | NDArray[Any] | Frame
"""A source whose path, if it is one, is no text any more."""


def taken(source: Source) -> Taken:
    """The source with texts as paths. Raises TypeError for what cannot be a picture."""
    if isinstance(source, str):
        return Path(source)
    if isinstance(source, bytes | Path | np.ndarray | Frame):
        return source
    raise TypeError(f"{type(source).__name__} is no picture: give bytes, a path or pixels")


def read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises OSError, and TooManyBytes before reading on."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # no file has a NUL or a lone surrogate in its name
        raise OSError(f"{str(path)!r} is not the name of a file: {error}") from error
    # A pipe would wait for its writer for ever; a device might never end.
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooManyBytes(max_bytes)
    return data
