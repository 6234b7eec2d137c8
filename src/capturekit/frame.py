"""A decoded picture and what we know about it.

A ``Frame`` is the only thing pipeline steps take and return. Its pixels are decoded when it
is opened; everything derived from them is made on demand and kept, for all frames that share
them.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any, Self, TypeAlias, TypeVar

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from capturekit.errors import CaptureKitError
from capturekit.picture import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    OnDamage,
    Picture,
    PictureInfo,
    Pixels,
    decode,
)

Point: TypeAlias = tuple[float, float]
F = TypeVar("F")


class MissingFinding(CaptureKitError, LookupError):
    """A step asked the frame for what no step before it found."""

    def __init__(self, wanted: type) -> None:
        super().__init__(
            f"no {wanted.__name__} on this frame: the step that finds it must run earlier"
        )
        self.wanted = wanted


class Observation(BaseModel):
    """What one run saw: so many of an item, or of a code, at a place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    analyser: Annotated[str, Field(min_length=1)]
    """The step that saw it."""
    code: str | None = None
    item: str | None = None
    """Exactly one of code and item is given."""
    quantity: Annotated[int, Field(ge=0)] = 1
    """In the item's base unit."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    box: tuple[Point, ...] = ()
    """A polygon in pixels of the upright picture, x to the right and y down."""
    location: str | None = None
    lot: Annotated[str | None, Field(max_length=100)] = None
    """As printed on the package."""
    expires_on: date | None = None
    """The day after which it should not be used, as printed on the package."""

    @field_validator("code", "item", "location", "lot")
    @classmethod
    def _can_be_stored(cls, text: str | None) -> str | None:
        """What labels of strangers may hold and databases do not: NUL, halves of characters."""
        return text and text.replace("\0", "\ufffd").encode(errors="replace").decode()

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if (self.code is None) == (self.item is None):
            raise ValueError("an observation names either a code or an item")
        return self


@dataclass(frozen=True, slots=True)
class Outline:
    """A polygon to draw on the picture, with a word beside it."""

    polygon: tuple[Point, ...]
    """In pixels of the upright picture, x to the right and y down."""
    label: str
    kind: str
    """Chooses the colour: ``code``, ``object``, ``zone``, or a word of your own."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A picture made from a frame, encoded, without any of the original's metadata."""

    media_type: str
    width: int
    height: int
    data: bytes = field(repr=False)


class _Shared:
    """Pixels and what was made of them, for all frames of one picture.

    Two threads that ask at once may both compute the same value; either is right.
    """

    __slots__ = ("_made", "_read_colour", "_sha256", "source")

    def __init__(self, picture: Picture, source: bytes | None = None) -> None:
        name = "gray" if picture.pixels.ndim == 2 else "bgr"
        self._made: dict[str, Pixels] = {name: _read_only(picture.pixels)}
        self._read_colour = picture.read_colour
        self._sha256: str | None = None
        self.source = source

    def get(self, name: str) -> Pixels:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = _read_only(self._make(name))
        return made

    def has_colour(self) -> bool:
        return "bgr" in self._made or self._read_colour is not None

    def names(self) -> tuple[str, ...]:
        return tuple(self._made)

    def forget(self, name: str) -> None:
        self._made.pop(name, None)

    def sha256(self) -> str | None:
        if self._sha256 is None and self.source is not None:
            self._sha256 = hashlib.sha256(self.source).hexdigest()
        return self._sha256

    def _make(self, name: str) -> object:
        colour, size = _parsed(name)
        if size is None:
            return self._gray() if colour == "gray" else self._bgr()
        if size == "half":
            return _half(self.get(colour))
        if size == "quarter":
            return _half(self.get(f"{colour}_half"))
        # Half the pixels are often there already, and are where the work would start anyway.
        is_far = max(self.get(colour).shape[:2]) >= 2 * int(size)
        return shrink(self.get(f"{colour}_half" if is_far else colour), int(size))

    def _gray(self) -> object:
        if "bgr" not in self._made and self._read_colour is None:
            raise LookupError("the pixels of this frame were freed")
        return cv2.cvtColor(self.get("bgr"), cv2.COLOR_BGR2GRAY)

    def _bgr(self) -> object:
        if self._read_colour is not None:
            return self._read_colour()
        if "gray" not in self._made:
            raise LookupError("the pixels of this frame were freed")
        return cv2.cvtColor(self.get("gray"), cv2.COLOR_GRAY2BGR)


_REPRESENTATION = re.compile(r"(gray|bgr)(?:_(half|quarter|[1-9]\d{0,4}))?")


def is_representation(name: object) -> bool:
    """Whether ``Frame.picture`` knows this name."""
    return isinstance(name, str) and _REPRESENTATION.fullmatch(name) is not None


def made_from(name: str) -> tuple[str, ...]:
    """The representations that making this one may ask for, nearest first."""
    colour, size = _parsed(name)
    if size is None:
        return ()
    return (colour,) if size == "half" else (f"{colour}_half", colour)


