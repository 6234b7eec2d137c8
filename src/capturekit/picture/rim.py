"""The rim of the picture libraries: nothing of theirs gets past it but an ImageError."""

from collections.abc import Callable
from typing import TypeVar

from capturekit.errors import DamagedImage, ImageError, TooComplex

T = TypeVar("T")


def guarded(work: Callable[[], T]) -> T:
    """Run a decoder, and let nothing out but an ImageError.

    Fed with hostile bytes Pillow raises OSError, SyntaxError, ValueError, EOFError,
    struct.error, IndexError, OverflowError, SystemError, RecursionError, MemoryError,
    DecompressionBombError and, where warnings are errors, warnings; simplejpeg ValueError,
    KeyError and MemoryError; OpenCV its own. Here they are a damaged picture, or one that
    takes too much memory.
    """
    try:
        return work()
    except ImageError:
        raise
    except Exception as error:
        cause = str(error) or type(error).__name__
        if isinstance(error, MemoryError) or "memory" in cause.lower():
            raise TooComplex("the picture takes more memory than it may") from error
        raise DamagedImage(f"the picture does not decode: {cause}") from error
