"""Writes docs/images/trace.png: what the steps read and found in one picture of the demo's.

Usage: python docs/trace.py
"""

from pathlib import Path
from random import Random

from capturekit.demo.shelves import Shelf
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps import AssignZones, JudgeQuality, MakeThumbnail, ReadCodes, Zone

IMAGE = Path(__file__).parent / "images" / "trace.png"
LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
RIGHT = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))


def main() -> None:
    """Make the picture, run it and write the sheet."""
    random = Random(3)  # noqa: S311 - a seed is wanted, not secrecy
    picture = Shelf.filled("pantry", random).picture(random)
    zones = AssignZones((Zone("left bay", LEFT), Zone("right bay", RIGHT)))
    pipeline = ProcessingPipeline((JudgeQuality(), ReadCodes(), zones, MakeThumbnail()))
    result = pipeline.run(picture, trace=True)
    IMAGE.write_bytes(result.trace_sheet())
    print(f"{IMAGE.name}: {len(result.observations)} observations")


if __name__ == "__main__":
    main()