def _parsed(name: str) -> tuple[str, str | None]:
    match = _REPRESENTATION.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is no representation: gray or bgr, alone or followed by _half, _quarter "
            "or the pixels of the longer side, such as gray_640"
        )
    return match[1], match[2]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The last accepted picture of the same device and view, and what was seen in it."""

    id: str
    """Names the picture, such as its capture's id."""
    gray: Pixels
    """Luma, (H, W) uint8; it may be scaled down."""
    observations: tuple[Observation, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height of the picture before ``gray`` was scaled down; None: it was not."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded, upright picture and what the steps so far found in it. Never changes.

    Arrays are read-only and shared: copy one before drawing on it.
    """

    info: PictureInfo
    findings: Mapping[type, object]
    """What steps found, by its type."""
    observations: tuple[Observation, ...]
    derived: Mapping[str, Derived]
    """Pictures made from this one, by name, such as ``thumbnail``."""
    _shared: _Shared = field(repr=False)
    reference: Reference | None = field(default=None, repr=False)
    """What to compare with, when the caller of the pipeline gave it."""
    _shown: list[tuple[str, Pixels]] | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        data: bytes,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_damage: OnDamage = "refuse",
        colour: bool = True,
    ) -> "Frame":
        """Decode the first frame of the picture, or raise an ImageError.

        With ``on_damage="flag"`` a JPEG whose data is cut or corrupt is decoded as far as it
        goes and carries the flag ``damaged``; other formats are refused all the same.
        ``colour=False`` decodes a JPEG straight to gray, at three quarters of the cost;
        asking for ``bgr`` then decodes again.
        """
        picture = decode(
            data, max_bytes=max_bytes, max_pixels=max_pixels, on_damage=on_damage, colour=colour
        )
        return cls.of(picture, data)

    @classmethod
    def of(cls, picture: Picture, source: bytes | None = None) -> "Frame":
        """A frame of a picture that was decoded elsewhere, from these bytes."""
        return cls(picture.info, _EMPTY, (), _EMPTY, _Shared(picture, source))

    @classmethod
    def from_pixels(cls, pixels: Pixels) -> "Frame":
        """A frame of pixels you have: uint8, (H, W) gray or (H, W, 3) BGR. They are copied."""
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
            raise ValueError(f"{pixels.dtype} {pixels.shape} is not uint8 (H, W) or (H, W, 3)")
        if pixels.ndim == 3 and pixels.shape[2] != 3:
            raise ValueError(f"{pixels.shape[2]} channels; colour pixels are BGR")
        height, width = pixels.shape[:2]
        return cls.of(Picture(PictureInfo("pixels", "", width, height), pixels.copy()))

    @property
    def width(self) -> int:
        """Pixels, upright."""
        return self.info.width

    @property
    def height(self) -> int:
        """Pixels, upright."""
        return self.info.height

    @property
    def flags(self) -> tuple[str, ...]:
        """See PictureInfo."""
        return self.info.flags

    @property
    def sha256(self) -> str | None:
        """Of the file as it was given, in hex; None for a frame made from pixels."""
        return self._shared.sha256()

    def picture(self, name: str) -> Pixels:
        """The representation of this name, made when first asked for and then shared.

        ``gray`` (H, W) luma or ``bgr`` (H, W, 3), uint8; followed by ``_half`` or ``_quarter``
        (averaged over 2 x 2 and 4 x 4 pixels), or by a number of pixels to which the longer
        side is scaled down, never up: ``gray_640``. Another name is a ValueError.
        """
        return self._shared.get(name)

    @property
    def made(self) -> tuple[str, ...]:
        """The representations that are there now."""
        return self._shared.names()

    @property
    def gray(self) -> Pixels:
        """Luma, (H, W) uint8."""
        return self._shared.get("gray")

    @property
    def bgr(self) -> Pixels:
        """Colour, (H, W, 3) uint8 in the order blue, green, red, as OpenCV has it."""
        return self._shared.get("bgr")

    @property
    def gray_half(self) -> Pixels:
        """Luma at half the width and height, averaged over 2 x 2 pixels."""
        return self._shared.get("gray_half")

    @property
    def bgr_half(self) -> Pixels:
        """Colour at half the width and height, averaged over 2 x 2 pixels."""
        return self._shared.get("bgr_half")

    def gray_within(self, long_side: int) -> Pixels:
        """Luma whose longer side was scaled down to ``long_side`` pixels; never scaled up."""
        return self._shared.get(f"gray_{long_side}")

    def bgr_within(self, long_side: int) -> Pixels:
        """Colour whose longer side was scaled down to ``long_side`` pixels; never scaled up."""
        return self._shared.get(f"bgr_{long_side}")

    def forget(self, *names: str) -> None:
        """Free representations; one that is asked for again is made again.

        Pixels that were not decoded from a file, and are not kept elsewhere, are lost.
        """
        for name in names:
            self._shared.forget(name)

    def show(self, name: str, pixels: NDArray[Any]) -> None:
        """Leave an intermediate picture for a trace; costs nothing without one.

        (H, W) or (H, W, 3) BGR of any type: what is not uint8 is spread from black to white.
        Another shape is shown as nothing.
        """
        if self._shown is not None:
            self._shown.append((name, _to_look_at(pixels)))

    def for_run(self, reference: Reference | None, *, is_traced: bool) -> "Frame":
        """The same picture, with what one run compares it with and a place for its trace."""
        return replace(self, reference=reference, _shown=[] if is_traced else None)

    def take_shown(self) -> list[tuple[str, Pixels]]:
        """What was shown since this was last asked."""
        taken = list(self._shown or ())
        if self._shown:
            self._shown.clear()
        return taken

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        name = "bgr" if self._shared.has_colour() else "gray"
        parts = (dict(self.findings), self.observations, dict(self.derived), self.reference)
        return _restored, (self.info, self.picture(name), self._shared.source, *parts)

    def having(self, finding: object) -> "Frame":
        """The same picture with one finding more; one of the same type is replaced."""
        return replace(self, findings=MappingProxyType({**self.findings, type(finding): finding}))

    def observing(self, *observations: Observation) -> "Frame":
        """The same picture with more observations."""
        return replace(self, observations=(*self.observations, *observations))

    def observing_only(self, *observations: Observation) -> "Frame":
        """The same picture with these observations in place of those it has."""
        return replace(self, observations=observations)

    def deriving(self, name: str, picture: Derived) -> "Frame":
        """The same picture with one derived picture more."""
        return replace(self, derived=MappingProxyType({**self.derived, name: picture}))

    def find(self, wanted: type[F]) -> F:
        """The finding of exactly this type; raises MissingFinding."""
        finding = self.findings.get(wanted)
        if not isinstance(finding, wanted):
            raise MissingFinding(wanted)
        return finding


@functools.cache
def keep_to_one_thread() -> None:
    """Have OpenCV work in the thread that calls it, unless its host chose a number itself.

    One picture is one thread's work, and several pictures run at once. OpenCV's helpers spin
    while they wait: on two cores they cost the default pipeline a quarter more CPU
    (``tests/benchmarks/bench_pipeline.py``) and save no time. Done once, when a pipeline first
    runs; ``cv2.setNumThreads`` still decides after that.
    """
    if cv2.getNumThreads() == cv2.getNumberOfCPUs():
        cv2.setNumThreads(1)


_EMPTY: Mapping[Any, Any] = MappingProxyType({})  # Any: it is empty, of every type


def _restored(
    info: PictureInfo,
    pixels: Pixels,
    source: bytes | None,
    findings: dict[type, object],
    observations: tuple[Observation, ...],
    derived: dict[str, Derived],
    reference: Reference | None,
) -> Frame:
    found, made = MappingProxyType(findings), MappingProxyType(derived)
    return Frame(info, found, observations, made, _Shared(Picture(info, pixels), source), reference)


def shrink(pixels: Pixels, long_side: int) -> Pixels:
    """Scale down, gray or BGR, so that the longer side has ``long_side`` pixels; never up.

    Halves by averaging while it can, then interpolates: a third of the cost of one
    ``INTER_AREA`` step from 1600 px, and as free of aliasing.
    """
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    while min(pixels.shape[:2]) >= 2 and max(pixels.shape[:2]) >= 2 * long_side:
        pixels = _half(pixels)
    # The last step is by less than two, where bilinear weights cover every source pixel.
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _half(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    size = (max(1, width // 2), max(1, height // 2))
    # The odd last row or column is left out: whole factors of two take OpenCV's fast path.
    even = pixels[: max(1, height // 2 * 2), : max(1, width // 2 * 2)]
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(pixels: Pixels, *, quality: int = 85) -> bytes:
    """Gray or BGR pixels as a baseline JPEG without metadata."""
    if pixels.ndim == 2:
        gray = np.ascontiguousarray(pixels)[:, :, np.newaxis]
        return bytes(simplejpeg.encode_jpeg(gray, quality, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "BGR", "420"))


def _to_look_at(pixels: NDArray[Any]) -> Pixels:  # Any: a trace takes what a step has
    values = np.squeeze(pixels, axis=2) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if values.ndim not in (2, 3) or 0 in values.shape or values.shape[2:] not in ((), (3,)):
        return np.zeros((1, 1), np.uint8)
    if values.dtype == np.uint8:
        return values.copy()
    levels = np.nan_to_num(values.astype(np.float64))
    low, high = levels.min(), levels.max()
    return np.asarray((levels - low) * (255 / (high - low or 1)), np.uint8)


def _read_only(pixels: object) -> Pixels:
    array = np.ascontiguousarray(pixels, np.uint8)
    array.flags.writeable = False
    return array
