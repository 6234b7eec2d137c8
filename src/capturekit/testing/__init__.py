"""What tests of capturekit, and of your own backends and cameras, are made with.

``queue_contract`` needs pytest and is imported by name: the rest does not.
"""

from capturekit.testing.clock import FakeClock

__all__ = ["FakeClock"]
