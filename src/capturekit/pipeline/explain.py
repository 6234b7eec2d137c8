"""What a pipeline would do, as a table to read."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capturekit.pipeline.plan import Plan, PlannedStage
from capturekit.pipeline.result import Result
from capturekit.pipeline.source import Source

if TYPE_CHECKING:
    from capturekit.pipeline.run import ProcessingPipeline


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step takes, in milliseconds."""

    ms: float | None
    """None when nobody knows."""
    is_measured: bool
    """Wall time on the picture given; else CPU time at 1600 x 1200, as the step says."""

    def __str__(self) -> str:
        if self.ms is None:
            return "unknown"
        return f"{self.ms:.2f} ms" if self.is_measured else f"~{self.ms:g} ms"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decode and every stage, with costs. ``str`` of it is a table."""

    fingerprint: str
    decodes_to: str
    """``bgr`` or ``gray``."""
    decode_cost: Cost
    stages: tuple[PlannedStage, ...]
    costs: tuple[Cost, ...]
    """One a stage."""

    def __str__(self) -> str:
        rows = [("step", "reads", "finds", "frees", "cost", "if")]
        rows.append(("decode", "", self.decodes_to, "", str(self.decode_cost), ""))
        rows += [_row(stage, cost) for stage, cost in zip(self.stages, self.costs, strict=True)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        text = "\n".join(line.rstrip() for line in lines)
        return f"{text}\nfingerprint {self.fingerprint}"


def explain(
    pipeline: "ProcessingPipeline", plan: Plan, source: Source | None, rounds: int
) -> Explanation:
    """See ``ProcessingPipeline.explain``."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be 1 or more")
    results = [] if source is None else [pipeline.run(source) for _ in range(rounds)]
    return Explanation(
        fingerprint=pipeline.fingerprint,
        decodes_to="bgr" if plan.colour else "gray",
        decode_cost=_decode_cost(results),
        stages=plan.stages,
        costs=tuple(_cost(stage, at, results) for at, stage in enumerate(plan.stages)),
    )


def _decode_cost(results: list[Result]) -> Cost:
    measured = [result.decode_ms for result in results if result.info is not None]
    return Cost(statistics.median(measured) if measured else None, is_measured=bool(results))


def _cost(stage: PlannedStage, position: int, results: list[Result]) -> Cost:
    if not results:
        return Cost(stage.typical_ms, is_measured=False)
    # A run that ended early has no report of what came after.
    measured = [result.steps[position].ms for result in results if len(result.steps) > position]
    return Cost(statistics.median(measured) if measured else None, is_measured=True)


def _row(stage: PlannedStage, cost: Cost) -> tuple[str, str, str, str, str, str]:
    name = stage.name if stage.version is None else f"{stage.name} {stage.version}"
    gives = "?" if stage.gives is None else ", ".join(found.__name__ for found in stage.gives)
    return (
        name,
        "?" if stage.reads is None else ", ".join(stage.reads),
        gives,
        ", ".join(stage.frees),
        str(cost),
        "; ".join(_conditions(stage)),
    )


def _conditions(stage: PlannedStage) -> Iterator[str]:
    if stage.when is not None:
        yield str(getattr(stage.when, "__name__", stage.when))
    if stage.deadline_s is not None:
        yield f"within {stage.deadline_s:g} s"
    if stage.on_error != "fail":
        yield f"on error {stage.on_error}"
