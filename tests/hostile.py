"""Pictures built to cost far more than they look, and a ruler for what they do cost.

``python tests/hostile.py [NAME ...]`` prints CPU seconds and peak memory of each, decoded in
this process (``here``) and in a child (``child``), as JSON lines.
"""

import functools
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

with suppress(ImportError):
    import pillow_heif

from capturekit.errors import ImageError
from capturekit.picture import Picture, decode
from capturekit.picture.child import DecodingChildren

SIDE = 5_000
"""25 Mpx, the largest that is taken."""
CASES: dict[str, Callable[[], bytes]] = {}


def case(make: Callable[[], bytes]) -> Callable[[], bytes]:
    CASES[make.__name__] = functools.cache(make)
    return CASES[make.__name__]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@functools.cache
def plain(mode: str = "RGB", width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.new(mode, (width, height))


@functools.cache
def noisy(mode: str = "RGB", width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Random pixels, repeated from tiles: dear to decode, quick to make."""
    random = np.random.default_rng(1)
    bands = len(Image.new(mode, (1, 1)).getbands())
    tile = random.integers(0, 256, (500, 500, bands), dtype=np.uint8).squeeze()
    return Image.frombytes(
        mode, (width, height), np.resize(np.tile(tile, (1, 10, *[1] * (bands > 1)))[:, :width],
                                         (height, width, bands)).tobytes()
    )  # fmt: skip


# JPEG


def jpeg_of(image: Image.Image, **options: object) -> bytes:
    return saved(image, "JPEG", **options)


def spliced(jpeg: bytes, segment: bytes) -> bytes:
    return jpeg[:2] + segment + jpeg[2:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def more_scans(whole: bytes, count: int) -> bytes:
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


@case
def jpeg_1006_scans() -> bytes:
    return more_scans(jpeg_of(plain("RGB", 160, 120), progressive=True), 1000)


@case
def jpeg_50_scans_of_25_mpx() -> bytes:
    return more_scans(jpeg_of(plain(), progressive=True), 40)


@case
def jpeg_50_noisy_scans_of_6_mpx() -> bytes:
    return more_scans(jpeg_of(noisy("RGB", 3000, 2000), progressive=True, quality=30), 30)


@case
def jpeg_comments() -> bytes:
    return spliced(jpeg_of(plain("RGB", 16, 16)), segment(0xFE, b"") * 4_000_000)


@case
def jpeg_long_comments() -> bytes:
    return spliced(jpeg_of(plain("RGB", 16, 16)), segment(0xFE, bytes(65_000)) * 300)


@case
def jpeg_many_tables() -> bytes:
    small = jpeg_of(plain("RGB", 16, 16))
    at = small.index(b"\xff\xc4")
    (length,) = struct.unpack_from(">H", small, at + 2)
    return spliced(small, segment(0xC4, small[at + 4 : at + 2 + length] * 1500) * 400)


@case
def jpeg_many_quantisations() -> bytes:
    return spliced(jpeg_of(plain("RGB", 16, 16)), segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 300)


@case
def jpeg_25_mpx() -> bytes:
    return jpeg_of(noisy(), quality=60)


@case
def jpeg_25_mpx_progressive() -> bytes:
    return jpeg_of(noisy(), quality=40, progressive=True, subsampling=0)


@case
def jpeg_25_mpx_cmyk() -> bytes:
    return jpeg_of(noisy("CMYK"), quality=40)


@case
def jpeg_25_mpx_cmyk_progressive() -> bytes:
    return jpeg_of(noisy("CMYK"), quality=20, progressive=True)


@case
def jpeg_arithmetic_of_nothing() -> bytes:
    return arithmetic(0xC9)


@case
def jpeg_arithmetic_progressive() -> bytes:
    return arithmetic(0xCA, scans=60)


def arithmetic(marker: int, scans: int = 1) -> bytes:
    """Arithmetic coding needs no bits at all to go on for ever."""
    whole = jpeg_of(plain(), progressive=marker == 0xCA)
    start = whole.index(b"\xff\xc2" if marker == 0xCA else b"\xff\xc0")
    head = whole[: whole.index(b"\xff\xda")]
    head = head[: start + 1] + bytes([marker]) + head[start + 2 :]
    spectrum = b"\0\0\0" if marker == 0xCA else b"\0\x3f\0"
    scan = segment(0xDA, b"\3\1\0\2\x11\3\x11" + spectrum) + bytes(64)
    return head + scan * scans + b"\xff\xd9"


@case
def jpeg_12_bits() -> bytes:
    return changed(jpeg_of(plain("RGB", 16, 16)), b"\xff\xc0", 4, b"\x0c")


@case
def jpeg_lossless() -> bytes:
    return jpeg_of(plain("RGB", 16, 16)).replace(b"\xff\xc0", b"\xff\xc3")


@case
def jpeg_two_frame_headers() -> bytes:
    small = jpeg_of(plain("RGB", 16, 16))
    at = small.index(b"\xff\xc0")
    return small[:at] + changed(small[at : at + 19], b"\xff\xc0", 5, b"\x40\0\x40\0") + small[at:]


@case
def jpeg_65500_wide() -> bytes:
    return jpeg_of(plain("RGB", 65_500, 380))


@case
def jpeg_65500_high() -> bytes:
    return jpeg_of(plain("RGB", 380, 65_500))


@case
def jpeg_restart_at_every_block() -> bytes:
    return jpeg_of(plain(), restart_marker_blocks=1)


@case
def jpeg_restarts_without_data() -> bytes:
    whole = jpeg_of(plain(), restart_marker_blocks=1)
    return whole[: whole.index(b"\xff\xda") + 14] + b"\xff\xd0" * 5_000_000 + b"\xff\xd9"


@case
def jpeg_header_of_25_mpx_without_data() -> bytes:
    whole = jpeg_of(plain())
    return whole[: whole.index(b"\xff\xda") + 20] + b"\xff\xd9"


@case
def jpeg_and_zip() -> bytes:
    return jpeg_of(plain("RGB", 16, 16)) + b"PK\3\4" + bytes(10_000)


def changed(data: bytes, after: bytes, offset: int, new: bytes) -> bytes:
    at = data.index(after) + offset
    return data[:at] + new + data[at + len(new) :]


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *, laced: int = 0,
        extra: bytes = b"") -> bytes:  # fmt: skip
    """A PNG of these compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, laced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))  # fmt: skip


