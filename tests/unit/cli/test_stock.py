"""``capturekit stock`` and all that people say with it, on a data folder without a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from capturekit.cli.main import cli

pytestmark = pytest.mark.needs_extra("server")

SHEET = """\
item,name,unit,code,pack_size,location,parent,minimum,count
,,,,,room,,,
beer,Beer,bottle,666,6,shelf,,,
,,,,,shelf,room,,
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with beer, a room, and a shelf in it."""
    sheet = tmp_path / "items.csv"
    sheet.write_text(SHEET)
    assert run(tmp_path, "import", str(sheet)).exit_code == 0
    return tmp_path


def run(data: Path, *arguments: str, stdin: bytes | None = None) -> Result:
    command = ["stock", *arguments, "--data", str(data / "data")]
    return CliRunner().invoke(cli, command, input=stdin)


def told(data: Path, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    result = run(data, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_people_do_changes_stock_and_can_be_undone(data: Path) -> None:
    told(data, "receive", "666", "2", "--to", "shelf", "--by", "ana", "--reason", "weekly")
    told(data, "move", "beer", "4", "--from", "shelf", "--to", "room")
    told(data, "write-off", "beer", "1", "--from", "room", "--reason", "broken")
    used = told(data, "use", "beer", "3", "--from", "shelf")["movement"]["movement_id"]

    stock = {row["location"]: row["quantity"] for row in told(data)}
    assert stock == {"shelf": 5, "room": 3}
    undone = told(data, "undo", used, "--by", "bo")
    assert (undone["movement"]["voided_by"], undone["changes"][0]["after"]) == ("bo", 8)
    told(data, "count", "beer", "7", "--in", "shelf")
    (row,) = told(data, "--location", "shelf")
    assert (row["item_id"], row["quantity"], row["codes"]) == ("beer", 7, ["666"])


def test_a_key_is_done_once(data: Path) -> None:
    first = told(data, "receive", "beer", "2", "--to", "shelf", "--key", "k")
    again = told(data, "receive", "beer", "2", "--to", "shelf", "--key", "k")

    assert again["movement"] == first["movement"]
    assert again["changes"] == []


def test_the_past_its_reasons_and_its_history_are_shown(data: Path) -> None:
    told(data, "receive", "beer", "9", "--to", "shelf", "--at", "2026-01-01", "--by", "ana")
    told(data, "count", "beer", "4", "--in", "shelf", "--at", "2026-01-03T10:00:00")
    told(data, "use", "beer", "1", "--from", "shelf", "--at", "2026-01-04")

    assert [row["quantity"] for row in told(data, "--as-of", "2026-01-02")] == [9]
    (why,) = told(data, "why", "beer", "--as-of", "2026-01-05")
    assert (why["quantity"], why["basis"]["kind"]) == (3, "person")
    assert [one["quantity"] for one in why["movements"]] == [1]
    lines = told(data, "history", "--item", "beer")
    assert [end["after"] for line in lines for end in line["ends"]] == [3, 4, 9]
    assert len(told(data, "history", "--location", "shelf", "--limit", "1")) == 1
    assert "counted 4 at 2026-01-03" in run(data, "why", "beer").output
    assert "receive" in run(data, "history").output


def test_levels_raise_alerts(data: Path) -> None:
    told(data, "receive", "beer", "9", "--to", "shelf")
    told(data, "par", "set", "beer", "room", "3", "--restock-at", "6")
    told(data, "use", "beer", "7", "--from", "shelf")

    (alert,) = told(data, "alerts")
    assert (alert["kind"], alert["location_id"], alert["quantity"]) == ("low", "room", 2)
    (level,) = told(data, "par", "list")
    assert level["is_low"]
    removed = told(data, "par", "remove", "beer", "room")
    assert removed == {"item_id": "beer", "location_id": "room"}
    assert told(data, "alerts") == []
    assert len(told(data, "alerts", "--all")) == 1


def test_lots_and_forecasts_are_shown(data: Path) -> None:
    told(data, "receive", "beer", "9", "--to", "shelf", "--lot", "L", "--expires", "2020-01-31")

    assert told(data, "lots", "beer")["lots"] == [
        {"lot": "L", "expires_on": "2020-01-31", "quantity": 9}
    ]
    assert [one["lot"] for one in told(data, "expiring")] == ["L"]
    assert told(data, "forecast", "beer")["days_left"] is None
    assert "2020-01-31" in run(data, "lots", "beer").output
    assert "too few" in run(data, "forecast", "beer").output


def test_a_file_goes_out_and_in_again(data: Path, tmp_path: Path) -> None:
    told(data, "receive", "beer", "9", "--to", "shelf")
    file = tmp_path / "all.json"
    assert run(data, "export", str(file)).exit_code == 0
    other = tmp_path / "other"
    other.mkdir()

    dry = told(other, "import", str(file), "--dry-run")
    assert (dry["items_added"], dry["counts_recorded"]) == (1, 1)
    assert told(other) == []
    done = run(other, "import", "-", "--format", "json", stdin=file.read_bytes())
    assert "1 items added" in done.output
    assert run(other, "export").stdout == run(data, "export").stdout


def test_a_wrong_file_is_told_row_by_row(data: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "wrong.csv"
    sheet.write_text("item,name,code,pack_size\nx,X,1,six\ny,Y,2,seven\n")

    result = run(data, "import", str(sheet))
    assert result.exit_code == 1
    assert "row 2, pack_size 'six': is no whole number" in result.stderr
    assert "row 3" in result.stderr
    assert [
        row["row"] for row in json.loads(run(data, "import", str(sheet), "--json").stdout)["errors"]
    ] == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("receive", "beer", "0", "--to", "shelf"), 2),
        (("receive", "beer", "x", "--to", "shelf"), 2),
        (("receive", "beer", "1"), 2),
        (("par", "set", "beer", "room", "3", "--restock-at", "2"), 2),
        (("--as-of", "yesterday"), 2),
        (("wrong",), 2),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    data: Path, arguments: tuple[str, ...], code: int
) -> None:
    assert run(data, *arguments).exit_code == code


def test_the_list_is_as_it_always_was(data: Path) -> None:
    told(data, "receive", "beer", "2", "--to", "shelf")
    command = ["stock", "--data", str(data / "data")]

    assert "2 bottle" in CliRunner().invoke(cli, command).output
    (row,) = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert set(row) >= {"item_id", "name", "quantity", "unit", "location", "version", "codes"}
    # The folder may also be named before the subcommand.
    levels = CliRunner().invoke(cli, [*command, "par", "list", "--json"])
    assert json.loads(levels.stdout) == []
