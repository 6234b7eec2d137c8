"""A pipeline that takes its time, for tests of servers under load."""

import time

from capturekit.frame import Frame
from capturekit.pipeline import ProcessingPipeline


def take_a_while(frame: Frame) -> Frame:
    """What a model does: a third of a second of nothing else."""
    time.sleep(0.3)
    return frame


pipeline = ProcessingPipeline((take_a_while,))


def take_for_ever(frame: Frame) -> Frame:
    """What a decoder that hangs does."""
    time.sleep(600)
    return frame


hanging = ProcessingPipeline((take_for_ever,))