@functools.cache
def deflated(count: int) -> bytes:
    """So many zeros, compressed 1,000 : 1."""
    press = zlib.compressobj(9)
    parts = [press.compress(bytes(2**20)) for _ in range(count // 2**20)]
    return b"".join(parts) + press.compress(bytes(count % 2**20)) + press.flush()


SMALL_ROWS = zlib.compress(bytes(8 * 25))


@case
def png_more_data_than_pixels() -> bytes:
    return png(8, 8, 8, 2, deflated(2**28))


@case
def png_text_bombs() -> bytes:
    bomb = chunk(b"zTXt", b"a\0\0" + deflated(2**20 - 1))
    return png(8, 8, 8, 2, SMALL_ROWS, extra=bomb * 1000)


@case
def png_profile_bomb() -> bytes:
    return png(8, 8, 8, 2, SMALL_ROWS, extra=chunk(b"iCCP", b"a\0\0" + deflated(2**28)))


@case
def png_international_text_bombs() -> bytes:
    bomb = chunk(b"iTXt", b"a\0\1\0\0\0" + deflated(2**20 - 1))
    return png(8, 8, 8, 2, SMALL_ROWS, extra=bomb * 1000)


@case
def png_25_mpx_16_bit_rgba_interlaced() -> bytes:
    return png(SIDE, SIDE, 16, 6, deflated(SIDE * SIDE * 8 + 2 * SIDE + 200_000), laced=1)


@case
def png_25_mpx_16_bit_gray() -> bytes:
    return png(SIDE, SIDE, 16, 0, deflated(SIDE * (SIDE * 2 + 1)))


@case
def png_25_mpx_gray_with_alpha() -> bytes:
    return png(SIDE, SIDE, 16, 4, deflated(SIDE * (SIDE * 4 + 1)))


@case
def png_25_mpx_rgba() -> bytes:
    return saved(noisy("RGBA"), "PNG", compress_level=1)


@case
def png_25_mpx_one_bit() -> bytes:
    return png(SIDE, SIDE, 1, 0, deflated(SIDE * (SIDE // 8 + 1)))


@case
def png_25_mpx_palette_with_alpha() -> bytes:
    extra = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256))
    return png(SIDE, SIDE, 8, 3, deflated(SIDE * (SIDE + 1)), extra=extra)


@case
def png_10000_frames() -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0)
    extra = chunk(b"acTL", struct.pack(">II", 10_000, 0)) + chunk(b"fcTL", control) * 9_000
    return png(8, 8, 8, 2, SMALL_ROWS, extra=extra)


@case
def png_unknown_chunks() -> bytes:
    return png(8, 8, 8, 2, SMALL_ROWS, extra=chunk(b"aaAa", b"") * 19_000)


@case
def png_very_many_chunks() -> bytes:
    return png(8, 8, 8, 2, SMALL_ROWS, extra=chunk(b"aaAa", b"") * 1_000_000)


@case
def png_one_column() -> bytes:
    return png(1, 25_000_000, 8, 0, deflated(50_000_000))


# WebP


@case
def webp_25_mpx() -> bytes:
    return saved(noisy("RGB"), "WEBP", quality=10, method=0)


@case
def webp_25_mpx_lossless() -> bytes:
    return saved(noisy("RGBA", 5000, 5000), "WEBP", lossless=True, quality=0, method=0, exact=True)


@case
def webp_25_mpx_lossless_plain() -> bytes:
    return saved(plain("RGBA"), "WEBP", lossless=True, quality=0, method=0, exact=True)


@case
def webp_animation() -> bytes:
    frames = [Image.new("RGB", (1000, 1000), (i, i, i)) for i in range(60)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], method=0)


@case
def webp_canvas_larger_than_frame() -> bytes:
    whole = saved(plain("RGBA", 16, 16), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    return changed(whole, b"VP8X", 12, (SIDE - 1).to_bytes(3, "little") * 2)


@case
def webp_cut() -> bytes:
    return saved(noisy("RGB", 500, 500), "WEBP")[:20_000]


# GIF


@case
def gif_25_mpx() -> bytes:
    return saved(noisy("L"), "GIF")


@case
def gif_25_mpx_canvas_of_a_small_frame() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    return small[:6] + struct.pack("<HH", SIDE, SIDE) + small[10:]


@case
def gif_65535_canvas() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    return small[:6] + b"\xff\xff\xff\xff" + small[10:]


@case
def gif_frame_larger_than_its_canvas() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    at = small.index(b"\x2c\0\0\0\0")
    return small[: at + 5] + b"\xff\xff\xff\xff" + small[at + 9 :]


@case
def gif_many_frames() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    at = small.index(b"\x2c\0\0\0\0")
    return small[:-1] + small[at:-1] * 100_000 + b"\x3b"


@case
def gif_comments() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    at = small.index(b"\x2c\0\0\0\0")
    return small[:at] + b"\x21\xfe" + b"\xffx".ljust(256, b"x") * 70_000 + b"\0" + small[at:]


@case
def gif_short_comments() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    at = small.index(b"\x2c\0\0\0\0")
    return small[:at] + b"\x21\xfe\1a\0" * 120_000 + small[at:]


@case
def gif_transparent_25_mpx() -> bytes:
    return saved(plain("P"), "GIF", transparency=0)


@case
def gif_of_clear_codes() -> bytes:
    small = saved(plain("L", 16, 16), "GIF")
    at = small.index(b"\x2c\0\0\0\0")
    start = at + 10 + (3 << (small[at + 9] & 7) + 1 if small[at + 9] & 0x80 else 0)
    # Code 256, clear, of nine bits each, without end.
    clear = int("100000000" * 8 * 28, 2).to_bytes(252)
    return small[:start] + b"\x08" + (b"\xfc" + clear) * 60_000 + b"\0\x3b"


# TIFF


def tiff(width: int, height: int, strips: bytes, **tags: int) -> bytes:
    """One strip of one folder, little-endian; tags by name."""
    known = {
        "bits": (258, 8), "compression": (259, 1), "photometric": (262, 1), "samples": (277, 1),
        "sample_format": (339, 1), "fax_options": (292, 0), "predictor": (317, 1),
    }  # fmt: skip
    values = {number: tags.get(name, default) for name, (number, default) in known.items()}
    values |= {256: width, 257: height, 273: 8, 278: height, 279: len(strips)}
    folder = struct.pack("<H", len(values))
    for number, value in sorted(values.items()):
        folder += struct.pack("<HHII", number, 4, 1, value)
    return b"II*\0" + struct.pack("<I", 8 + len(strips)) + strips + folder + bytes(4)


@case
def tiff_deflate_bomb() -> bytes:
    return tiff(8, 8, deflated(2**28), compression=8)


@case
def tiff_25_mpx_deflate() -> bytes:
    return tiff(SIDE, SIDE, deflated(SIDE * SIDE), compression=8)


@case
def tiff_25_mpx_cmyk() -> bytes:
    return saved(noisy("CMYK"), "TIFF")


@case
def tiff_25_mpx_rgba_lzw() -> bytes:
    return saved(noisy("RGBA", 5000, 5000), "TIFF", compression="tiff_lzw")


@case
def tiff_25_mpx_fax() -> bytes:
    return saved(Image.new("1", (SIDE, SIDE)), "TIFF", compression="group4")


@case
def tiff_fax_of_noise() -> bytes:
    noise = np.random.default_rng(1).bytes(2_000_000)
    return tiff(SIDE, SIDE, noise, bits=1, compression=3)


@case
def tiff_fax_of_crazy_size() -> bytes:
    return tiff(1, 25_000_000, b"\0\1" * 1000, bits=1, compression=3, fax_options=1)


@case
def tiff_jpeg() -> bytes:
    return saved(noisy(), "TIFF", compression="jpeg", quality=40)


@case
def tiff_with_a_jpeg_of_many_scans() -> bytes:
    inner = more_scans(jpeg_of(plain("L", 2000, 2000), progressive=True), 2000)
    return tiff(2000, 2000, inner, compression=7)


@case
def tiff_with_a_larger_jpeg() -> bytes:
    return tiff(16, 16, jpeg_of(plain("L", 20_000, 20_000)), compression=7)


@case
def tiff_floats() -> bytes:
    return tiff(2000, 2000, bytes(16_000_000), bits=32, sample_format=3)


@case
def tiff_32_bit_integers() -> bytes:
    return saved(plain("I"), "TIFF", compression="tiff_adobe_deflate")


@case
def tiff_16_bit_25_mpx() -> bytes:
    return saved(plain("I;16"), "TIFF", compression="tiff_adobe_deflate")


@case
def tiff_folder_that_names_itself() -> bytes:
    whole = tiff(8, 8, bytes(64))
    return whole[:-4] + struct.pack("<I", 8 + 64)


@case
def tiff_huge_tag_counts() -> bytes:
    whole = tiff(8, 8, bytes(64))
    return whole.replace(struct.pack("<HHII", 258, 4, 1, 8), struct.pack("<HHII", 258, 4, 2**31, 8))


@case
def tiff_many_strips() -> bytes:
    return saved(plain("L", 1, 30_000), "TIFF", compression="tiff_lzw", strip_size=1)


@case
def tiff_16_bit_cmyk_of_25_mpx() -> bytes:
    rows = deflated(SIDE * SIDE * 8)
    return tiff(SIDE, SIDE, rows, bits=16, samples=4, photometric=5, compression=8)


@case
def tiff_tiles_without_data() -> bytes:
    whole = saved(plain("L", 2048, 2048), "TIFF", compression="tiff_lzw", tile=(16, 16))
    return whole[:400] + bytes(len(whole) - 400)


@case
def tiff_zstd_bomb() -> bytes:
    return saved(plain(), "TIFF", compression="zstd")


@case
def tiff_big() -> bytes:
    return b"II\x2b\0\x08\0\0\0" + bytes(100)


# AVIF


@case
def avif_8_mpx() -> bytes:
    return saved(noisy("RGB", 4000, 2000), "AVIF", speed=10, quality=10)


@case
def avif_25_mpx() -> bytes:
    return saved(plain("RGBA"), "AVIF", speed=10, quality=10)


@case
def avif_says_small() -> bytes:
    whole = saved(plain("RGB", 6000, 5000), "AVIF", speed=10)
    return changed(whole, b"ispe", 8, struct.pack(">II", 16, 16))


@case
def avif_says_huge() -> bytes:
    return changed(saved(plain("RGB", 16, 16), "AVIF"), b"ispe", 8, struct.pack(">II", 2**30, 9))


@case
def avif_many_boxes() -> bytes:
    whole = saved(plain("RGB", 16, 16), "AVIF")
    return whole + b"\0\0\0\x08free" * 500_000


@case
def avif_animation() -> bytes:
    frames = [Image.new("RGB", (640, 480), (i, i, i)) for i in range(40)]
    return saved(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)


@case
def avif_and_jpeg() -> bytes:
    return saved(plain("RGB", 16, 16), "AVIF") + jpeg_of(plain("RGB", 16, 16))


@case
def gif_and_script() -> bytes:
    return saved(plain("L", 16, 16), "GIF") + b"/*<script>alert(1)</script>*/" * 1000


# HEIC, where its library is installed


def heic(image: Image.Image) -> bytes:
    file = BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=10)
    return file.getvalue()


@case
def heic_12_mpx() -> bytes:
    return heic(plain("RGB", 4000, 3000))


@case
def heic_16_mpx_with_alpha() -> bytes:
    return heic(plain("RGBA", 4000, 4000))


@case
def heic_says_small() -> bytes:
    return changed(heic(plain("RGB", 4000, 3000)), b"ispe", 8, struct.pack(">II", 16, 16))


@case
def heic_says_huge() -> bytes:
    return changed(heic(plain("RGB", 64, 64)), b"ispe", 8, struct.pack(">II", 2**30, 9))


# The ruler


def outcome(work: Callable[[], Picture]) -> str:
    try:
        return " ".join(("decoded", *work().info.flags))
    except ImageError as error:
        return f"{type(error).__name__}: {error}"


def peak_bytes(pid: int | str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def cpu_s(pid: int | str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(work: Callable[[], Picture], pid: int | str) -> dict[str, object]:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
    before, own = cpu_s(pid), time.process_time()
    said = outcome(work)
    spent, peak = time.process_time() - own, 0
    with suppress(OSError, IndexError):  # it died
        peak, spent = peak_bytes(pid), cpu_s(pid) - before if pid != "self" else spent
    return {"outcome": said, "cpu_s": round(spent, 3), "peak_mb": round(peak / 1e6)}


def child_pid(children: DecodingChildren) -> int:
    children.verify(CASES["jpeg_and_zip"]())
    listing = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return int(listing.split()[-1])


def main(names: list[str]) -> None:
    with DecodingChildren(1) as children:
        for name in names or CASES:
            folder = os.environ.get("HOSTILE_FILES")
            data = Path(folder, name).read_bytes() if folder else CASES[name]()
            for where in ("here", "child"):
                work = decode if where == "here" else children.decode
                pid = "self" if where == "here" else child_pid(children)
                found = measured(lambda: work(data), pid)  # noqa: B023 - called at once
                print(json.dumps({"name": name, "bytes": len(data), "where": where} | found),
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        for name, make in CASES.items():
            Path(sys.argv[2], name).write_bytes(make())
    else:
        main(sys.argv[1:])
