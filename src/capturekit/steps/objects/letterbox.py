"""A picture into a model's input without bending it, and boxes back out, exactly."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Frame
from capturekit.picture import Pixels

PADDING = 114
"""Grey level around the picture, which the YOLO family was trained with."""

Boxes = NDArray[np.float64]
"""(n, 4): left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in an input, all in pixels."""

    input_size: tuple[int, int]
    """Width and height, as the two below."""
    picture_size: tuple[int, int]
    placed_size: tuple[int, int]
    left: int
    top: int

    @classmethod
    def fit(
        cls, picture_size: tuple[int, int], input_size: tuple[int, int], *, is_centred: bool
    ) -> "Letterbox":
        """As large as fits, in the middle or at the top left."""
        scale = min(wanted / given for wanted, given in zip(input_size, picture_size, strict=True))
        width, height = (
            min(wanted, max(1, round(given * scale)))
            for wanted, given in zip(input_size, picture_size, strict=True)
        )
        left = (input_size[0] - width) // 2 if is_centred else 0
        top = (input_size[1] - height) // 2 if is_centred else 0
        return cls(input_size, picture_size, (width, height), left, top)

    def pixels(self, frame: Frame) -> Pixels:
        """BGR pixels of the input's size with the picture in its place and grey around it."""
        width, height = self.placed_size
        # Scaled down by the frame, so that other steps and models share the work.
        small = frame.bgr_within(max(width, height))
        if small.shape[:2] != (height, width):
            small = np.asarray(cv2.resize(small, (width, height)), np.uint8)
        if self.placed_size == self.input_size:
            return small
        canvas = np.full((self.input_size[1], self.input_size[0], 3), PADDING, np.uint8)
        canvas[self.top : self.top + height, self.left : self.left + width] = small
        return canvas

    def to_picture(self, boxes: Boxes) -> Boxes:
        """Boxes in pixels of the input as boxes in pixels of the picture, clipped to it."""
        size = np.array(self.picture_size, np.float64)
        # Width and height were rounded apart, so each has its own scale.
        scale = size / np.array(self.placed_size, np.float64)
        corners = (boxes.reshape(-1, 2, 2) - (self.left, self.top)) * scale
        return np.clip(corners, 0, size).reshape(-1, 4)
