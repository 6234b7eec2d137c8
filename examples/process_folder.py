"""What is on the pictures of a folder: ``python process_folder.py FOLDER``."""

import sys
from pathlib import Path

from capturekit.steps import default_pipeline


def main(folder: Path) -> int:
    """Print a line a picture, and answer how many could not be read."""
    failures = 0
    files = sorted(folder.glob("*.jpg"))
    for file, result in zip(files, default_pipeline().map(files), strict=True):
        if result.error:
            failures += 1
            print(f"{file}: {result.error.type}: {result.error.message}")
            continue
        seen = ", ".join(f"{one.quantity} x {one.code}" for one in result.observations)
        print(f"{file}: {seen or 'nothing'}")
    return failures


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1])) else 0)
