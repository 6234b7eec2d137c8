"""Feed changed pictures to every parser, and see that only an ImageError comes out.

``python tests/fuzz/fuzz_pictures.py [--seconds 60] [--seed N] [PARSER ...]`` mutates made files
and asserts: an ImageError, or pixels of the size that the header told; under 2 s of CPU an input;
nothing on standard error, where the library can be quiet. Prints what was run for each parser;
on a finding it saves the input under ``fuzz-findings/`` and exits with 1.
"""

import argparse
import faulthandler
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from capturekit.errors import ImageError
from capturekit.picture import decode, inspect, verify
from capturekit.picture.exif import exif_orientation
from tests.pictures import encoded, small, turned

MAX_CPU_S = 2.0
MAX_PIXELS = 4_000_000
"""Larger ones only take longer; what they cost is the matter of tests/hostile.py."""
FINDINGS = Path("fuzz-findings")
INTERESTING = (0, 1, 2, 3, 4, 8, 16, 0x7F, 0x80, 0xFE, 0xFF)
LOUD = {"tiff"}
"""Parsers of libraries that print what they think of a file; in a child nobody hears it."""

Seeds = Callable[[], list[bytes]]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def image(mode: str = "RGB", seed: int = 0) -> Image.Image:
    return Image.fromarray(small(seed, 48, 40)[:, :, ::-1]).convert(mode)


def frames(format: str, **options: object) -> bytes:
    more = [image(seed=seed) for seed in (1, 2)]
    return saved(image(), format, save_all=True, append_images=more, **options)


def jpegs() -> list[bytes]:
    pixels = small(0, 48, 40)
    return [
        encoded(pixels, "JPEG"),
        encoded(pixels, "JPEG", progressive=True),
        encoded(pixels, "JPEG", "L"),
        encoded(pixels, "JPEG", "CMYK"),
        encoded(pixels, "JPEG", restart_marker_blocks=2),
        turned(pixels, 6),
    ]


def pngs() -> list[bytes]:
    modes = ("RGB", "RGBA", "L", "LA", "P", "1")
    deep = saved(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)), "PNG")
    return [*(saved(image(mode), "PNG") for mode in modes), deep, frames("PNG"),
            turned(small(0, 48, 40), 5, "PNG")]  # fmt: skip


def webps() -> list[bytes]:
    return [
        saved(image(), "WEBP"),
        saved(image(), "WEBP", lossless=True),
        saved(image("RGBA"), "WEBP", exact=True, alpha_quality=50),
        frames("WEBP"),
        frames("WEBP", lossless=True),
        turned(small(0, 48, 40), 7, "WEBP"),
    ]


def gifs() -> list[bytes]:
    return [saved(image("P"), "GIF"), saved(image("L"), "GIF", interlace=1), frames("GIF"),
            saved(image("P"), "GIF", transparency=3, comment=b"a comment")]  # fmt: skip


def tiffs() -> list[bytes]:
    packed = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", None)
    fax = ("group3", "group4", "tiff_ccitt")
    return [*(saved(image(), "TIFF", compression=name) for name in packed),
            *(saved(image("1"), "TIFF", compression=name) for name in fax),
            saved(image("CMYK"), "TIFF"), saved(image("I;16"), "TIFF"),
            frames("TIFF"), turned(small(0, 48, 40), 8, "TIFF")]  # fmt: skip


def avifs() -> list[bytes]:
    return [saved(image(), "AVIF"), saved(image("RGBA"), "AVIF"), frames("AVIF"),
            turned(small(0, 48, 40), 6, "AVIF")]  # fmt: skip


def heics() -> list[bytes]:
    import pillow_heif

    files = []
    for mode in ("RGB", "RGBA", "L"):
        file = BytesIO()
        pillow_heif.from_pillow(image(mode)).save(file)
        files.append(file.getvalue())
    return files


