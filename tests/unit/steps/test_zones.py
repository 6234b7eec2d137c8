from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from capturekit.frame import Frame, Observation
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps.markers import Marker, Markers
from capturekit.steps.zones import UNPLACED, AssignZones, Zone, Zones
from capturekit.store.locations import checked_location_id
from tests.pictures_shelf import MARKER, MARKERS, Camera, Rack, slot

SHELF = Markers(tuple(Marker(mark, x, y, MARKER) for mark, x, y in MARKERS))
SLOTS = tuple(Zone(f"slot {number}", slot(number)) for number in range(8))
LEFT = Zone("left", ((0, 0), (0.5, 0), (0.5, 1), (0, 1)))
BIN = Zone("bin", ((0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.3)))
BLANK = Frame.from_pixels(np.full((100, 200), 128, np.uint8))


def seen(x: float, y: float, code: str = "1", **more: object) -> Observation:
    box = ((x - 4, y - 4), (x + 4, y - 4), (x + 4, y + 4), (x - 4, y + 4))
    return Observation(analyser="codes", code=code, confidence=1, box=box).model_copy(update=more)


def at(camera: Camera, x: float, y: float) -> tuple[float, float]:
    place = np.array([[(x, y)]], np.float64)
    right, down = cv2.perspectiveTransform(place, camera.homography())[0, 0]
    return (float(right), float(down))


def test_what_lies_in_a_zone_gets_its_location_and_is_counted() -> None:
    frame = BLANK.observing(seen(40, 50), seen(60, 80), seen(150, 50), seen(20, 50, "2"))

    frame = AssignZones((LEFT,))(frame)

    assert [one.location for one in frame.observations] == ["left", "left", None, "left"]
    assert frame.find(Zones).placed[0].counts == (("1", 2), ("2", 1))


def test_of_zones_that_overlap_the_smallest_has_it() -> None:
    frame = BLANK.observing(seen(40, 20), seen(80, 80))

    for order in ((LEFT, BIN), (BIN, LEFT)):
        assigned = AssignZones(order)(frame)

        assert [one.location for one in assigned.observations] == ["bin", "left"]


def test_a_location_given_before_stays_and_what_has_no_box_gets_none() -> None:
    frame = BLANK.observing(seen(40, 20, location="till"), seen(40, 20, box=()))

    assigned = AssignZones((BIN,))(frame)

    assert [one.location for one in assigned.observations] == ["till", None]


def test_all_else_about_an_observation_stays() -> None:
    one = seen(40, 20, quantity=3, confidence=0.4)

    (assigned,) = AssignZones((BIN,))(BLANK.observing(one)).observations

    assert assigned == one.model_copy(update={"location": "bin"})


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_zones_on_a_shelf_are_found_however_the_camera_hangs(turns: int) -> None:
    camera = Camera(view=21, quarter_turns=turns)
    frame = Frame.from_pixels(camera.picture(Rack())).observing(
        seen(*at(camera, 100, 25)), seen(*at(camera, 10, 50)), seen(*at(camera, 60, 3))
    )

    assigned = AssignZones(SLOTS, SHELF)(frame)

    assert [one.location for one in assigned.observations] == ["slot 3", "slot 4", None]
    assert [one.confidence for one in assigned.observations] == [1, 1, 1]
    zones = assigned.find(Zones)
    assert zones.is_known
    for zone in zones:
        expected = [at(camera, *point) for point in zone.zone.polygon]
        assert np.array(zone.polygon) == pytest.approx(np.array(expected), abs=1)


def test_without_its_markers_a_shelf_is_unknown_and_nothing_counts_elsewhere() -> None:
    camera = Camera(view=22)
    frame = Frame.from_pixels(camera.picture(Rack(hidden=(0, 1, 2, 3, 4, 5))))

    assigned = AssignZones(SLOTS, SHELF)(frame.observing(seen(*at(camera, 100, 25))))

    assert [one.location for one in assigned.observations] == [None]
    assert [one.confidence for one in assigned.observations] == [UNPLACED]
    zones = assigned.find(Zones)
    assert not zones.is_known
    assert {(zone.polygon, zone.reason) for zone in zones} == {(None, "markers missing")}
    assert not list(zones.outlines())


