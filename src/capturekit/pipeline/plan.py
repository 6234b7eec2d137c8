"""What a pipeline will do, worked out once when it is built.

Here needs and gives are checked, and here it is decided what is decoded and when a
representation is freed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from capturekit.errors import ConfigError
from capturekit.frame import made_from
from capturekit.pipeline.step import (
    Condition,
    Need,
    OnError,
    Stage,
    Step,
    When,
    declared,
    step_name,
    step_version,
)


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage, with what was worked out about it."""

    name: str
    step: Step
    version: int | str | None
    on_error: OnError
    deadline_s: float | None
    when: Condition | None
    reads: tuple[str, ...] | None
    """Representations; None when the step does not say."""
    needs: tuple[type, ...]
    """Findings."""
    gives: tuple[type, ...] | None
    """Findings; None when the step does not say."""
    frees: tuple[str, ...]
    """Representations of which this is the last use."""
    typical_ms: float | None
    """As the step says; see ``Step``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages, and whether the picture is decoded in colour."""

    stages: tuple[PlannedStage, ...]
    colour: bool


def make_plan(stages: Sequence[Stage], *, colour: bool | None) -> Plan:
    """Check the stages against each other and lay out the work.

    Without ``colour`` the picture is decoded in colour if a step reads it, or does not say.
    Raises MissingNeed, which names the step.
    """
    _check_findings(stages)
    reads = [_reads(stage.step) for stage in stages]
    if colour is None:
        colour = any(names is None or _has_colour(names) for names in reads)
    frees = _frees(reads)
    planned = zip(stages, reads, frees, strict=True)
    return Plan(tuple(_planned(stage, read, freed) for stage, read, freed in planned), colour)


class MissingNeed(ConfigError):
    """A step needs a finding that no step before it gives; ``step`` is its name."""

    def __init__(self, step: str, needed: str, later: str | None) -> None:
        where = f"only {later!r} after it does: move it" if later else "no step before it gives it"
        super().__init__(f"step {step!r} needs {needed}, and {where}")
        self.step, self.needed = step, needed


def _planned(stage: Stage, reads: tuple[str, ...] | None, frees: tuple[str, ...]) -> PlannedStage:
    typical = getattr(stage.step, "typical_ms", None)
    gives = declared(stage.step, "gives")
    return PlannedStage(
        name=stage.name,
        step=stage.step,
        version=step_version(stage.step),
        on_error=stage.on_error,
        deadline_s=stage.deadline_s,
        when=stage.when,
        reads=reads,
        needs=_types(declared(stage.step, "needs") or ()),
        gives=None if gives is None else _types(gives),
        frees=frees,
        typical_ms=float(typical) if isinstance(typical, int | float) else None,
    )


def _types(entries: Iterable[Need]) -> tuple[type, ...]:
    return tuple(entry for entry in entries if isinstance(entry, type))


# Findings


def _check_findings(stages: Sequence[Stage]) -> None:
    given: set[type] = set()
    for position, stage in enumerate(stages):
        for needed in _types(declared(stage.step, "needs") or ()):
            if needed not in given:
                later = _first_giver(stages[position:], needed)
                raise MissingNeed(stage.name, needed.__name__, later)
        if isinstance(stage.when, When):
            _check_condition(stage.name, stage.when, given)
        gives = declared(stage.step, "gives")
        if gives is None:
            return  # it may give anything; what is missing now shows when it runs
        given.update(_types(gives))


def _check_condition(name: str, when: When, given: Iterable[type]) -> None:
    keys = {getattr(finding, "json_key", None) for finding in given}
    if when.finding not in keys:
        raise MissingNeed(name, f"a finding {when.finding!r} for its condition", None)


def _first_giver(stages: Iterable[Stage], wanted: type) -> str | None:
    for stage in stages:
        if wanted in (declared(stage.step, "gives") or ()):
            return step_name(stage.step)
    return None


# Representations

ROOTS = ("gray", "bgr")
"""What files are decoded to."""


def _reads(step: Step) -> tuple[str, ...] | None:
    needs = declared(step, "needs")
    if needs is None:
        return None
    entries = (*needs, *(declared(step, "wants") or ()))
    return tuple(entry for entry in entries if isinstance(entry, str))


def _has_colour(names: Iterable[str]) -> bool:
    return any(name.startswith("bgr") for name in names)


def _frees(reads: Sequence[tuple[str, ...] | None]) -> list[tuple[str, ...]]:
    """Per stage, what nobody reads after it, nor anything that is made from it.

    A file is decoded to gray or to colour as it is, and the other may be made from that: both
    stay until nothing is read any more.
    """
    last: dict[str, int] = {}
    for position, names in enumerate(reads):
        if names is None:
            last = dict.fromkeys(last, position)
        for name in names or ():
            last.update(dict.fromkeys((name, *made_from(name), *ROOTS), position))
    freed: list[tuple[str, ...]] = [()] * len(reads)
    for name, position in last.items():
        freed[position] = (*freed[position], name)
    return freed
