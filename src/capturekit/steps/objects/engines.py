"""The two libraries that run a model: onnxruntime, and OpenCV's where that is not installed.

onnxruntime comes first: OpenCV takes 1.3 times as long on one core
(``tests/benchmarks/bench_objects.py``). A model is loaded when its first picture comes, once a
process, however many threads and steps share it.
"""

import importlib.util
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.errors import ConfigError, MissingExtra
from capturekit.pipeline import ModelFile
from capturekit.steps.objects.modelfile import header_of, read_bytes

MOST_LOADED: Final = 4
"""Models kept in memory; the one that was not used for longest goes first."""

Batch = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8]


class Backend(StrEnum):
    """Which library runs the model. Their answers agree to about six digits."""

    AUTO = "auto"
    """onnxruntime if it is installed, else OpenCV."""
    ONNXRUNTIME = "onnxruntime"
    """MissingExtra without it."""
    OPENCV = "opencv"
    """``cv2.dnn``. One picture at a time, on as many threads as OpenCV likes."""


class Engine(Protocol):
    """A loaded model. May be shared by threads."""

    takes_batches: bool
    """Whether several pictures in one run are safe, when the model takes any number."""

    def run(self, batch: Batch) -> list[NDArray[np.float32]]:
        """All outputs for a (N, 3, H, W) input; ConfigError when the model cannot be run."""
        ...


@dataclass(frozen=True, slots=True)
class Loading:
    """What decides how a model is loaded."""

    model: ModelFile
    backend: Backend
    threads: int


def loaded(wanted: Loading) -> Engine:
    """The model, loaded by this process now or before.

    Raises ConfigError when the library refuses it, MissingExtra when there is none.
    """
    key = (wanted.model.sha256, wanted.backend, wanted.threads)
    with _LOADED.lock:
        engine = _LOADED.engines.pop(key, None) or _load(wanted)
        _LOADED.engines[key] = engine
        while len(_LOADED.engines) > MOST_LOADED:
            _LOADED.engines.popitem(last=False)
    return engine


class _Loaded:
    def __init__(self) -> None:
        self.forget()
        # A forked child has none of the threads that loaded models run on, or that holds a lock.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.lock = threading.Lock()
        self.engines: OrderedDict[tuple[str, Backend, int], Engine] = OrderedDict()


_LOADED = _Loaded()


def _load(wanted: Loading) -> Engine:
    has_runtime = importlib.util.find_spec("onnxruntime") is not None
    if wanted.backend is Backend.OPENCV or (wanted.backend is Backend.AUTO and not has_runtime):
        return _OpenCv(wanted)
    if not has_runtime:
        raise MissingExtra("running a model with onnxruntime", "onnx")
    return _OnnxRuntime(wanted)


class _OnnxRuntime:
    takes_batches = True

    def __init__(self, wanted: Loading) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = wanted.threads
        options.inter_op_num_threads = 1
        # Threads that wait for work would take a core from the pipeline's other pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what goes wrong is raised
        self._input = header_of(wanted.model).input_name
        data = read_bytes(wanted.model)
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no other base
            raise _refused(wanted.model, error) from error
        self._model = wanted.model

    def run(self, batch: Batch) -> list[NDArray[np.float32]]:
        try:
            outputs = self._session.run(None, {self._input: batch})
        except Exception as error:  # its errors have no other base
            raise _refused(self._model, error) from error
        return [np.asarray(output, np.float32) for output in outputs]


class _OpenCv:
    takes_batches = False

    def __init__(self, wanted: Loading) -> None:
        data = np.frombuffer(read_bytes(wanted.model), np.uint8)
        try:
            self._net = cv2.dnn.readNetFromONNX(data)
        except cv2.error as error:
            raise _refused(wanted.model, error) from error
        self._model = wanted.model
        self._lock = threading.Lock()

    def run(self, batch: Batch) -> list[NDArray[np.float32]]:
        try:
            with self._lock:
                self._net.setInput(batch)
                outputs = self._net.forward(self._net.getUnconnectedOutLayersNames())
        except cv2.error as error:
            raise _refused(self._model, error) from error
        return [np.array(output, np.float32) for output in outputs]


def _refused(model: ModelFile, error: Exception) -> ConfigError:
    return ConfigError(f"the model {model.path} cannot be run: {' '.join(str(error).split())}")