def test_zones_too_far_from_the_markers_seen_are_unknown() -> None:
    camera = Camera(view=25, noise=6)
    few = replace(SHELF, placed=(Marker(0, 4, 4, MARKER), Marker(4, 60, 4, MARKER)))
    small = Zone("far", ((112, 68), (117, 68), (117, 72), (112, 72)))
    near = Zone("near", ((20, 2), (40, 2), (40, 12), (20, 12)))

    frame = Frame.from_pixels(camera.picture(Rack())).observing(seen(*at(camera, 114, 70)))
    assigned = AssignZones((near, small), few)(frame)

    assert [zone.reason for zone in assigned.find(Zones)] == [None, "too far from the markers"]
    assert [one.confidence for one in assigned.observations] == [UNPLACED]


def test_a_zone_outside_the_picture_is_not_known_to_be_empty() -> None:
    beside = Zone("beside", ((300, 0), (330, 0), (330, 30), (300, 30)))

    found = AssignZones((beside,), SHELF)(Frame.from_pixels(Camera(view=23).picture(Rack())))

    (zone,) = found.find(Zones)
    assert zone.reason == "outside the picture"
    assert zone.as_json()["counts"] is None


def test_the_json_tells_what_was_found() -> None:
    result = ProcessingPipeline((AssignZones((BIN,)),)).run(BLANK.observing(seen(40, 20)))

    assert result.as_json()["zones"] == {
        "known": True,
        "reason": None,
        "markers": [],
        "error_px": None,
        "zones": [
            {
                "location": "bin",
                "known": True,
                "reason": None,
                "polygon": [[19.5, 9.5], [59.5, 9.5], [59.5, 29.5], [19.5, 29.5]],
                "counts": {"1": 1},
            }
        ],
    }


def test_zones_are_drawn_with_their_names() -> None:
    (outline,) = AssignZones((BIN,))(BLANK).find(Zones).outlines()

    assert (outline.label, outline.kind, len(outline.polygon)) == ("bin", "zone", 4)


@given(st.text(max_size=104))
def test_a_zone_takes_the_names_that_the_store_takes(name: str) -> None:
    def is_taken(take: object) -> bool:
        try:
            assert callable(take)
            take(name)
        except ValueError:
            return False
        return True

    assert is_taken(lambda name: Zone(name, BIN.polygon)) == is_taken(checked_location_id)


@pytest.mark.parametrize(
    "polygon",
    [((0, 0), (1, 1)), ((0, 0), (0.5, 0.5), (1, 1)), ((0, 0), (1, 0), (float("nan"), 1))],
    ids=["two corners", "a line", "not a number"],
)
def test_a_polygon_encloses_something(polygon: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="encloses nothing"):
        Zone("bin", polygon)


def test_impossible_zones_are_refused() -> None:
    with pytest.raises(ValueError, match="each location once"):
        AssignZones((BIN, BIN))
    with pytest.raises(ValueError, match="at least one"):
        AssignZones(())
    with pytest.raises(ValueError, match="shares of the picture"):
        AssignZones((Zone("bin", slot(0)),))
    with pytest.raises(ValueError, match="capacity"):
        replace(BIN, capacity=0)


def test_the_step_survives_json() -> None:
    step = AssignZones(SLOTS, SHELF)
    adapter = TypeAdapter(AssignZones)

    assert adapter.validate_python(adapter.dump_python(step, mode="json")) == step


def test_only_shelves_with_markers_need_pixels() -> None:
    assert AssignZones((BIN,)).needs == ()
    assert AssignZones(SLOTS, SHELF).needs == ("gray", "gray_800")