def exifs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    return [block, b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"]


def anything() -> list[bytes]:
    return [b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x18ftypavif", b"II*\0"]


PARSERS: dict[str, Seeds] = {
    "jpeg": jpegs, "png": pngs, "webp": webps, "gif": gifs, "tiff": tiffs, "avif": avifs,
    "heic": heics, "exif": exifs, "sniff": anything,
}  # fmt: skip


# Changing files


@dataclass
class Mutator:
    """Makes new files of old ones; the same seed makes the same files."""

    seeds: list[bytes]
    random: random.Random
    kind: str
    changes: list[Callable[[bytearray], None]] = field(init=False)

    def __post_init__(self) -> None:
        self.changes = [
            self.flip, self.flip, self.set_byte, self.set_byte, self.set_number, self.cut,
            self.drop, self.double, self.zero, self.splice, self.noise,
        ]  # fmt: skip

    def next(self) -> bytes:
        data = bytearray(self.random.choice(self.seeds))
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            self.random.choice(self.changes)(data)
        if self.kind == "png" and self.random.random() < 0.9:
            return with_checksums(bytes(data))
        return bytes(data)

    def at(self, data: bytearray) -> int:
        # The head steers a decoder most.
        end = max(1, len(data))
        return self.random.randrange(min(end, 200) if self.random.random() < 0.5 else end)

    def span(self, data: bytearray) -> slice:
        start = self.at(data)
        return slice(start, start + self.random.choice((1, 2, 4, 16, 64, 512)))

    def flip(self, data: bytearray) -> None:
        if data:
            data[self.at(data)] ^= 1 << self.random.randrange(8)

    def set_byte(self, data: bytearray) -> None:
        if data:
            data[self.at(data)] = self.random.choice(INTERESTING)

    def set_number(self, data: bytearray) -> None:
        size, order = self.random.choice((2, 3, 4)), self.random.choice(("little", "big"))
        limit = 256**size
        value = self.random.choice((0, 1, limit - 1, limit // 2, self.random.randrange(limit)))
        at = self.at(data)
        data[at : at + size] = value.to_bytes(size, "big" if order == "big" else "little")

    def cut(self, data: bytearray) -> None:
        del data[self.at(data) :]

    def drop(self, data: bytearray) -> None:
        del data[self.span(data)]

    def double(self, data: bytearray) -> None:
        span = self.span(data)
        data[span.start : span.start] = data[span] * self.random.choice((1, 1, 2, 50))

    def zero(self, data: bytearray) -> None:
        span = self.span(data)
        data[span] = bytes(len(data[span]))

    def splice(self, data: bytearray) -> None:
        other = self.random.choice(self.seeds)
        data[self.at(data) :] = other[self.random.randrange(len(other)) :]

    def noise(self, data: bytearray) -> None:
        span = self.span(data)
        data[span] = self.random.randbytes(len(data[span]))


def with_checksums(data: bytes) -> bytes:
    """The PNG with checksums that are right, so that what lies behind them is reached."""
    made, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4])
        if end + 4 > len(data):
            break
        made += data[position:end] + zlib.crc32(data[position + 4 : end]).to_bytes(4)
        position = end + 4
    return bytes(made + data[position:])


# Judging them


def judge(data: bytes, kind: str, *, flag: bool) -> str:
    """What came of it; AssertionError or anything but an ImageError is a finding."""
    if kind == "exif":
        assert 1 <= exif_orientation(data) <= 8
        return "read"
    told = None
    for read in (inspect, verify):
        try:
            told = read(data, max_pixels=MAX_PIXELS)
        except ImageError as error:
            if type(error) is ImageError:
                raise AssertionError("a refusal without a reason") from error
    try:
        picture = decode(data, max_pixels=MAX_PIXELS, on_damage="flag" if flag else "refuse",
                         colour=not flag)  # fmt: skip
    except ImageError as error:
        return type(error).__name__
    info, shape = picture.info, picture.pixels.shape
    assert shape[:2] == (info.height, info.width)
    assert picture.pixels.dtype == np.uint8
    assert told is None or (told.width, told.height) == (info.width, info.height)
    return " ".join(("decoded", *info.flags))


@contextmanager
def heard() -> Iterator[Callable[[], bytes]]:
    """What is written to file descriptor 2 meanwhile."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: file.seek(0) * b"" + file.read()
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def tried(data: bytes, kind: str, *, flag: bool) -> tuple[str, str]:
    """The outcome, and what is wrong with it."""
    started = time.process_time()
    try:
        said = judge(data, kind, flag=flag)
    except Exception:  # noqa: BLE001 - any of them is what is looked for
        return "finding", traceback.format_exc()
    if (spent := time.process_time() - started) > 3 * MAX_CPU_S:  # three reads
        return "finding", f"{spent:.2f} s of CPU"
    return said, ""


def fuzz(kind: str, seconds: float, seed: int) -> int:
    """Findings of one parser."""
    mutator = Mutator(PARSERS[kind](), random.Random(f"{seed}/{kind}"), kind)
    outcomes: Counter[str] = Counter()
    slowest, deadline = 0.0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        data, flag = mutator.next(), mutator.random.random() < 0.3
        FINDINGS.mkdir(exist_ok=True)
        started = time.process_time()
        with heard() as words:
            outcome, wrong = tried(data, kind, flag=flag)
            said = words()
        slowest = max(slowest, time.process_time() - started)
        if said and kind not in LOUD:
            wrong = wrong or f"printed: {said[:200]!r}"
        outcomes["finding" if wrong else outcome] += 1
        if wrong:
            file = FINDINGS / f"{kind}-{zlib.crc32(data):08x}"
            file.write_bytes(data)
            print(f"{file}:\n{wrong}")
            if outcomes["finding"] >= 5:
                break
    table = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
    print(f"{kind}: {outcomes.total():,} inputs, {outcomes['finding']} findings, slowest "
          f"{slowest:.3f} s; {table}", flush=True)  # fmt: skip
    return outcomes["finding"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each parser")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("parsers", nargs="*", choices=[[], *PARSERS], default=[])
    asked = parser.parse_args()
    # Pillow warns about odd metadata; whoever makes warnings errors gets a DamagedImage.
    warnings.simplefilter("ignore")
    faulthandler.enable(os.fdopen(os.dup(2), "w"))
    print(f"seed {asked.seed}")
    found = sum(fuzz(kind, asked.seconds, asked.seed) for kind in asked.parsers or PARSERS)
    with_nothing = FINDINGS.exists() and not any(FINDINGS.iterdir())
    if with_nothing:
        FINDINGS.rmdir()
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
