"""The verdict finds every fault that is planted, and only then says no."""

from dataclasses import FrozenInstanceError, replace

import pytest

from capturekit.demo.verdict import Row, Stock, Tally, Verdict, judge

TRUTH: Stock = {("shelf-1", "tea"): 2, ("shelf-1", "soap"): 0, ("shelf-2", "tea"): 1}


def good_tally() -> Tally:
    return Tally(
        taken=3,
        acknowledged=3,
        ended={"a": "completed", "b": "completed", "c": "completed"},
        latencies_ms=[40.0, 20.0, 30.0],
        repeats=1,
        repeats_told=1,
        hostile=2,
        refused=2,
    )


def verdict_on(ledger: Stock = TRUTH, tally: Tally | None = None) -> Verdict:
    return judge(TRUTH, ledger, tally or good_tally(), seed=5)


def test_agreement_is_ok() -> None:
    verdict = verdict_on()

    assert verdict.ok
    assert verdict.as_json() == {
        "ok": True,
        "accuracy": 1.0,
        "double_counts": 0,
        "lost": 0,
        "captures": 3,
        "refused": 2,
        "p50_ms": 30.0,
        "p95_ms": 40.0,
        "seed": 5,
    }


def test_what_is_gone_may_be_missing_from_the_ledger() -> None:
    assert verdict_on({("shelf-1", "tea"): 2, ("shelf-2", "tea"): 1}).ok


def test_a_doubled_item_is_found() -> None:
    verdict = verdict_on({**TRUTH, ("shelf-1", "tea"): 4})

    assert not verdict.ok
    assert verdict.double_counts == 1
    assert verdict.accuracy == pytest.approx(2 / 3)
    assert verdict.complaints == ("tea on shelf-1: 2 there, 4 in the ledger",)


def test_an_item_that_nobody_put_there_is_found() -> None:
    verdict = verdict_on({**TRUTH, ("shelf-9", "tea"): 1})

    assert not verdict.ok
    assert verdict.double_counts == 1
    assert Row("shelf-9", "tea", true=0, ledger=1) in verdict.rows


def test_an_item_that_never_dropped_to_zero_is_found() -> None:
    assert verdict_on({**TRUTH, ("shelf-1", "soap"): 1}).double_counts == 1


def test_a_missing_item_is_found_and_is_no_double_count() -> None:
    verdict = verdict_on({("shelf-1", "tea"): 2})

    assert not verdict.ok
    assert verdict.double_counts == 0


@pytest.mark.parametrize("end", [None, "failed"])
def test_a_capture_that_does_not_complete_is_lost(end: str | None) -> None:
    tally = replace(good_tally(), ended={**good_tally().ended, "b": end})

    verdict = verdict_on(tally=tally)

    assert not verdict.ok
    assert verdict.lost == 1


def test_two_pictures_under_one_capture_are_a_loss() -> None:
    tally = replace(good_tally(), ended={"a": "completed", "b": "completed"})

    verdict = verdict_on(tally=tally)

    assert not verdict.ok
    assert (verdict.captures, verdict.lost) == (2, 1)


@pytest.mark.parametrize(
    "tally",
    [
        pytest.param(replace(good_tally(), taken=4), id="a picture was not taken"),
        pytest.param(replace(good_tally(), repeats_told=0), id="a repeat was not told"),
        pytest.param(replace(good_tally(), refused=1), id="rubbish was let in"),
    ],
)
def test_other_faults_of_the_server_are_found(tally: Tally) -> None:
    verdict = verdict_on(tally=tally)

    assert not verdict.ok
    assert len(verdict.complaints) == 1


def test_a_run_without_a_capture_proves_nothing() -> None:
    verdict = judge({}, {}, Tally(), seed=0)

    assert not verdict.ok
    assert verdict.accuracy == 0
    assert verdict.p50_ms is None


def test_a_verdict_is_final() -> None:
    with pytest.raises(FrozenInstanceError):
        verdict_on().lost = 0  # type: ignore[misc]  # that it cannot be set is the point
