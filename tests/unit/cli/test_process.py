import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from capturekit.cli.process import process
from capturekit.steps import default_pipeline
from tests.pictures import Label, ean13, jpeg, shelf

COMMAND = [sys.executable, "-c", "from capturekit.cli.process import process; process()"]
TEXTS = [ean13(400638100000 + 37 * number) for number in range(4)]
HANGING = """
import sys, time, pathlib
from capturekit.pipeline import ProcessingPipeline

def hang(frame):
    pathlib.Path("started").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return frame

pipeline = ProcessingPipeline((hang,))
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(process, [str(argument) for argument in arguments])


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def write(path: Path, *texts: str) -> Path:
    labels = [Label(text) for text in texts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(shelf(*labels, width=640, height=640)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, one of them in a folder of its own, and a text file."""
    for number, name in enumerate(("b.jpg", "a.JPG", "c.jpeg", "sub/d.jpg")):
        write(tmp_path / "shots" / name, TEXTS[number])
    (tmp_path / "shots" / "notes.txt").write_text("no picture")
    return tmp_path / "shots"


def codes(line: dict[str, object]) -> list[str]:
    found = line["codes"]
    assert isinstance(found, list)
    return [code["text"] for code in found]


def test_a_folder_becomes_one_line_a_picture_in_order(folder: Path) -> None:
    result = run(folder, "--jobs", 3)

    found = lines(result.stdout)
    assert [line["file"] for line in found] == [
        str(folder / name) for name in ("a.JPG", "b.jpg", "c.jpeg", "sub/d.jpg")
    ]
    assert [codes(line) for line in found] == [[TEXTS[n]] for n in (1, 0, 2, 3)]
    assert {line["fingerprint"] for line in found} == {default_pipeline().fingerprint}
    assert (result.exit_code, result.stderr) == (0, "4 pictures, 0 failed, 0 skipped\n")


def test_what_cannot_be_read_is_a_line_and_exit_code_1(folder: Path) -> None:
    notes, missing = folder / "notes.txt", folder / "missing.jpg"

    result = run(folder / "b.jpg", notes, missing)

    good, text, gone = lines(result.stdout)
    assert good["error"] is None
    assert isinstance(text["error"], dict)
    assert isinstance(gone["error"], dict)
    assert (text["error"]["type"], gone["error"]["type"]) == ("NotAnImage", "FileNotFoundError")
    assert result.exit_code == 1


def test_a_picture_named_twice_is_done_once(folder: Path) -> None:
    assert len(lines(run(folder, folder / "b.jpg").stdout)) == 4


@pytest.mark.parametrize(
    "arguments",
    [(), ("x", "--jobs", "0"), ("x", "--pipeline", "no:where"), ("x", "--diff", "none")],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_second_run_skips_what_is_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run(folder, "--out", out)
    before = out.read_bytes()

    again = run(folder, "--out", out)

    assert out.read_bytes() == before
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "4 pictures, 0 failed, 4 skipped\n"


def test_changed_failed_and_new_pictures_are_done_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    assert run(folder, "--out", out).exit_code == 1
    write(folder / "bad.jpg", TEXTS[0])
    write(folder / "b.jpg", TEXTS[3])
    write(folder / "new.jpg", TEXTS[2])

    result = run(folder, "--out", out)

    added = lines(out.read_text())[5:]
    assert [Path(str(line["file"])).name for line in added] == ["b.jpg", "bad.jpg", "new.jpg"]
    assert result.stderr == "6 pictures, 0 failed, 3 skipped\n"


def test_another_pipeline_does_all_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run(folder, "--out", out)

    run(folder, "--out", out, "--pipeline", "capturekit.steps:quality")

    found = lines(out.read_text())
    assert len(found) == 8
    assert len({line["fingerprint"] for line in found}) == 2
    assert run(folder, "--out", out, "--pipeline", "capturekit.steps:quality").stderr == (
        "4 pictures, 0 failed, 4 skipped\n"
    )


@pytest.mark.parametrize("lost", [1, 2, 40, 400])
def test_a_torn_last_line_is_mended(folder: Path, tmp_path: Path, lost: int) -> None:
    out = tmp_path / "out.jsonl"
    run(folder, "--out", out, "--jobs", 1)
    out.write_bytes(out.read_bytes()[:-lost])

    run(folder, "--out", out, "--jobs", 1)

    found = lines(out.read_text())
    assert sorted(str(line["file"]) for line in found) == sorted(
        str(path) for path in folder.rglob("*.[jJ]*")
    )


def test_two_processes_do_not_write_to_one_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    arguments = [str(folder), "--out", "out.jsonl", "--pipeline", "hanging:pipeline"]
    first = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        wait_for(tmp_path / "started", first)
        second = run(folder, "--out", tmp_path / "out.jsonl")
        (tmp_path / "go").touch()
        first.communicate(timeout=30)
    finally:
        first.kill()
    assert (second.exit_code, first.returncode) == (2, 0)
    assert "another process writes" in second.stderr


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    while not path.exists():
        assert process.poll() is None


@pytest.fixture
def heeded_interrupts() -> Iterator[None]:
    """A shell starts what it runs in the background with interrupts ignored, and so on down."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupts")
def test_an_interrupt_ends_within_one_step_with_130(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    arguments = [str(folder), "--jobs", "1", "--pipeline", "hanging:pipeline"]
    running = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_for(tmp_path / "started", running)
        running.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        printed, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130
    assert b"Traceback" not in said
    assert len(lines(printed.decode())) < 4


def test_a_closed_standard_output_is_no_traceback(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [*COMMAND, str(folder)], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(writer)
    assert ended.stderr == b""
    assert ended.returncode == 1


def test_the_difference_to_older_lines_is_told(folder: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    run(folder, "--out", old)
    write(folder / "b.jpg", TEXTS[0], TEXTS[3], TEXTS[3])
    write(folder / "new.jpg", TEXTS[2])

    result = run(folder, "--out", new, "--diff", old)

    added = f"+EAN13:{TEXTS[3]}"
    assert result.stdout.splitlines() == [
        f"{folder / 'b.jpg'}: codes {added} {added}",
        f"{folder / 'new.jpg'}: new",
    ]
    assert result.stderr == "5 pictures, 0 failed, 0 skipped, 2 changed\n"


def test_a_file_name_that_is_not_unicode_is_processed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write(tmp_path / name, TEXTS[0])

    [line] = lines(run(tmp_path).stdout)

    assert line["file"] == str(tmp_path / name)
    assert codes(line) == [TEXTS[0]]


def test_the_command_is_loaded_without_the_heavy_libraries() -> None:
    code = (
        "import sys, capturekit.cli.process; "
        "print(sorted({'cv2', 'numpy', 'PIL', 'rich', 'pydantic'} & set(sys.modules)))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert made.stdout == b"[]\n"
