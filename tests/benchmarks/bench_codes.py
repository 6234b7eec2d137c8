"""Read rates, wrong reads and CPU time of the codes step beside zxing-cpp's own defaults.

Run it from the root of the repository, on made photographs (``tests/pictures_codes.py``):

    python tests/benchmarks/bench_codes.py [PICTURES]           the tables, on held out seeds
    python tests/benchmarks/bench_codes.py --choose [PICTURES]  what each fallback reads, and costs
    python tests/benchmarks/bench_codes.py --regions [PICTURES] other limits of the cheap look
    python tests/benchmarks/bench_codes.py --lost [PICTURES]    what zxing reads and we do not
    python tests/benchmarks/bench_codes.py --thin [PICTURES]    how low right and wrong reads are

PICTURES are those of each kind and size, 25 unless given. All ways read the same picture in
turn, so that a busy machine slows all of them; in another order each time, as who reads first
has nothing in the caches. Limits were chosen on the seeds from
``CHOOSING_FROM``, tables are from ``HELD_OUT_FROM``.
"""

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import zxingcpp

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame
from capturekit.steps import clearer, regions, scan
from capturekit.steps.codes import THIN, Codes, Effort, ReadCodes
from tests.pictures_codes import EVERY, RETAIL, SIZES, Pixels, Scene, empty, photo, shelf

CHOOSING_FROM = 1_000
HELD_OUT_FROM = 500_000
Read = tuple[str, float, float]
EFFORTS: tuple[Effort, ...] = ("fast", "default", "thorough")


def scenes(
    first: int, pictures: int, formats: tuple[str, ...], kinds: str = "photo shelf empty"
) -> Iterator[tuple[str, Scene]]:
    for size in SIZES:
        for seed in range(first, first + pictures):
            if "photo" in kinds:
                yield f"photo {size[0]}", photo(seed, size, formats)
            if "shelf" in kinds:
                yield f"shelf {size[0]}", shelf(seed, size, formats)
            if "empty" in kinds:
                yield f"empty {size[0]}", empty(seed, size)


def raw(gray: Pixels, formats: tuple[str, ...]) -> list[Read]:
    """zxing's defaults; all formats where none is named."""
    wanted = zxingcpp.barcode_formats_from_str(",".join(formats) or "All")
    reads = []
    for code in zxingcpp.read_barcodes(gray, wanted):
        first, third = code.position.top_left, code.position.bottom_right
        reads.append((code.text, (first.x + third.x) / 2, (first.y + third.y) / 2))
    return reads


def ours(frame: Frame, step: ReadCodes) -> list[Read]:
    found = step(frame).find(Codes)
    return [(code.text, *_middle(code.polygon)) for code in found]


def _middle(polygon: Iterable[tuple[float, float]]) -> tuple[float, float]:
    xs, ys = zip(*polygon, strict=True)
    return sum(xs) / 4, sum(ys) / 4


def score(scene: Scene, reads: list[Read]) -> tuple[list[str], int]:
    """The formats of the codes read right, each once, and how many reads are wrong."""
    open_ = list(scene.codes)
    right: list[str] = []
    for text, x, y in reads:
        same = [code for code in open_ if code.text == text]
        if same:
            nearest = min(same, key=lambda code: math.dist(code.middle, (x, y)))
            open_.remove(nearest)
            right.append(nearest.format)
    return right, len(reads) - len(right)


def way(step: ReadCodes) -> Callable[[Pixels], list[Read]]:
    return lambda gray: ours(Frame.from_pixels(gray), step)


