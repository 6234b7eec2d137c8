"""Steps in a row over one picture.

A step is any callable that takes a frame and returns one. A ``ProcessingPipeline`` never
raises for a bad picture or a failing step: the ``Result`` says what happened.
"""

from capturekit.pipeline.batch import WorkerDied
from capturekit.pipeline.deadline import DeadlineExceeded, TooManyLateSteps
from capturekit.pipeline.explain import Cost, Explanation
from capturekit.pipeline.load import load_pipeline
from capturekit.pipeline.plan import MissingNeed, PlannedStage
from capturekit.pipeline.result import (
    NoPicture,
    Result,
    RunError,
    StepReport,
    Stopped,
    TracedPicture,
)
from capturekit.pipeline.run import ProcessingPipeline
from capturekit.pipeline.source import Source
from capturekit.pipeline.step import (
    Chainable,
    Condition,
    Drawn,
    Json,
    ModelFile,
    Reported,
    Stage,
    Step,
    When,
)

__all__ = [
    "Chainable",
    "Condition",
    "Cost",
    "DeadlineExceeded",
    "Drawn",
    "Explanation",
    "Json",
    "MissingNeed",
    "ModelFile",
    "NoPicture",
    "PlannedStage",
    "ProcessingPipeline",
    "Reported",
    "Result",
    "RunError",
    "Source",
    "Stage",
    "Step",
    "StepReport",
    "Stopped",
    "TooManyLateSteps",
    "TracedPicture",
    "When",
    "WorkerDied",
    "load_pipeline",
]
