"""Where work that blocks runs: in threads, or in child processes that can be killed.

Python cannot stop a thread. What is cancelled or takes too long in a ``ThreadExecutor`` is given
up: its answer is ignored, its slot is free, and it runs on until it asks ``should_stop``. In a
``ProcessExecutor`` it is killed at once, whatever it does.
"""

from capturekit.executors.base import Executor, in_executor
from capturekit.executors.child_main import NotSendable
from capturekit.executors.inside import progress, should_stop
from capturekit.executors.processes import ChildDied, ChildError, ProcessExecutor
from capturekit.executors.threads import ThreadExecutor

__all__ = [
    "ChildDied",
    "ChildError",
    "Executor",
    "NotSendable",
    "ProcessExecutor",
    "ThreadExecutor",
    "in_executor",
    "progress",
    "should_stop",
]
