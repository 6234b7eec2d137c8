"""Which things that have no code are in the picture? Any ONNX detector answers.

The step is in ``detect``; what each family of models puts out, in ``layouts``; how a picture
gets into a model's input and boxes back out, in ``letterbox``; what a model file says about
itself, in ``modelfile``; the two libraries that run one, in ``engines``.
"""

from capturekit.steps.objects.detect import Detection, DetectObjects, Objects
from capturekit.steps.objects.engines import Backend
from capturekit.steps.objects.layouts import Layout

__all__ = ["Backend", "DetectObjects", "Detection", "Layout", "Objects"]