class Table:
    """What each way read of each kind of scene, and the CPU seconds it took."""

    def __init__(self) -> None:
        self.codes: Counter[tuple[str, str]] = Counter()
        self.right: Counter[tuple[str, str, str]] = Counter()
        self.wrong: Counter[tuple[str, str]] = Counter()
        self.spent: dict[tuple[str, str], float] = {}
        self.turns = random.Random(0)

    def add(self, kind: str, scene: Scene, ways: dict[str, Callable[[Pixels], list[Read]]]) -> None:
        self.codes.update((kind, code.format) for code in scene.codes)
        order = list(ways.items())
        self.turns.shuffle(order)
        for name, way in order:
            started = time.process_time()
            reads = way(scene.gray)
            seconds = time.process_time() - started
            self.spent[kind, name] = self.spent.get((kind, name), 0) + seconds
            right, wrong = score(scene, reads)
            self.right.update((kind, name, symbology) for symbology in right)
            self.wrong[kind, name] += wrong

    def row(self, kind: str, ways: Iterable[str]) -> str:
        """Rates, wrong reads and times of one kind of scene; of several that begin alike."""
        codes = sum(n for (k, _), n in self.codes.items() if k.startswith(kind))
        cells = [f"{kind:11} {codes:5}"]
        base = sum(s for (k, w), s in self.spent.items() if k.startswith(kind) and w == "zxing")
        for way in ways:
            right = sum(n for (k, w, _), n in self.right.items() if k.startswith(kind) and w == way)
            wrong = sum(n for (k, w), n in self.wrong.items() if k.startswith(kind) and w == way)
            spent = sum(s for (k, w), s in self.spent.items() if k.startswith(kind) and w == way)
            cells.append(f"{right / max(codes, 1):7.1%} {wrong:3} wrong {spent / base:5.2f} x")
        return " ".join(cells)

    def symbology(self, name: str, ways: Iterable[str]) -> str:
        codes = sum(n for (_, s), n in self.codes.items() if s == name)
        right = [
            sum(n for (_, w, s), n in self.right.items() if (w, s) == (way, name)) for way in ways
        ]
        return f"{name:11} {codes:5} " + " ".join(f"{n / max(codes, 1):7.1%}" for n in right)


def tables(pictures: int, formats: tuple[str, ...]) -> None:
    """Rates by kind and size with costs, then rates by symbology."""
    ways: dict[str, Callable[[Pixels], list[Read]]] = {
        "zxing": lambda gray: raw(gray, formats),
        "zxing, all formats": lambda gray: raw(gray, ()),
    }
    ways.update({effort: way(ReadCodes(formats=formats, effort=effort)) for effort in EFFORTS})
    table = Table()
    for kind, scene in scenes(HELD_OUT_FROM, pictures, formats):
        table.add(kind, scene, ways)
    print(f"{'scenes':11} codes", *(f"{way:>24}" for way in ways))
    for name in ("photo", "shelf", "empty"):
        for size in SIZES:
            print(table.row(f"{name} {size[0]}", ways))
        print(table.row(name, ways))
    for symbology in formats:
        print(table.symbology(symbology, ways))


def choose(pictures: int) -> None:
    """Of what default leaves unread in photographs: right and wrong reads, and cost, of each."""
    step, wanted = ReadCodes(), scan.formats(RETAIL)
    right: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    cost = dict.fromkeys(("slanted", *clearer.CANDIDATES), 0.0)
    unread = 0
    names = ("slanted", *clearer.CANDIDATES)
    for _, scene in scenes(CHOOSING_FROM, pictures, RETAIL, "photo"):
        frame = Frame.from_pixels(scene.gray)
        if score(scene, ours(frame, step))[0]:
            continue
        unread += 1
        by = [name for name in names if _helps(scene, name, wanted, wrong, cost)]
        right.update(by)
        if len(by) == 1:
            alone.update(by)
    print(f"{unread} photographs that default leaves unread")
    for name in names:
        ms = cost[name] / unread * 1e3
        counts = f"reads {right[name]:3}, alone {alone[name]:3}, wrong {wrong[name]:2}"
        print(f"{name:12} {counts}, {ms:5.1f} ms")


def _helps(
    scene: Scene, name: str, wanted: scan.Formats, wrong: Counter[str], cost: dict[str, float]
) -> bool:
    started = time.process_time()
    looked = regions.look(scene.gray)
    texts = set()
    for view in _views(scene.gray, looked, name):
        bars = name == "slanted" and wanted.bars
        read = scan.read(view, bars or wanted.all, turns=not bars)
        texts |= {code.text for code, _ in read}
    cost[name] += time.process_time() - started
    truth = {code.text for code in scene.codes}
    wrong[name] += len(texts - truth)
    return bool(texts & truth)


def _views(gray: Pixels, looked: regions.Regions, name: str) -> Iterable[scan.View]:
    if name == "slanted":
        left = regions.opened(looked.slanted, 2)
        return clearer.slanted(gray, looked, left, 1.0)
    attempt = clearer.CANDIDATES[name]
    left = regions.opened(looked.busy, 3)
    return map(attempt.make, clearer.places(gray, looked, left, attempt.most))


