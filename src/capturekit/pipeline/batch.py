"""One pipeline over many pictures: threads or processes, with a bounded number in flight."""

import functools
import itertools
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from capturekit.errors import CaptureKitError
from capturekit.pipeline.result import Result, RunError
from capturekit.pipeline.source import Source, Taken, taken

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
    ahead = _Ahead(sources)
    with crew:
        while True:
            room = 0 if should_stop() else in_flight - len(tasks)
            tasks.extend(crew.start(source) for source in itertools.islice(ahead, room))
            if not tasks:
                ahead.end()
                return
            task = tasks.popleft() if ordered else _first_done(tasks)
            yield crew.result(task)


class _Ahead:
    """The sources, until one raises; that waits until the results before it are out."""

    def __init__(self, sources: Iterator[Source]) -> None:
        self._sources = sources
        self._failed: BaseException | None = None

    def __iter__(self) -> Iterator[Taken]:
        try:
            while self._failed is None:
                yield taken(next(self._sources))
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised in ``end``
            self._failed = error

    def end(self) -> None:
        if self._failed is not None:
            raise self._failed


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
        self._pipeline = pipeline
        self._pickled = _pickled(pipeline, "the pipeline")
        self._count = count
        self._pool = self._new_pool(count)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, source: Taken) -> _Task:
        # Pickled here: what does not pickle would hang the pool.
        pickled = _pickled(source, "the source")
        try:
            return _Task(source, self._pool.submit(_run_here, pickled))
        except BrokenProcessPool:
            self._pool = self._new_pool(self._count)
            return _Task(source, self._pool.submit(_run_here, pickled))

    def result(self, task: _Task) -> Result:
        try:
            answer = task.future.result()
        except BrokenProcessPool:
            answer = self._alone(task.source)
        return replace(answer, source=task.source, opener=self._pipeline.open)

    def _alone(self, source: Taken) -> Result:
        """Once more, with a process to itself: all that were in flight broke with the pool."""
        with self._new_pool(1) as pool:
            try:
                return pool.submit(_run_here, pickle.dumps(source)).result()
            except BrokenProcessPool:
                died = WorkerDied("the process that worked on this picture died, twice")
                return Result(self._pipeline.fingerprint, None, None, error=RunError.of(died))

    def _new_pool(self, count: int) -> ProcessPoolExecutor:
        # Not fork: a forked child of a process with threads may hang.
        return ProcessPoolExecutor(
            count,
            mp_context=get_context("spawn"),
            initializer=_receive_pipeline,
            initargs=(self._pickled, self._pipeline.fingerprint),
        )


def _pickled(thing: object, name: str) -> bytes:
    try:
        return pickle.dumps(thing)
    except Exception as error:  # objects may say in any way that they do not pickle
        raise TypeError(
            f"{name} cannot be sent to a process: {error}. Define its classes and functions at "
            "the top of a module, or use threads"
        ) from error


class _Here:
    """In a process that was started for it: the pipeline, as it was sent."""

    pickled = b""
    fingerprint = ""
    pipeline: "ProcessingPipeline | None" = None


def _receive_pipeline(pickled: bytes, fingerprint: str) -> None:
    _Here.pickled, _Here.fingerprint = pickled, fingerprint


def _run_here(source: bytes) -> Result:
    """Never raises: what cannot be unpickled or sent back is told in the result."""
    try:
        if _Here.pipeline is None:
            _Here.pipeline = pickle.loads(_Here.pickled)  # noqa: S301  # from our own parent
        result: Result = _Here.pipeline.run(pickle.loads(source))  # noqa: S301  # the same
        _pickled(result, "a finding")
    except Exception as error:  # noqa: BLE001  # a class may do anything when it is unpickled
        failed = replace(RunError.of(error), cause=None)
        return Result(_Here.fingerprint, None, None, error=failed)
    return result
