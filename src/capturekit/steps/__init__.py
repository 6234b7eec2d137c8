"""The questions a pipeline can ask of a picture: one file per question."""

from capturekit.picture import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS
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


def default_pipeline(
    *, max_bytes: int = DEFAULT_MAX_BYTES, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ProcessingPipeline:
    """Quality, then codes, then a thumbnail: what runs unless you say otherwise."""
    steps = (JudgeQuality(), ReadCodes(), MakeThumbnail())
    return ProcessingPipeline(steps, max_bytes=max_bytes, max_pixels=max_pixels)
