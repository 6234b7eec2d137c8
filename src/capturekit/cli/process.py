"""``capturekit process``: run a pipeline over files and folders, one JSON line a picture."""

import fcntl
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn, Self

import click

from capturekit.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

    from capturekit.pipeline import ProcessingPipeline, Result

SUFFIXES: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff"),
        *(".avif", ".heic", ".heif"),
    }
)
"""Files of a folder that are taken, in any case; a file you name yourself is always tried."""
INTERRUPTED: Final = 130


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the lines to this file; started again, go on where it ended.",
)
@click.option(
    "--pipeline",
    "spec",
    metavar="MODULE:ATTR|FILE.json",
    help="Instead of the default one.",
)
@click.option(
    "--isolate",
    is_flag=True,
    help="Decode in a child process with limits, for files from strangers.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Pictures at a time.  [default: one per CPU]"
)
@click.option(
    "--diff",
    "old",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Tell which pictures' codes or verdict differ from these lines.",
)
def process(
    paths: tuple[Path, ...],
    out: Path | None,
    spec: str | None,
    isolate: bool,
    jobs: int | None,
    old: Path | None,
) -> None:
    """Process pictures: files, and all pictures in folders.

    Prints one JSON line a picture, in order. Exit code 1 if any picture failed. With --out a
    picture is skipped when the file has a line without error for the same path, content and
    pipeline; otherwise it is done again, and the last line of a path is the one that counts.
    """
    pipeline = _load(spec, isolate=isolate)
    before = _read_lines(old) if old else None
    with ExitStack() as stack:
        output = stack.enter_context(_output(out))
        batch = _Batch(pipeline, output.done)
        tally = _Tally(before, is_stdout_free=out is not None)
        targets = list(dict.fromkeys(_targets(paths)))
        advance = stack.enter_context(_progress(len(targets)))
        try:
            for outcome in batch.run(targets, jobs or len(os.sched_getaffinity(0))):
                output.write(outcome)
                tally.count(outcome)
                advance()
        except KeyboardInterrupt:
            _leave(INTERRUPTED, "interrupted; what was printed is whole")
    tally.print()
    sys.exit(1 if tally.failed else 0)


def _leave(code: int, message: str) -> NoReturn:
    click.echo(f"capturekit: {message}", err=True)
    sys.exit(code)


def _load(spec: str | None, *, isolate: bool) -> "ProcessingPipeline":
    from capturekit.pipeline import load_pipeline
    from capturekit.settings import Settings
    from capturekit.steps import default_pipeline

    settings = Settings.load(pipeline=spec)
    # As `python -m` does: your own module lies where you are.
    sys.path.insert(0, str(Path.cwd()))
    try:
        if settings.pipeline:
            pipeline = load_pipeline(settings.pipeline)
        else:
            pipeline = default_pipeline(
                max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels
            )
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--pipeline") from error
    isolated = pipeline.isolated or isolate or settings.isolate_decoding
    return replace(pipeline, isolated=isolated)