LIMITS = {
    "LEAST_EDGES": (4.0, 12.0, 36.0),
    "ABOVE_NOISE": (1.5, 3.0, 6.0),
    "OF_STRONGEST": (0.005, 0.02, 0.08),
    "BARS_FROM": (0.2, 0.4, 0.6),
    "PATTERN_UP_TO": (0.5, 0.75, 0.9),
    "CLEAR_SHARE": (0.5, 0.7, 0.85),
    "CLEAR_EDGES": (12.0, 40.0, 120.0),
    "CLEAR_OF_STRONGEST": (0.01, 0.03, 0.1),
    "KNOT_SHARE": (0.1, 0.2, 0.4),
    "CALL_PX": (5_000, 15_000, 45_000),
}


def limits(pictures: int) -> None:
    """Rates and cost of default under other limits, one changed at a time."""
    made = list(scenes(CHOOSING_FROM, pictures, RETAIL, "photo shelf"))
    for name, values in LIMITS.items():
        chosen = getattr(regions, name)
        for value in values:
            setattr(regions, name, value)
            count, cost = 0, 0.0
            for _, scene in made:
                frame = Frame.from_pixels(scene.gray)
                started = time.process_time()
                reads = ours(frame, ReadCodes())
                cost += time.process_time() - started
                count += len(score(scene, reads)[0])
            mark = "  <- chosen" if value == chosen else ""
            print(f"{name:14} {value:6} {count:5} right {cost / len(made) * 1e3:5.1f} ms{mark}")
        setattr(regions, name, chosen)


def lost(pictures: int) -> None:
    """Code by code what zxing reads right and default does not, and the other way round."""
    both = gained = 0
    for kind, scene in scenes(HELD_OUT_FROM, pictures, RETAIL, "photo shelf"):
        theirs = Counter(text for text, _, _ in raw(scene.gray, RETAIL))
        own = Counter(text for text, _, _ in ours(Frame.from_pixels(scene.gray), ReadCodes()))
        truth = Counter(code.text for code in scene.codes)
        both += (theirs & own & truth).total()
        gained += ((own - theirs) & truth).total()
        for text in sorted(theirs & truth):
            if not own[text]:
                known = next(code.format for code in scene.codes if code.text == text)
                print(f"{kind}: {known} {text} is read by zxing alone")
    print(f"{both} codes are read by both, {gained} by default alone")


def thin(pictures: int) -> None:
    """Of zxing's reads of bar codes, right and wrong, the share on few lines of pixels."""
    wanted = zxingcpp.barcode_formats_from_str(",".join(RETAIL))
    low: Counter[bool] = Counter()
    total: Counter[bool] = Counter()
    for _, scene in scenes(CHOOSING_FROM, pictures, RETAIL, "photo shelf"):
        truth = {code.text for code in scene.codes}
        for code in zxingcpp.read_barcodes(scene.gray, wanted):
            if code.format.name in scan.MATRIX:
                continue
            at = code.position
            corners = [(p.x, p.y) for p in (at.top_left, at.top_right, at.bottom_left)]
            is_right = code.text in truth
            total[is_right] += 1
            low[is_right] += math.dist(corners[0], corners[2]) < THIN * math.dist(*corners[:2])
    for is_right, word in ((True, "right"), (False, "wrong")):
        share = low[is_right] / max(total[is_right], 1)
        print(f"{total[is_right]:5} {word} reads, {share:.0%} lower than {THIN} of their length")


WAYS: dict[str, Callable[[int], None]] = {
    "--choose": choose,
    "--regions": limits,
    "--lost": lost,
    "--thin": thin,
}


def main(arguments: list[str]) -> None:
    # OpenCV's helper threads spin while they wait, and whoever runs next would pay for it.
    cv2.setNumThreads(1)
    numbers = [int(argument) for argument in arguments if argument.isdigit()]
    pictures = numbers[0] if numbers else 25
    way = next((WAYS[argument] for argument in arguments if argument in WAYS), None)
    if way is not None:
        way(pictures)
        return
    tables(pictures, RETAIL)
    print("\nAll formats:")
    tables(max(1, pictures // 3), EVERY)


if __name__ == "__main__":
    main(sys.argv[1:])
