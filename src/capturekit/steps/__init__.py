"""The questions a pipeline can ask of a picture: one file per question.

``capturekit.steps.describe`` is imported by its own name: it loads what talks to models.
"""

from capturekit.picture import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps.change import Change, DetectChange, References
from capturekit.steps.codes import Code, Codes, ReadCodes
from capturekit.steps.derive import CropObservations, MakePreview, MakeThumbnail
from capturekit.steps.gs1 import Gs1
from capturekit.steps.markers import Markers
from capturekit.steps.objects import DetectObjects, Objects
from capturekit.steps.occupancy import MeasureOccupancy, Occupancy
from capturekit.steps.quality import Advice, JudgeQuality, Quality, Verdict
from capturekit.steps.zones import AssignZones, Zone, Zones

__all__ = [
    "Advice",
    "AssignZones",
    "Change",
    "Code",
    "Codes",
    "CropObservations",
    "DetectChange",
    "DetectObjects",
    "Gs1",
    "JudgeQuality",
    "MakePreview",
    "MakeThumbnail",
    "Markers",
    "MeasureOccupancy",
    "Objects",
    "Occupancy",
    "Quality",
    "ReadCodes",
    "References",
    "Verdict",
    "Zone",
    "Zones",
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