def _targets(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from _pictures_below(path)
        else:
            yield path


def _pictures_below(folder: Path) -> Iterator[Path]:
    unreadable: list[Path] = []
    for here, folders, files in os.walk(
        folder, onerror=lambda error: unreadable.append(Path(error.filename))
    ):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES:
                yield Path(here, name)
    yield from unreadable  # each gets a line with its error


# Lines


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line says, as far as it is compared."""

    sha256: str | None
    fingerprint: str | None
    error: str | None
    verdict: str | None
    codes: Counter[tuple[str, str]]

    @classmethod
    def of(cls, record: Mapping[str, object]) -> Self:
        return cls(
            _text(record.get("sha256")),
            _text(record.get("fingerprint")),
            _text(_entry(record.get("error"), "type")),
            _text(_entry(record.get("quality"), "verdict")),
            Counter(_codes(record.get("codes"))),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _entry(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _codes(value: object) -> Iterator[tuple[str, str]]:
    for code in value if isinstance(value, list) else ():
        yield str(_entry(code, "format")), str(_entry(code, "text"))


def _read_lines(path: Path) -> dict[str, _Line]:
    with path.open("rb") as file:
        return _parsed_lines(file)


def _parsed_lines(lines: Iterable[bytes]) -> dict[str, _Line]:
    """By path, the last line of each; what is no result line is passed over."""
    found: dict[str, _Line] = {}
    for line in lines:
        record = _parsed(line)
        if record is not None:
            found[str(record["file"])] = _Line.of(record)
    return found


def _parsed(line: bytes) -> dict[str, object] | None:
    try:
        record: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("file"), str) else None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One picture's end: a new line, or None when the old one still holds."""

    file: str
    text: str | None
    line: _Line


# Work


@dataclass
class _Batch:
    """Runs the pipeline over many files, and passes over those that are done."""

    pipeline: "ProcessingPipeline"
    done: Mapping[str, _Line]
    known: deque[_Outcome | None] = field(default_factory=deque)
    """A place for each target that was taken, in order: its old line, or None for its result."""

    def run(self, targets: Iterable[Path], jobs: int) -> Iterator[_Outcome]:
        """Outcomes in the order of the targets. Closed early, it ends after the running steps."""
        with closing(self.pipeline.map(self._to_do(targets), workers=jobs)) as results:
            for result in results:
                yield from self._known_before()
                self.known.popleft()
                yield _outcome(result)
        yield from self._known_before()

    def _to_do(self, targets: Iterable[Path]) -> Iterator[Path]:
        for target in targets:
            line = self.done.get(str(target))
            holds = line is not None and self._still_holds(line, target)
            self.known.append(_Outcome(str(target), None, line) if line and holds else None)
            if not holds:
                yield target

    def _known_before(self) -> Iterator[_Outcome]:
        while self.known and (outcome := self.known[0]) is not None:
            self.known.popleft()
            yield outcome

    def _still_holds(self, known: _Line, target: Path) -> bool:
        if known.error is not None or known.fingerprint != self.pipeline.fingerprint:
            return False
        try:
            return target.is_file() and sha256(target.read_bytes()).hexdigest() == known.sha256
        except OSError:
            return False


def _outcome(result: "Result") -> _Outcome:
    from capturekit.pipeline import RunError

    name = str(result.source)
    try:
        told = result.as_json()
    except TypeError as error:  # of a finding that gives no JSON
        told = replace(result, findings={}, error=RunError.of(error)).as_json()
    record = {"file": name, **told}
    return _Outcome(name, json.dumps(record), _Line.of(record))


# Output


@dataclass
class _Output:
    """Where lines go: standard output, or a file that is gone on with."""

    file: IO[bytes]
    done: dict[str, _Line] = field(default_factory=dict)

    def write(self, outcome: _Outcome) -> None:
        """One whole line in one write, so that a kill tears at most the last."""
        if outcome.text is not None:
            self.file.write(outcome.text.encode() + b"\n")
            self.file.flush()


@contextmanager
def _output(out: Path | None) -> Iterator[_Output]:
    if out is None:
        yield _Output(sys.stdout.buffer)
        return
    if out.exists() and not out.is_file():
        raise click.BadParameter(f"{out} is not a regular file", param_hint="--out")
    try:
        file = out.open("a+b")
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--out") from error
    with file:
        _lock(file, out)
        _mend(file)
        file.seek(0)
        yield _Output(file, _parsed_lines(file))


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise click.UsageError(f"another process writes to {out}") from error


def _mend(file: IO[bytes]) -> None:
    """Give a last line without its end that end, or cut it off when it is torn."""
    file.seek(0)
    end = 0
    last = b""
    for last in file:
        end += len(last)
    if not last or last.endswith(b"\n"):
        return
    if _parsed(last) is None:
        file.truncate(end - len(last))
    else:
        file.write(b"\n")
    file.flush()


@dataclass
class _Tally:
    """Counts outcomes, and tells what differs from an earlier run."""

    before: dict[str, _Line] | None
    is_stdout_free: bool
    total: int = 0
    failed: int = 0
    skipped: int = 0
    changed: int = 0

    def count(self, outcome: _Outcome) -> None:
        self.total += 1
        self.skipped += outcome.text is None
        self.failed += outcome.line.error is not None
        difference = self._difference(outcome)
        if difference:
            self.changed += 1
            # Standard output belongs to the JSON lines unless they go to a file.
            click.echo(f"{_printable(outcome.file)}: {difference}", err=not self.is_stdout_free)

    def _difference(self, outcome: _Outcome) -> str:
        if self.before is None:
            return ""
        old = self.before.get(outcome.file)
        return "new" if old is None else "; ".join(_differences(old, outcome.line))

    def print(self) -> None:
        text = f"{self.total} pictures, {self.failed} failed, {self.skipped} skipped"
        if self.before is not None:
            text += f", {self.changed} changed"
        click.echo(text, err=True)


def _differences(old: _Line, new: _Line) -> Iterator[str]:
    gone, come = old.codes - new.codes, new.codes - old.codes
    signed = [("-", code) for code in sorted(gone.elements())]
    signed += [("+", code) for code in sorted(come.elements())]
    if signed:
        yield "codes " + " ".join(f"{sign}{kind}:{text}" for sign, (kind, text) in signed)
    if old.verdict != new.verdict:
        yield f"quality {old.verdict} -> {new.verdict}"
    if old.error != new.error:
        yield f"error {old.error} -> {new.error}"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _progress(total: int) -> Iterator["_Advance"]:
    """A bar on standard error when a person looks at it; nothing otherwise."""
    if not sys.stderr.isatty():
        yield _Advance()
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task("pictures", total=total)
        yield _Advance(bar)


@dataclass(frozen=True, slots=True)
class _Advance:
    """Called after each picture."""

    bar: "Progress | None" = None

    def __call__(self) -> None:
        if self.bar is not None:
            self.bar.advance(self.bar.task_ids[0])
