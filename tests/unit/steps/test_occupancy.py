from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from capturekit.errors import ConfigError
from capturekit.frame import Frame, Observation
from capturekit.pipeline import ModelFile, ProcessingPipeline
from capturekit.steps.markers import Marker, Markers
from capturekit.steps.occupancy import Direction, MeasureOccupancy, Occupancy
from capturekit.steps.zones import AssignZones, Zone
from tests.pictures import jpeg
from tests.pictures_shelf import (
    CAPACITY,
    HEIGHT,
    MARKER,
    MARKERS,
    WIDTH,
    Camera,
    Rack,
    random_camera,
    slot,
)

SHELF = Markers(tuple(Marker(mark, x, y, MARKER) for mark, x, y in MARKERS))
SLOTS = tuple(Zone(f"slot {number}", slot(number), "box", CAPACITY) for number in range(8))
ZONING = AssignZones(SLOTS, SHELF)
STOCK = (0, 1, 2, 3, 4, 0, 2, 1)
RACK = Rack(tuple((5 + number,) * count for number, count in enumerate(STOCK)), wall=3)
CAMERA = Camera(view=31, seed=1)


@cache
def photograph(camera: Camera, rack: Rack) -> np.ndarray:
    return camera.picture(rack)


@pytest.fixture
def step(tmp_path: Path) -> MeasureOccupancy:
    return measuring(tmp_path, CAMERA)


def measuring(folder: Path, camera: Camera, along: Direction = "across") -> MeasureOccupancy:
    file = folder / "empty.jpg"
    file.write_bytes(jpeg(photograph(camera, Rack(wall=3))))
    return MeasureOccupancy(ModelFile(file), along)


def zoned(camera: Camera, rack: Rack = RACK, zoning: AssignZones = ZONING) -> Frame:
    return zoning(Frame.from_pixels(photograph(camera, rack)))


def quantities(frame: Frame) -> list[int | None]:
    return [fill.quantity for fill in frame.find(Occupancy)]


@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_counted_under_other_light_from_a_moved_camera(
    step: MeasureOccupancy, seed: int
) -> None:
    other = random_camera(np.random.default_rng(seed), replace(CAMERA, degrees=1))
    moved = replace(other, shift_px=(3, -2))

    frame = step(zoned(moved))

    assert quantities(frame) == list(STOCK)
    fills = [fill.fill for fill in frame.find(Occupancy)]
    assert fills == pytest.approx(np.array(STOCK) / CAPACITY, abs=0.12)


def test_a_quarter_of_the_light_changes_no_count(step: MeasureOccupancy) -> None:
    assert quantities(step(zoned(replace(CAMERA, gain=0.25, noise=1, seed=6)))) == list(STOCK)


@pytest.mark.parametrize(("width", "height", "turns"), [(640, 480, 2), (2592, 1944, 1)])
def test_any_size_and_turn_of_the_picture_will_do(
    tmp_path: Path, width: int, height: int, turns: int
) -> None:
    step = measuring(tmp_path, CAMERA)
    other = replace(CAMERA, width=width, height=height, quarter_turns=turns, seed=9)

    assert quantities(step(zoned(other))) == list(STOCK)


def test_an_empty_slot_is_observed_with_none_and_a_filled_one_with_its_pieces(
    step: MeasureOccupancy,
) -> None:
    seen = step(zoned(CAMERA)).observations

    assert [(one.location, one.item, one.quantity) for one in seen] == [
        (f"slot {number}", "box", count) for number, count in enumerate(STOCK)
    ]
    assert all(0.5 < one.confidence < 1 for one in seen)
    assert all(one.analyser == "occupancy" and len(one.box) == 4 for one in seen)


def test_more_pieces_in_a_slot_make_their_number_less_sure(tmp_path: Path) -> None:
    step = measuring(tmp_path, CAMERA)
    narrow = AssignZones((replace(SLOTS[3], capacity=40),), SHELF)

    (few,) = step(zoned(CAMERA, zoning=AssignZones((SLOTS[3],), SHELF))).find(Occupancy)
    (many,) = step(zoned(CAMERA, zoning=narrow)).find(Occupancy)

    assert few.quantity_confidence > 0.8
    assert many.quantity_confidence < 0.5
    assert many.occupied
    assert many.confidence > 0.9


