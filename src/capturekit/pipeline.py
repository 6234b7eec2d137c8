"""Steps in a row over one picture: run, time, isolate errors, and tell what ran.

A step is any callable that takes a frame and returns one. A ``ProcessingPipeline`` never
raises for a bad picture or a failing step: the ``Result`` says what happened.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib
import inspect
import json
import logging
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

import anyio.to_thread
from pydantic import JsonValue

from capturekit.errors import CaptureKitError, ConfigError, ImageError, TooManyBytes
from capturekit.frame import Derived, Frame, Observation, Outline
from capturekit.picture import (
    DECODE_VERSION,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    OnDamage,
    PictureInfo,
)

logger = logging.getLogger("capturekit.pipeline")

FINGERPRINT_FORMAT = 1
"""Raised when the way a fingerprint is made changes; then all of them change."""

Json: TypeAlias = dict[str, JsonValue]
Source: TypeAlias = bytes | Path | Frame


class Step(Protocol):
    """One question asked of a frame: a frame in, the same frame with an answer out.

    A plain function will do. So will a frozen dataclass whose fields are its parameters.
    Two attributes are optional: ``name`` (else the function's or the class's name) and
    ``version``, an int or text to raise when the same picture may get another answer.
    A step must not change the frame's arrays, and may raise: the pipeline ends there.
    """

    def __call__(self, frame: Frame, /) -> Frame:
        """The frame with what was found: ``frame.having(...)``, ``frame.observing(...)``."""
        ...


@runtime_checkable
class Reported(Protocol):
    """A finding that appears in ``Result.as_json`` under ``json_key``."""

    json_key: str

    def as_json(self) -> JsonValue:
        """The value under that key."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """A finding that ``Result.draw`` puts on the picture."""

    def outlines(self) -> Iterable[Outline]:
        """What to draw."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file whose content decides a step's answers: a model, a prompt, a table.

    Reads the file when made. Raises ConfigError when it cannot be read, or when it is not
    the content that ``sha256`` names. Its place is not part of a pipeline's fingerprint.
    """

    path: Path
    sha256: str = ""
    """In hex; computed when not given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        try:
            found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"the model cannot be read: {error}") from error
        if self.sha256 not in ("", found):
            raise ConfigError(f"{self.path} has SHA-256 {found}, not {self.sha256}")
        object.__setattr__(self, "sha256", found)

    @property
    def fingerprint(self) -> str:
        """What stands for this file in a pipeline's fingerprint."""
        return self.sha256


class Stopped(CaptureKitError):
    """The caller asked the run to stop; it ended before the next step."""


class Chainable:
    """For steps: lets ``a | b`` make a pipeline."""

    __slots__ = ()

    def __or__(self: Step, after: "Step | ProcessingPipeline") -> "ProcessingPipeline":
        return ProcessingPipeline((self,)) | after


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run or a step ended early."""

    type: str
    """The name of the exception's class, such as ``DamagedImage`` or ``Stopped``."""
    message: str
    step: str | None = None
    """The step that failed or was not started; None when the picture did not decode."""

    def as_json(self) -> Json:
        """Type and message."""
        return {"type": self.type, "message": self.message}


