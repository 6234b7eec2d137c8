"""How `capturekit demo` tells its verdict. The run itself is tested end to end."""

import json

import pytest
from click.testing import CliRunner

from capturekit.cli.demo import demo, report
from capturekit.demo.shelves import PRODUCTS
from capturekit.demo.verdict import Tally, judge

SHELF = "shelf-1"
TEA = next(each for each in PRODUCTS if each.name == "Green tea")
TRUTH = {(SHELF, TEA.code): 2}


def tally(end: str = "completed") -> Tally:
    return Tally(taken=1, acknowledged=1, ended={"a": end}, latencies_ms=[41.26])


def test_agreement_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(judge(TRUTH, TRUTH, tally(), seed=7), as_json=False) == 0

    printed = capsys.readouterr()
    row = next(line for line in printed.out.splitlines() if TEA.code in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "Green tea",
        TEA.code,
        SHELF,
        "2",
        "2",
    ]
    assert "accuracy        100.0%  (1 of 1 agree)" in printed.out
    assert "41 ms p50" in printed.out
    assert "everything agrees (seed 7)" in printed.out
    assert printed.err == ""


def test_a_doubled_item_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(judge(TRUTH, {(SHELF, TEA.code): 4}, tally(), seed=0), as_json=False) == 1

    printed = capsys.readouterr()
    assert "NOT ok" in printed.out
    assert "2 there, 4 in the ledger" in printed.err


def test_a_lost_capture_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(judge(TRUTH, TRUTH, tally("failed"), seed=0), as_json=False) == 1

    printed = capsys.readouterr()
    assert "1 stored, 1 lost" in printed.out
    assert "no completed capture" in printed.err


def test_json_is_one_object_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = judge(TRUTH, {}, tally(), seed=3)

    assert report(verdict, as_json=True) == 1

    printed = capsys.readouterr()
    assert json.loads(printed.out) == verdict.as_json()
    assert printed.out.count("\n") == 1
    assert printed.err


def test_a_run_that_measured_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(judge({}, {}, Tally(), seed=0), as_json=False) == 1

    assert "not measured" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--cameras", "0"], ["--seconds", "0"], ["--seed", "x"]])
def test_impossible_options_are_usage_errors(arguments: list[str]) -> None:
    outcome = CliRunner().invoke(demo, arguments)

    assert outcome.exit_code == 2
    assert arguments[0] in outcome.stderr
