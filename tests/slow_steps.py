"""A pipeline that takes its time, for tests of servers under load."""

import os
import time

from capturekit.frame import Frame
from capturekit.pipeline import ProcessingPipeline


def take_a_while(frame: Frame) -> Frame:
    """What a model does: a third of a second of nothing else."""
    time.sleep(0.3)
    return frame


pipeline = ProcessingPipeline((take_a_while,))


HANGS = "TEST_HANGS"
"""A variable with which the step below hangs; its pipeline is the same without."""


def take_for_ever(frame: Frame) -> Frame:
    """What a decoder that hangs does."""
    time.sleep(600 if HANGS in os.environ else 0)
    return frame


hanging = ProcessingPipeline((take_for_ever,))
