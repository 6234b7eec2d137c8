"""What a step is, and how a pipeline is told to treat it."""

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import JsonValue

from capturekit.errors import ConfigError
from capturekit.frame import Frame, Outline, is_representation

if TYPE_CHECKING:
    from capturekit.pipeline.run import ProcessingPipeline

Json: TypeAlias = dict[str, JsonValue]
Need: TypeAlias = str | type
OnError: TypeAlias = Literal["fail", "skip", "degrade"]
ON_ERROR = ("fail", "skip", "degrade")
MAX_DEADLINE_S = 86_400.0
"""A day: who waits longer wants no deadline."""


class Step(Protocol):
    """One question asked of a frame: a frame in, the same frame with an answer out.

    A plain function will do. So will a frozen dataclass whose fields are its parameters.
    It must not change the frame's arrays. These attributes are optional:

    - ``name``: what reports call it; else the function's or the class's name.
    - ``version``: an int or text to raise when the same picture may get another answer.
    - ``needs``: the findings it looks up, as types, and the representations it reads, as
      names such as ``gray_half``. A pipeline in which nothing earlier gives a needed finding
      is refused when it is built. Named representations are freed after their last use.
    - ``wants``: the same, for what it uses only when it is there.
    - ``gives``: the types of the findings it adds.
    - ``typical_ms``: CPU milliseconds on a picture of 1600 x 1200, for ``explain``.

    A step without ``needs`` may read anything, and one without ``gives`` may find anything.
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


class Chainable:
    """For steps: lets ``a | b`` make a pipeline."""

    __slots__ = ()

    def __or__(self: Step, after: "Step | ProcessingPipeline") -> "ProcessingPipeline":
        from capturekit.pipeline.run import ProcessingPipeline

        if isinstance(after, ProcessingPipeline):
            return replace(after, steps=(self, *after.steps))
        return ProcessingPipeline((self, after))

    def __ror__(self: Step, before: Step) -> "ProcessingPipeline":
        from capturekit.pipeline.run import ProcessingPipeline

        return ProcessingPipeline((before, self))


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


_MISSING = object()


@dataclass(frozen=True, slots=True)
class When:
    """A condition on an earlier finding: ``When("quality.verdict", among=("good",))``.

    ``path`` is as in a result's JSON: a finding's key, then names of its entries. A list or
    text compares by its length: ``When("codes", above=0)``. What is not there is not true.
    Without a bound the value must be true.
    """

    path: str
    among: tuple[JsonValue, ...] | None = None
    """The values that will do."""
    above: float | None = None
    """The value must be greater."""
    below: float | None = None
    """The value must be less."""

    def __post_init__(self) -> None:
        if not all(self.path.split(".")):
            raise ValueError(f"{self.path!r} is no path; write finding.entry")
        if isinstance(self.among, str):
            raise TypeError(f"among is the text {self.among!r}; give a tuple of values")
        if self.among is not None:
            object.__setattr__(self, "among", tuple(self.among))

    @property
    def finding(self) -> str:
        """The key of the finding that is looked at."""
        return self.path.partition(".")[0]

    def __call__(self, frame: Frame) -> bool:
        """Whether it is so of this frame."""
        value = self._value(frame)
        if value is _MISSING:
            return False
        if self.among is None and self.above is None and self.below is None:
            return bool(value)
        return (self.among is None or value in self.among) and self._lies_between(value)

    def _value(self, frame: Frame) -> object:
        found = (f for f in frame.findings.values() if isinstance(f, Reported))
        value: object = next((f.as_json() for f in found if f.json_key == self.finding), _MISSING)
        for part in self.path.split(".")[1:]:
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        return value

    def _lies_between(self, value: object) -> bool:
        if self.above is None and self.below is None:
            return True
        size = len(value) if isinstance(value, str | list) else value
        if not isinstance(size, int | float):
            return False
        is_above = self.above is None or size > self.above
        return is_above and (self.below is None or size < self.below)

    def __str__(self) -> str:
        parts = [f"in {list(self.among)}"] if self.among is not None else []
        parts += [f"> {self.above:g}"] if self.above is not None else []
        parts += [f"< {self.below:g}"] if self.below is not None else []
        return f"{self.path} {' and '.join(parts) or 'is true'}"


Condition: TypeAlias = Callable[[Frame], bool]


@dataclass(frozen=True, slots=True)
class Stage(Chainable):
    """A step, and what the pipeline does when it fails, is late or is not wanted.

    ``Stage(ReadCodes(), on_error="degrade", deadline_s=2, when=When("change.changed"))``.
    """

    step: Step
    on_error: OnError = "fail"
    """``fail`` ends the run with the step's error. ``skip`` goes on as if the step were not
    there; its error is in its report. ``degrade`` also says that the result is not whole:
    nothing may be concluded from what such a run did not see."""
    deadline_s: float | None = None
    """Seconds after which the run goes on without the step: its error is DeadlineExceeded.
    Python cannot stop the thread it runs in, which ends in its own time, or with its process."""
    when: Condition | None = None
    """Asked of the frame just before; the step runs only if it is true."""

    def __post_init__(self) -> None:
        step: object = self.step
        if not callable(step) or isinstance(step, Stage):
            raise TypeError(f"{step!r} is no step: a step is called with a frame")
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error is {self.on_error!r}; it must be one of {ON_ERROR}")
        if self.deadline_s is not None and not 0 < self.deadline_s <= MAX_DEADLINE_S:
            raise ValueError(f"deadline_s is {self.deadline_s}; it must be over 0, up to a day")
        if self.when is not None and not callable(self.when):
            raise TypeError(f"{self.when!r} is no condition: it is called with a frame")

    @property
    def name(self) -> str:
        """The step's."""
        return step_name(self.step)

    @property
    def is_plain(self) -> bool:
        """Whether it asks for nothing that the step alone would not."""
        return self.on_error == "fail" and self.deadline_s is None and self.when is None

    def __call__(self, frame: Frame) -> Frame:
        """The step alone."""
        return self.step(frame)


def staged(step: Step) -> Stage:
    """The step as a stage; raises TypeError for what is no step."""
    if isinstance(step, Stage):
        return step
    return Stage(step)


def step_name(step: object) -> str:
    """What reports and the fingerprint call this step."""
    name = getattr(step, "name", None)
    if isinstance(name, str) and name:
        return name
    if isinstance(step, functools.partial):
        return step_name(step.func)
    return str(getattr(step, "__name__", type(step).__name__))


def step_version(step: object) -> int | str | None:
    """The step's version, where it has one."""
    version = getattr(step, "version", None)
    return version if isinstance(version, int | str) else None


def declared(step: object, attribute: str) -> tuple[Need, ...] | None:
    """``needs``, ``wants`` or ``gives`` of a step; None when it does not say.

    Raises ValueError for an entry that is no finding's type and no representation.
    """
    value = getattr(step, attribute, None)
    if value is None:
        return None
    entries = tuple(value) if not isinstance(value, str | type) else (value,)
    for entry in entries:
        if isinstance(entry, type):
            continue
        if attribute == "gives" or not is_representation(entry):
            raise ValueError(
                f"step {step_name(step)!r} {attribute} {entry!r}, which is no finding's type and "
                "no representation"
            )
    return entries
