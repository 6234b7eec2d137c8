"""Running a step in a thread that is left behind when it is late."""

import threading
from collections.abc import Callable
from typing import Final

from capturekit.errors import CaptureKitError
from capturekit.frame import Frame

MAX_LATE_STEPS: Final = 8
"""Steps past their deadline that may still run in this process. With more, stages that have a
deadline fail at once, so that a hanging step cannot fill the memory with threads."""


class DeadlineExceeded(CaptureKitError):
    """A step took longer than its stage allows; its answer was not waited for."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"not done within {deadline_s:g} s")
        self.deadline_s = deadline_s


class TooManyLateSteps(CaptureKitError):
    """Steps past their deadline still run, too many to start another that may hang."""


class _Late:
    """How many steps of this process are past their deadline and still run."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


_late = _Late()


class _Call:
    """One step in a thread of its own."""

    def __init__(self, work: Callable[[], Frame]) -> None:
        self._work = work
        self._answer: Frame | BaseException | None = None
        self._is_late = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="step-with-deadline")

    def answer(self, deadline_s: float) -> Frame:
        self._thread.start()
        self._thread.join(deadline_s)
        with _late.lock:
            if self._answer is None:
                self._is_late = True
                _late.count += 1
                raise DeadlineExceeded(deadline_s)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def _run(self) -> None:
        answer: Frame | BaseException
        try:
            answer = self._work()
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            answer = error
        with _late.lock:
            self._answer = answer
            _late.count -= self._is_late


def in_time(work: Callable[[], Frame], deadline_s: float) -> Frame:
    """The work's answer, or what it raises.

    Raises DeadlineExceeded; the thread then goes on by itself, because Python cannot stop it.
    Raises TooManyLateSteps when MAX_LATE_STEPS do so already.
    """
    if _late.count >= MAX_LATE_STEPS:
        raise TooManyLateSteps(f"{MAX_LATE_STEPS} steps are past their deadline and still run")
    return _Call(work).answer(deadline_s)