def test_a_shelf_that_was_not_found_is_neither_full_nor_empty(step: MeasureOccupancy) -> None:
    frame = step(zoned(CAMERA, replace(RACK, hidden=(0, 1, 2, 3, 4, 5))))

    assert frame.observations == ()
    assert {(fill.occupied, fill.fill) for fill in frame.find(Occupancy)} == {(None, None)}
    assert {fill.reason for fill in frame.find(Occupancy)} == {"markers missing"}


def test_slots_are_measured_with_half_of_the_markers(step: MeasureOccupancy) -> None:
    assert quantities(step(zoned(CAMERA, replace(RACK, hidden=(0, 2, 5))))) == list(STOCK)


def test_where_codes_were_counted_fill_is_told_and_not_observed(step: MeasureOccupancy) -> None:
    code = Observation(analyser="codes", code="1", confidence=1, location="slot 1")

    frame = step(zoned(CAMERA).observing(code))

    assert [one.location for one in frame.observations].count("slot 1") == 1
    assert quantities(frame) == list(STOCK)


def test_a_zone_without_an_item_is_measured_and_not_observed(step: MeasureOccupancy) -> None:
    bare = AssignZones(tuple(replace(zone, item=None) for zone in SLOTS), SHELF)

    frame = step(zoned(CAMERA, zoning=bare))

    assert frame.observations == ()
    occupied = [fill.occupied for fill in frame.find(Occupancy)]
    assert occupied == [count > 0 for count in STOCK]


def test_a_zone_partly_outside_the_picture_is_unknown(step: MeasureOccupancy) -> None:
    wide = Zone("wide", ((60, 11), (140, 11), (140, 36), (60, 36)), "box")

    (fill,) = step(zoned(CAMERA, zoning=AssignZones((wide,), SHELF))).find(Occupancy)

    assert (fill.occupied, fill.reason) == (None, "outside the picture")


def test_a_camera_that_hangs_still_needs_no_markers(tmp_path: Path) -> None:
    still = replace(CAMERA, tilt=0)
    step = measuring(tmp_path, still)
    size = np.array([WIDTH, HEIGHT])
    shares = [tuple(map(tuple, 0.06 + 0.88 * np.array(slot(number)) / size)) for number in range(8)]
    zoning = AssignZones(
        tuple(replace(zone, polygon=share) for zone, share in zip(SLOTS, shares, strict=True))
    )

    frame = step(zoned(replace(still, gain=0.7, shift_px=(1, 1), seed=4), zoning=zoning))

    assert quantities(frame) == list(STOCK)


def test_fill_is_measured_upwards_or_by_area_if_asked(tmp_path: Path) -> None:
    def fill(along: Direction) -> float:
        step = measuring(tmp_path, CAMERA, along)
        return step(zoned(CAMERA)).find(Occupancy).fills[4].fill or 0

    # Four pieces, 24 of 27 units wide and well under 25 high.
    assert fill("across") > 0.9
    assert 0.5 < fill("up") < 0.98
    assert fill("area") < fill("across")


def test_the_json_tells_each_slot(step: MeasureOccupancy) -> None:
    result = ProcessingPipeline((ZONING, step)).run(Frame.from_pixels(photograph(CAMERA, RACK)))

    told = result.as_json()["occupancy"]

    assert result.error is None
    assert isinstance(told, list)
    assert [entry["quantity"] for entry in told if isinstance(entry, dict)] == list(STOCK)


def test_a_picture_of_the_empty_shelf_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.jpg"
    file.write_bytes(jpeg(photograph(CAMERA, Rack(wall=3, hidden=(0, 1, 2, 3, 4, 5)))))

    with pytest.raises(ConfigError, match="markers missing"):
        MeasureOccupancy(ModelFile(file))(zoned(CAMERA))
    file.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="do not start like"):
        MeasureOccupancy(ModelFile(file))(zoned(CAMERA))
    with pytest.raises(ConfigError, match="cannot be read"):
        ModelFile(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="along"):
        MeasureOccupancy(ModelFile(file), along="down")  # type: ignore[arg-type]  # on purpose


def test_another_picture_of_the_empty_shelf_is_another_pipeline(
    step: MeasureOccupancy, tmp_path: Path
) -> None:
    first = ProcessingPipeline((ZONING, step)).fingerprint
    (tmp_path / "moved.jpg").write_bytes((tmp_path / "empty.jpg").read_bytes())
    (tmp_path / "other.jpg").write_bytes(jpeg(photograph(CAMERA, Rack(wall=4))))

    same, other = (
        ProcessingPipeline((ZONING, MeasureOccupancy(ModelFile(tmp_path / name)))).fingerprint
        for name in ("moved.jpg", "other.jpg")
    )

    assert first == same != other
