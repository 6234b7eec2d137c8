"""The questions a pipeline can ask of a picture: one file per question."""

from capturekit.pipeline import ProcessingPipeline
from capturekit.steps.codes import Code, Codes, ReadCodes
from capturekit.steps.derive import MakeThumbnail
from capturekit.steps.quality import JudgeQuality, Quality, Verdict

__all__ = [
    "Code",
    "Codes",
    "JudgeQuality",
    "MakeThumbnail",
    "Quality",
    "ReadCodes",
    "Verdict",
    "codes",
    "default_pipeline",
    "quality",
    "thumbnail",
]

quality = JudgeQuality()
codes = ReadCodes()
thumbnail = MakeThumbnail()


def default_pipeline() -> ProcessingPipeline:
    """Quality, then codes, then a thumbnail: what runs unless you say otherwise."""
    return JudgeQuality() | ReadCodes() | MakeThumbnail()
