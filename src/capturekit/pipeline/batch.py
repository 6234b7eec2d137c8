"""One pipeline over many pictures: threads or processes, with a bounded number in flight."""

import functools
import itertools
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from capturekit.errors import CaptureKitError
from capturekit.pipeline.result import Result, RunError, Source, Taken, taken

if TYPE_CHECKING:
    from capturekit.pipeline.run import ProcessingPipeline

Mode: TypeAlias = Literal["threads", "processes"]
IN_FLIGHT_PER_WORKER: Final = 2
"""Pictures taken ahead of the result that is handed out next."""


class WorkerDied(CaptureKitError):
    """The process that worked on this picture ended without an answer, twice."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A picture in flight."""

    source: Taken
    future: Future[Result]


def run_many(
    pipeline: "ProcessingPipeline",
    sources: Iterable[Source],
    *,
    workers: int | None,
    mode: Mode,
    ordered: bool,
    progress: Callable[[int], None] | None,
    should_stop: Callable[[], bool],
) -> Generator[Result, None, None]:
    """See ``ProcessingPipeline.map``. Arguments are checked at once, not at the first result."""
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    if count < 1:
        raise ValueError(f"workers is {workers}; it must be 1 or more")
    if mode not in ("threads", "processes"):
        raise ValueError(f"mode is {mode!r}; it must be 'threads' or 'processes'")
    crew: _Threads | _Processes
    if mode == "threads":
        crew = _Threads(pipeline, count, should_stop)
    else:
        crew = _Processes(pipeline, count)
    results = _results(
        crew, iter(sources), count * IN_FLIGHT_PER_WORKER, ordered=ordered, should_stop=should_stop
    )
    return results if progress is None else _counted(results, progress)


def _counted(
    results: Generator[Result, None, None], progress: Callable[[int], None]
) -> Generator[Result, None, None]:
    with closing(results):
        for count, result in enumerate(results, 1):
            progress(count)
            yield result


def _results(
    crew: "_Threads | _Processes",
    sources: Iterator[Source],
    in_flight: int,
    *,
    ordered: bool,
    should_stop: Callable[[], bool],
) -> Generator[Result, None, None]:
    tasks: deque[_Task] = deque()
    with crew:
        while True:
            room = 0 if should_stop() else in_flight - len(tasks)
            tasks.extend(crew.start(taken(source)) for source in itertools.islice(sources, room))
            if not tasks:
                return
            task = tasks.popleft() if ordered else _first_done(tasks)
            yield crew.result(task)


def _first_done(tasks: deque[_Task]) -> _Task:
    wait([task.future for task in tasks], return_when=FIRST_COMPLETED)
    done = next(task for task in tasks if task.future.done())
    tasks.remove(done)
    return done


class _Threads:
    """Runs the pipeline in threads of this process."""

    def __init__(
        self, pipeline: "ProcessingPipeline", count: int, should_stop: Callable[[], bool]
    ) -> None:
        self._pipeline = pipeline
        self._should_stop = should_stop
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="picture")
        self._leaving = threading.Event()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, source: Taken) -> _Task:
        work = functools.partial(self._pipeline.run, source, should_stop=self._is_over)
        return _Task(source, self._pool.submit(work))

    def _is_over(self) -> bool:
        return self._leaving.is_set() or self._should_stop()

    def result(self, task: _Task) -> Result:
        return task.future.result()


class _Processes:
    """Runs the pipeline in processes, and finds out which picture killed one."""

    def __init__(self, pipeline: "ProcessingPipeline", count: int) -> None:
        self._fingerprint = pipeline.fingerprint
        try:
            self._pickled = pickle.dumps(pipeline)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"the pipeline cannot be sent to a process: {error}. Define its steps at the top "
                "of a module, or use threads"
            ) from error
        self._count = count
        self._pool = self._new_pool(count)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, source: Taken) -> _Task:
        try:
            return _Task(source, self._pool.submit(_run_here, source))
        except BrokenProcessPool:
            self._pool = self._new_pool(self._count)
            return _Task(source, self._pool.submit(_run_here, source))

    def result(self, task: _Task) -> Result:
        try:
            return task.future.result().arrived(task.source)
        except BrokenProcessPool:
            return self._alone(task.source)

    def _alone(self, source: Taken) -> Result:
        """Once more, with a process to itself: all that were in flight broke with the pool."""
        pool: Executor
        with self._new_pool(1) as pool:
            try:
                return pool.submit(_run_here, source).result().arrived(source)
            except BrokenProcessPool:
                died = WorkerDied("the process that worked on this picture died, twice")
                return Result(self._fingerprint, None, None, error=RunError.of(died), source=source)

    def _new_pool(self, count: int) -> ProcessPoolExecutor:
        # Not fork: a forked child of a process with threads may hang.
        return ProcessPoolExecutor(
            count,
            mp_context=get_context("spawn"),
            initializer=_receive_pipeline,
            initargs=(self._pickled,),
        )


_here: "list[ProcessingPipeline]" = []
"""In a process that was started for it: its pipeline."""


def _receive_pipeline(pickled: bytes) -> None:
    _here.append(pickle.loads(pickled))  # noqa: S301  # from our own parent


def _run_here(source: Taken) -> Result:
    return _here[0].run(source).portable()