@dataclass(frozen=True, slots=True)
class StepReport:
    """How one step went. Steps that did not run have no report."""

    name: str
    ms: float
    """Wall time in milliseconds."""
    error: RunError | None = None

    def as_json(self) -> Json:
        """As one entry of ``steps`` in a result."""
        return {
            "name": self.name,
            "ms": round(self.ms, 3),
            "error": self.error.as_json() if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """All that one run found, and how it went."""

    fingerprint: str
    """Of the pipeline that ran."""
    sha256: str | None
    """Of the file as given, in hex; None when it could not be read, or was made of pixels."""
    info: PictureInfo | None
    """None when the picture was refused."""
    findings: Mapping[type, object] = field(default_factory=lambda: MappingProxyType({}))
    observations: tuple[Observation, ...] = ()
    derived: Mapping[str, Derived] = field(default_factory=lambda: MappingProxyType({}))
    steps: tuple[StepReport, ...] = ()
    error: RunError | None = None
    decode_ms: float = 0.0

    @property
    def was_stopped(self) -> bool:
        """Whether ``should_stop`` ended the run."""
        return self.error is not None and self.error.type == Stopped.__name__

    def as_json(self) -> Json:
        """The line that ``capturekit process`` prints for a picture, without ``file``."""
        info = self.info
        found = {f.json_key: f.as_json() for f in self.findings.values() if isinstance(f, Reported)}
        return {
            "sha256": self.sha256,
            "width": info.width if info else None,
            "height": info.height if info else None,
            "flags": list(info.flags) if info else [],
            "quality": None,
            "codes": [],
            **found,
            "observations": [seen.model_dump(mode="json") for seen in self.observations],
            "steps": [report.as_json() for report in self.steps],
            "fingerprint": self.fingerprint,
            "error": self.error.as_json() if self.error else None,
        }


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ProcessingPipeline:
    """Steps in a row. Immutable; one may be shared by threads.

    Join with ``|``. ``on_damage``, ``max_bytes`` and ``max_pixels`` are as for ``Frame.open``.
    With ``colour=False`` pictures are decoded to gray, which pays when no step needs colour.
    """

    steps: tuple[Step, ...] = ()
    on_damage: OnDamage = field(default="refuse", kw_only=True)
    max_bytes: int = field(default=DEFAULT_MAX_BYTES, kw_only=True)
    max_pixels: int = field(default=DEFAULT_MAX_PIXELS, kw_only=True)
    colour: bool = field(default=True, kw_only=True)
    clock: Callable[[], float] = field(default=time.perf_counter, kw_only=True, compare=False)
    """Seconds, for the steps' times only."""
    fingerprint: str = field(init=False)
    """SHA-256 in hex of what decides the answers: the steps' names, versions and parameters and
    the decode settings. The same in every process; other when any of them is."""
    _named: tuple[tuple[str, Step], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        for step in steps:
            if not callable(step):
                raise TypeError(f"{step!r} is no step: a step is called with a frame")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "_named", tuple((step_name(step), step) for step in steps))
        object.__setattr__(self, "fingerprint", _fingerprint(self.described()))

    def described(self) -> Json:
        """What the fingerprint is made of, to look at or to compare two pipelines."""
        return {
            "format": FINGERPRINT_FORMAT,
            "decode": {
                "version": DECODE_VERSION,
                "on_damage": self.on_damage,
                "max_bytes": self.max_bytes,
                "max_pixels": self.max_pixels,
                "colour": self.colour,
            },
            "steps": [_described_step(step) for step in self.steps],
        }

    def __or__(self, after: "Step | ProcessingPipeline") -> "ProcessingPipeline":
        if not isinstance(after, ProcessingPipeline):
            return dataclasses.replace(self, steps=(*self.steps, after))
        if self.steps and after.described()["decode"] != self.described()["decode"]:
            raise ValueError("the two pipelines decode differently; build one from their steps")
        return dataclasses.replace(after, steps=(*self.steps, *after.steps))

    def __ror__(self, before: Step) -> "ProcessingPipeline":
        return dataclasses.replace(self, steps=(before, *self.steps))

    def run(self, source: Source, *, should_stop: Callable[[], bool] = _never) -> Result:
        """Decode, ask every step, and report. Blocks; releases the GIL most of the time.

        ``should_stop`` is asked before decoding and before each step; once true the run ends
        with the error ``Stopped``. Nothing about the picture, the file or a step is raised.
        """
        result = Result(self.fingerprint, None, None)
        if should_stop():
            return dataclasses.replace(result, error=_error(Stopped("stopped before decoding")))
        started = self.clock()
        try:
            data = _read(source, self.max_bytes) if isinstance(source, Path) else source
            if isinstance(data, bytes):
                result = dataclasses.replace(result, sha256=hashlib.sha256(data).hexdigest())
            frame = data if isinstance(data, Frame) else self._open(data)
        except (ImageError, OSError) as error:
            return dataclasses.replace(result, error=_error(error))
        decode_ms = (self.clock() - started) * 1e3
        frame, reports, failed = self._ask(frame, should_stop)
        return Result(
            fingerprint=self.fingerprint,
            sha256=result.sha256 or frame.sha256,
            info=frame.info,
            findings=frame.findings,
            observations=frame.observations,
            derived=frame.derived,
            steps=tuple(reports),
            error=failed,
            decode_ms=decode_ms,
        )

    async def arun(self, source: Source, *, should_stop: Callable[[], bool] = _never) -> Result:
        """``run`` in a worker thread. When cancelled, the step that runs ends in its own time."""
        work = functools.partial(self.run, source, should_stop=should_stop)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

    def _open(self, data: bytes) -> Frame:
        return Frame.open(
            data,
            max_bytes=self.max_bytes,
            max_pixels=self.max_pixels,
            on_damage=self.on_damage,
            colour=self.colour,
        )

    def _ask(
        self, frame: Frame, should_stop: Callable[[], bool]
    ) -> tuple[Frame, list[StepReport], RunError | None]:
        reports: list[StepReport] = []
        clock = self.clock
        for name, step in self._named:
            if should_stop():
                return frame, reports, _error(Stopped(f"stopped before step {name!r}"), name)
            started = clock()
            try:
                frame = _frame_of(step(frame))
            except Exception as error:  # a step may fail in any way; the run must report it
                logger.debug("step %s failed", name, exc_info=True)
                failed = _error(error, name)
                reports.append(StepReport(name, (clock() - started) * 1e3, failed))
                return frame, reports, failed
            reports.append(StepReport(name, (clock() - started) * 1e3))
        return frame, reports, None


def load_pipeline(spec: str) -> ProcessingPipeline:
    """Import the pipeline that ``module:attr`` names.

    The attribute is a pipeline, a step, or a function without arguments that returns one of
    them. Raises ConfigError when there is no such thing.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{spec!r} does not name a pipeline; write module:attribute")
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"no pipeline at {spec!r}: {error}") from error
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        found = found()
    if isinstance(found, ProcessingPipeline):
        return found
    if callable(found) and not isinstance(found, type):
        return ProcessingPipeline((found,))
    raise ConfigError(f"{spec!r} is a {type(found).__name__}, not a pipeline")


def _read(path: Path, max_bytes: int) -> bytes:
    # A pipe would wait for its writer for ever; a device might never end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooManyBytes(max_bytes)
    return data


def _frame_of(returned: object) -> Frame:
    if not isinstance(returned, Frame):
        raise TypeError(f"the step returned {type(returned).__name__}, not a Frame")
    return returned


def _error(error: Exception, step: str | None = None) -> RunError:
    return RunError(type(error).__name__, str(error), step)


# Fingerprints


def step_name(step: Step) -> str:
    """What reports and the fingerprint call this step."""
    name = getattr(step, "name", None)
    if isinstance(name, str) and name:
        return name
    if isinstance(step, functools.partial):
        return step_name(step.func)
    return str(getattr(step, "__name__", type(step).__name__))


def _described_step(step: Step) -> Json:
    version = getattr(step, "version", None)
    return {
        "name": step_name(step),
        "version": version if isinstance(version, int | str) else None,
        "what": _canonical(step),
    }


def _fingerprint(described: Json) -> str:
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> JsonValue:
    """A parameter as JSON that is equal for equal values in any process.

    Raises TypeError for a value that has no such form.
    """
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return _canonical_object(value)


def _sorted(entries: Iterable[JsonValue]) -> list[JsonValue]:
    return sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True))


def _canonical_object(value: object) -> JsonValue:
    if isinstance(value, set | frozenset):
        return {"set": _sorted([_canonical(entry) for entry in value])}
    if isinstance(value, Mapping):
        pairs: list[JsonValue] = [[_canonical(k), _canonical(v)] for k, v in value.items()]
        return {"map": _sorted(pairs)}
    if isinstance(value, bytes | Path):
        return {type(value).__name__: value.hex() if isinstance(value, bytes) else str(value)}
    if isinstance(value, FunctionType):
        return _canonical_function(value)
    if isinstance(value, functools.partial):
        return {"of": _canonical(value.func), "with": _canonical([value.args, value.keywords])}
    return {"type": _type_name(value), "fields": _canonical(_fields(value))}


def _canonical_function(function: FunctionType) -> JsonValue:
    """A function is its name, its text where there is one, and the values it closes over."""
    try:
        text = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):
        text = ""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        "text": text,
        "closed_over": _canonical(cells),
        "defaults": _canonical([function.__defaults__, function.__kwdefaults__]),
    }


def _fields(value: object) -> Mapping[str, object]:
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return {"fingerprint": own}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    try:
        return vars(value)
    except TypeError:
        raise TypeError(
            f"{value!r} cannot be part of a pipeline's fingerprint: use plain values, or give "
            "it a `fingerprint` text that changes when it does"
        ) from None


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
