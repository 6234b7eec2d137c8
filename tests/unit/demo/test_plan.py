"""What the cameras will do is decided by the seed, before the run."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from capturekit.demo.plan import Mishap, plan


@given(seed=st.integers(0, 2**32), seconds=st.floats(1, 120), cameras=st.integers(1, 50))
def test_a_plan_fits_the_run_and_ends_well(seed: int, seconds: float, cameras: int) -> None:
    shots = plan(Random(seed), seconds, cameras)

    times = [shot.at_s for shot in shots]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < seconds or times == [0.0]
    assert shots[0].mishap is shots[-1].mishap is Mishap.NONE


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan(Random(1), 20, 3) == plan(Random(1), 20, 3)
    assert plan(Random(1), 20, 3) != plan(Random(2), 20, 3)


def test_a_run_of_twenty_seconds_has_every_mishap() -> None:
    shots = plan(Random(0), 20, 3)

    assert {shot.mishap for shot in shots} == set(Mishap)


def test_more_cameras_take_fewer_pictures_each() -> None:
    few, many = (plan(Random(0), 60, cameras) for cameras in (3, 30))

    assert len(many) < len(few) / 4
