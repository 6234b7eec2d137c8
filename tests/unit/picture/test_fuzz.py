"""The fuzzer finds faults that are planted, and none otherwise."""

import os
import random
from collections.abc import Callable

import pytest

from capturekit.picture import formats, jpeg
from tests.fuzz.fuzz_pictures import PARSERS, Mutator, heard, tried
from tests.pictures import Pixels


def findings(kind: str, count: int = 600) -> int:
    mutator = Mutator(PARSERS[kind](), random.Random(7), kind)
    return sum(bool(tried(mutator.next(), kind, flag=n % 3 == 0)[1]) for n in range(count))


def unguarded(work: Callable[[], object]) -> object:
    return work()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "avif", "exif", "sniff"])
def test_changed_files_are_pictures_or_image_errors(kind: str) -> None:
    assert findings(kind) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "module"), [("jpeg", jpeg), ("png", formats), ("tiff", formats)])
def test_a_missing_guard_is_found(
    kind: str, module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "guarded", unguarded)

    assert findings(kind) > 0


@pytest.mark.filterwarnings("ignore")
def test_a_size_that_is_not_compared_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row_less(pixels: Pixels, _: int) -> Pixels:
        return pixels[1:]

    monkeypatch.setattr(jpeg, "upright", one_row_less)

    assert findings("jpeg") > 0


def test_what_a_library_prints_is_heard() -> None:
    with heard() as words:
        os.write(2, b"loud")
        assert words() == b"loud"


def test_the_same_seed_makes_the_same_files() -> None:
    one, other = (Mutator(PARSERS["png"](), random.Random(3), "png") for _ in range(2))

    assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]
