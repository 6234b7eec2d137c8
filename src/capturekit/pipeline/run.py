"""Steps in a row over one picture: run, time, isolate errors, and tell what ran."""

import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
import numpy as np

from capturekit.errors import ImageError
from capturekit.frame import Frame, Reference, keep_to_one_thread
from capturekit.picture import (
    DECODE_VERSION,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    OnDamage,
    Pixels,
    decode,
)
from capturekit.pipeline.batch import Mode, run_many
from capturekit.pipeline.deadline import in_time
from capturekit.pipeline.explain import Explanation, explain
from capturekit.pipeline.fingerprint import FINGERPRINT_FORMAT, described_stage, fingerprint
from capturekit.pipeline.form import document_of, read_document
from capturekit.pipeline.plan import Plan, PlannedStage, make_plan
from capturekit.pipeline.result import Result, RunError, StepReport, Stopped, TracedPicture
from capturekit.pipeline.source import Source, read, taken
from capturekit.pipeline.step import Json, Step, declared, staged

logger = logging.getLogger("capturekit.pipeline")


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ProcessingPipeline:
    """Steps in a row. Immutable; one may be shared by threads, and sent to processes.

    Join with ``|``. ``on_damage``, ``max_bytes`` and ``max_pixels`` are as for ``Frame.open``.
    Raises MissingNeed when a step needs what no step before it gives, TypeError for what is
    no step or has a parameter that a fingerprint cannot hold.
    """

    steps: tuple[Step, ...] = ()
    """Steps, and stages where they ask for more than their step."""
    on_damage: OnDamage = field(default="refuse", kw_only=True)
    max_bytes: int = field(default=DEFAULT_MAX_BYTES, kw_only=True)
    max_pixels: int = field(default=DEFAULT_MAX_PIXELS, kw_only=True)
    colour: bool | None = field(default=None, kw_only=True)
    """Whether to decode to colour or straight to luma; None asks what the steps read."""
    isolated: bool = field(default=False, kw_only=True, compare=False)
    """Whether pictures are decoded in a child process with limits on CPU and memory, for files
    from strangers. The pixels, and so the fingerprint, are the same."""
    clock: Callable[[], float] = field(default=time.perf_counter, kw_only=True, compare=False)
    """Seconds, for the steps' times only."""
    fingerprint: str = field(init=False)
    """SHA-256 in hex of what decides the answers: the steps' names, versions, parameters and
    models, their stages, and the decode settings. The same in every process; other when any of
    them is. Versions of the libraries below are not in it: two hosts that differ in a patch
    release would not know each other's runs."""
    _plan: Plan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        stages = [staged(step) for step in self.steps]
        steps = tuple(stage.step if stage.is_plain else stage for stage in stages)
        plan = make_plan(stages, colour=self.colour)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "_plan", plan)
        object.__setattr__(self, "fingerprint", fingerprint(self.described()))

    def described(self) -> Json:
        """What the fingerprint is made of, to look at or to compare two pipelines."""
        return {
            "format": FINGERPRINT_FORMAT,
            "decode": {
                "version": DECODE_VERSION,
                "on_damage": self.on_damage,
                "max_bytes": self.max_bytes,
                "max_pixels": self.max_pixels,
                "colour": self._plan.colour,
            },
            "steps": [described_stage(stage) for stage in self._plan.stages],
        }

    @property
    def wants_reference(self) -> bool:
        """Whether a step compares with a ``Reference``, which the caller of ``run`` may give."""
        return any(
            Reference in (declared(stage.step, "wants") or ()) for stage in self._plan.stages
        )

    def __or__(self, after: "Step | ProcessingPipeline") -> "ProcessingPipeline":
        if not isinstance(after, ProcessingPipeline):
            return dataclasses.replace(self, steps=(*self.steps, after))
        if self._decoding() != after._decoding():
            raise ValueError("the two pipelines decode differently; build one from their steps")
        isolated = self.isolated or after.isolated
        return dataclasses.replace(after, steps=(*self.steps, *after.steps), isolated=isolated)

    def __ror__(self, before: Step) -> "ProcessingPipeline":
        return dataclasses.replace(self, steps=(before, *self.steps))

    def _decoding(self) -> tuple[object, ...]:
        return (self.on_damage, self.max_bytes, self.max_pixels, self.colour)

    # Running

    def run(
        self,
        source: Source,
        *,
        should_stop: Callable[[], bool] = _never,
        reference: Reference | None = None,
        trace: bool = False,
    ) -> Result:
        """Decode, ask every step, and report. Blocks; releases the GIL most of the time.

        ``should_stop`` is asked before decoding and before each step; once true the run ends
        with the error ``Stopped``. ``reference`` is what a change step compares with.
        ``trace`` keeps intermediate pictures, at the cost of their memory. Nothing about the
        picture, the file or a step is raised; a source of another type is a TypeError.
        """
        keep_to_one_thread()
        given = taken(source)
        result = Result(self.fingerprint, None, None, source=given, opener=self.open)
        if should_stop():
            return dataclasses.replace(result, error=RunError.of(Stopped("before decoding")))
        started = self.clock()
        try:
            data = read(given, self.max_bytes) if isinstance(given, Path) else given
            if isinstance(data, bytes):
                result = dataclasses.replace(result, sha256=hashlib.sha256(data).hexdigest())
            frame = self.open(data, colour=self._plan.colour)
        except (ImageError, OSError, ValueError) as error:
            return dataclasses.replace(result, error=RunError.of(error))
        decode_ms = (self.clock() - started) * 1e3
        run = _Run(
            frame.for_run(reference, is_traced=trace),
            self.clock,
            should_stop,
            is_traced=trace,
            may_free=isinstance(data, bytes),
        )
        run.ask(self._plan.stages)
        return dataclasses.replace(run.result(result), decode_ms=decode_ms)

    def open(self, source: Source, *, colour: bool = True) -> Frame:
        """The frame of a picture, decoded as a run would, and in a child if that is asked for.

        Raises an ImageError, an OSError, or a ValueError for pixels that are no picture.
        """
        given = taken(source)
        if isinstance(given, Frame):
            return given
        if isinstance(given, np.ndarray):
            return Frame.from_pixels(given)
        data = read(given, self.max_bytes) if isinstance(given, Path) else given
        open_picture = decode
        if self.isolated:
            from capturekit.picture.child import decode_in_child as open_picture
        picture = open_picture(
            data,
            max_bytes=self.max_bytes,
            max_pixels=self.max_pixels,
            on_damage=self.on_damage,
            colour=colour,
        )
        return Frame.of(picture, data)

    async def arun(
        self,
        source: Source,
        *,
        should_stop: Callable[[], bool] = _never,
        reference: Reference | None = None,
        trace: bool = False,
    ) -> Result:
        """``run`` in a worker thread. When cancelled, the step that runs ends in its own time."""
        work = functools.partial(
            self.run, source, should_stop=should_stop, reference=reference, trace=trace
        )
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

    def map(
        self,
        sources: Iterable[Source],
        *,
        workers: int | None = None,
        mode: Mode = "threads",
        ordered: bool = True,
        progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> Generator[Result, None, None]:
        """Run over many pictures at once; a result each, in their order or as they are done.

        Sources are read from as results are taken, a few ahead: any number will do.
        ``Result.source`` tells which is which. ``workers`` is one per CPU unless given.
        ``progress`` is called with the number of results so far. Closing the iterator ends
        the work after the running steps.

        ``mode="threads"`` suits steps that leave Python while they work, as all of ours do.
        ``"processes"`` suits steps in pure Python, and outlives one that kills its process
        (its picture's error is WorkerDied). The pipeline and its findings must then pickle,
        and a script that starts it needs the usual ``if __name__ == "__main__"``. Once
        ``should_stop`` is true no picture is begun; in threads, runs end before their next step.
        What reading the sources raises comes after the results of those before.
        """
        return run_many(
            self,
            sources,
            workers=workers,
            mode=mode,
            ordered=ordered,
            progress=progress,
            should_stop=should_stop,
        )

    # Looking at it

    def explain(self, source: Source | None = None, *, rounds: int = 3) -> Explanation:
        """What would run, on which representations, and at what cost; print it.

        With a source it is run ``rounds`` times and the costs are medians measured on it;
        without, they are what the steps say of themselves, and nothing runs.
        """
        return explain(self, self._plan, source, rounds)

    def as_json(self) -> Json:
        """The pipeline as a document that ``from_json`` reads, on any machine.

        Raises TypeError, naming the step, for one that cannot be written: a closure, or a
        class whose parameters are no plain values.
        """
        return document_of(self)

    @classmethod
    def from_json(cls, document: Json | str) -> "ProcessingPipeline":
        """The pipeline of a document, as an object or as text.

        Raises ConfigError. A document names code to import: read only those you trust.
        """
        return cls(**read_document(document))


class _Run:
    """The state of one run."""

    def __init__(
        self,
        frame: Frame,
        clock: Callable[[], float],
        should_stop: Callable[[], bool],
        *,
        is_traced: bool,
        may_free: bool,
    ) -> None:
        self._frame = frame
        self._clock = clock
        self._should_stop = should_stop
        self._trace: list[TracedPicture] | None = [] if is_traced else None
        self._may_free = may_free
        self._reports: list[StepReport] = []
        self._degraded: list[str] = []
        self._error: RunError | None = None

    def ask(self, stages: Iterable[PlannedStage]) -> None:
        for stage in stages:
            if self._should_stop():
                stopped = Stopped(f"stopped before step {stage.name!r}")
                self._error = RunError.of(stopped, stage.name)
                return
            self._ask_one(stage)
            if self._error is not None:
                return
            if stage.frees and self._may_free:
                self._frame.forget(*stage.frees)

    def _ask_one(self, stage: PlannedStage) -> None:
        failed = skipped = None
        started = self._clock()
        try:
            if stage.when is not None and not stage.when(self._frame):
                skipped = f"not so: {getattr(stage.when, '__name__', stage.when)}"
            else:
                self._frame = self._answer(stage)
        except (Exception, SystemExit) as error:  # a step may fail in any way; the run reports it
            logger.debug("step %s failed", stage.name, exc_info=True)
            failed = RunError.of(error, stage.name)
            self._fail(stage, failed)
        ms = (self._clock() - started) * 1e3
        self._reports.append(StepReport(stage.name, ms, failed, skipped))

    def _answer(self, stage: PlannedStage) -> Frame:
        before = self._frame
        if self._trace is not None:
            # A late step shows what it shows to nobody.
            before = before.for_run(before.reference, is_traced=True)
        if stage.deadline_s is None:
            after = stage.step(before)
        else:
            after = in_time(functools.partial(stage.step, before), stage.deadline_s)
        if not isinstance(after, Frame):
            raise TypeError(f"the step returned {type(after).__name__}, not a Frame")
        if self._trace is not None:
            known = {shot.name for shot in self._trace}
            self._trace.extend(self._traced(stage, after, known, before.take_shown()))
        return after

    def _fail(self, stage: PlannedStage, failed: RunError) -> None:
        if stage.on_error == "fail":
            self._error = failed
        elif stage.on_error == "degrade":
            self._degraded.append(stage.name)

    def _traced(
        self,
        stage: PlannedStage,
        frame: Frame,
        known: set[str],
        shown: Iterable[tuple[str, Pixels]],
    ) -> Iterator[TracedPicture]:
        for name in frame.made if stage.reads is None else stage.reads:
            if name not in known:
                yield TracedPicture(stage.name, name, frame.picture(name))
        for name, pixels in shown:
            yield TracedPicture(stage.name, name, pixels)

    def result(self, base: Result) -> Result:
        frame = self._frame
        return dataclasses.replace(
            base,
            sha256=base.sha256 or frame.sha256,
            info=frame.info,
            findings=frame.findings,
            observations=frame.observations,
            derived=frame.derived,
            steps=tuple(self._reports),
            error=self._error,
            trace=None if self._trace is None else tuple(self._trace),
            degraded=tuple(self._degraded),
        )
