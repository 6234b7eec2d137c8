import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from capturekit.picture import decode
from tests import hostile

CPU_S = 2.0
PEAK_MB = 512
REFUSED = {
    "jpeg_1006_scans": "TooComplex",
    "jpeg_50_scans_of_25_mpx": "TooComplex",
    "jpeg_arithmetic_progressive": "TooComplex",
    "jpeg_comments": "TooComplex",
    "jpeg_12_bits": "UnsupportedFormat",
    "jpeg_lossless": "UnsupportedFormat",
    "jpeg_two_frame_headers": "DamagedImage",
    "jpeg_header_of_25_mpx_without_data": "DamagedImage",
    "png_text_bombs": "TooComplex",
    "png_profile_bomb": "DamagedImage",
    "png_very_many_chunks": "TooComplex",
    "png_one_column": "TooComplex",
    "webp_canvas_larger_than_frame": "DamagedImage",
    "webp_cut": "DamagedImage",
    "gif_65535_canvas": "TooManyPixels",
    "tiff_fax_of_crazy_size": "TooComplex",
    "tiff_huge_tag_counts": "TooComplex",
    "tiff_big": "UnsupportedFormat",
    "tiff_floats": "UnsupportedFormat",
    "tiff_with_a_jpeg_of_many_scans": "DamagedImage",
    "tiff_with_a_larger_jpeg": "DamagedImage",
    "avif_25_mpx": "TooManyPixels",
    "avif_says_huge": "TooManyPixels",
}


def measured(names: list[str], folder: Path) -> list[dict[str, object]]:
    """Files are made here and measured elsewhere: making them takes memory, too."""
    for name in names:
        (folder / name).write_bytes(hostile.CASES[name]())
    done = subprocess.run(
        [sys.executable, hostile.__file__, *names],
        env=os.environ | {"HOSTILE_FILES": str(folder), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "avif", "heic"])
def test_a_hostile_picture_is_refused_or_cheap(kind: str, tmp_path: Path) -> None:
    if kind == "heic" and not find_spec("pillow_heif"):
        return  # then every HEIC is unsupported; see test_formats.py
    names = [name for name in hostile.CASES if name.startswith(kind)]

    found = measured(names, tmp_path)

    assert len(found) == 2 * len(names)
    for one in found:
        assert isinstance(one["cpu_s"], float)
        assert isinstance(one["peak_mb"], int)
        assert one["cpu_s"] < CPU_S, one
        assert one["peak_mb"] < PEAK_MB, one
        assert str(one["outcome"]).startswith(REFUSED.get(str(one["name"]), "")), one


@pytest.mark.parametrize("name", ["jpeg_restarts_without_data", "jpeg_arithmetic_of_nothing"])
def test_pixels_that_are_guessed_cost_little_as_well(name: str) -> None:
    started = time.process_time()

    picture = decode(hostile.CASES[name](), on_damage="flag")

    assert picture.info.flags == ("damaged",)
    assert time.process_time() - started < CPU_S


def test_there_are_many_hostile_pictures() -> None:
    assert len(hostile.CASES) > 70
    assert set(REFUSED) <= set(hostile.CASES)
