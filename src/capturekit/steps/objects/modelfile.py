"""What an ONNX file says about itself, read without any library that would run it.

Only the few fields needed are read, from the protobuf as it lies in the file. That makes the
two engines see one and the same model, and keeps from both what no detector needs: weights in
other files, and operators in other libraries.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from capturekit.errors import ConfigError
from capturekit.pipeline import ModelFile

MAX_MODEL_BYTES = 1 << 30
"""Large detectors have 300 MB; protobuf ends at twice this."""
MAX_NAMES_CHARS = 200_000
"""Of the class names in the metadata. The 1,203 classes of LVIS have 30,000."""
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that the engines bring along; any other needs a library of the model's own."""

ELEMENT_TYPES = {1: "float32", 2: "uint8", 10: "float16"}
"""Inputs we can fill, by their number in ``TensorProto.DataType``."""


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """The one picture input of a model, and its metadata."""

    input_name: str
    dtype: str
    """``float32``, ``float16`` or ``uint8``."""
    shape: tuple[int | None, ...]
    """Batch, channels, height, width; None where the model takes any."""
    names: tuple[str, ...]
    """The classes in order, from the metadata entry ``names``; empty without one."""


def read_bytes(model: ModelFile) -> bytes:
    """The file's content; ConfigError when it is not what it was when the step was made."""
    try:
        if model.path.stat().st_size > MAX_MODEL_BYTES:
            raise ConfigError(f"{model.path} has more than {MAX_MODEL_BYTES:,} bytes")
        data = model.path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the model cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != model.sha256:
        raise ConfigError(f"{model.path} changed since the pipeline was built: build it again")
    return data


@functools.lru_cache(maxsize=32)
def header_of(model: ModelFile) -> ModelHeader:
    """Reads the file once; ConfigError, with the reason, when it is no model we can run."""
    try:
        return parse(read_bytes(model))
    except ValueError as error:
        raise ConfigError(f"{model.path} is no detector we can run: {error}") from error


def parse(data: bytes) -> ModelHeader:
    """The header of a serialised ``ModelProto``; ValueError says what is wrong with it."""
    graphs: list[memoryview] = []
    metadata: dict[str, str] = {}
    for number, value in _fields(memoryview(data)):
        if number == 7:
            graphs.append(_bytes(value))
        elif number == 14:
            entry = dict(_fields(_bytes(value)))
            metadata[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
    if not graphs:
        raise ValueError("it holds no graph, so it is not ONNX")
    for graph in graphs:
        _refuse_foreign_parts(graph)
    name, elements, shape = _picture_input(graphs)
    if len(shape) != 4 or shape[1] not in (3, None):
        raise ValueError(f"its input {name!r} is {shape}, not (batch, 3, height, width)")
    if elements not in ELEMENT_TYPES:
        raise ValueError(
            f"its input {name!r} holds neither {', nor '.join(ELEMENT_TYPES.values())}"
        )
    return ModelHeader(name, ELEMENT_TYPES[elements], shape, _names(metadata.get("names", "")))


def _picture_input(graphs: list[memoryview]) -> tuple[str, int, tuple[int | None, ...]]:
    weights: set[str] = set()
    inputs: list[memoryview] = []
    for graph in graphs:
        for number, value in _fields(graph):
            if number == 5:
                weights.add(_text(dict(_fields(_bytes(value))).get(8, b"")))
            elif number == 11:
                inputs.append(_bytes(value))
    # Files of before 2019 list weights among the inputs.
    open_inputs = [found for found in map(_input, inputs) if found[0] not in weights]
    if len(open_inputs) != 1:
        raise ValueError(f"it has {len(open_inputs)} inputs, not one picture")
    return open_inputs[0]


def _input(value: memoryview) -> tuple[str, int, tuple[int | None, ...]]:
    """Name, element type and shape of a ``ValueInfoProto``."""
    fields = dict(_fields(value))
    tensor = dict(_fields(_bytes(dict(_fields(_bytes(fields.get(2, b"")))).get(1, b""))))
    dimensions = [
        dict(_fields(_bytes(entry)))
        for number, entry in _fields(_bytes(tensor.get(2, b"")))
        if number == 1
    ]
    elements = tensor.get(1, 0)
    shape = tuple(_size(dimension.get(1)) for dimension in dimensions)
    return _text(fields.get(1, b"")), elements if isinstance(elements, int) else 0, shape


def _size(value: "int | memoryview | None") -> int | None:
    return value if isinstance(value, int) and 0 < value < 1 << 31 else None


def _refuse_foreign_parts(graph: memoryview) -> None:
    """ValueError for weights outside the file, and for operators of unknown libraries."""
    pending = [graph]
    while pending:
        for number, value in _fields(pending.pop()):
            if number == 1:
                pending += _refuse_foreign_node(_bytes(value))
            elif number in (5, 15):
                _refuse_external(_bytes(value), is_sparse=number == 15)


def _refuse_foreign_node(node: memoryview) -> list[memoryview]:
    """The graphs inside a node, such as the branches of an If."""
    graphs: list[memoryview] = []
    operator = ""
    for number, value in _fields(node):
        if number == 4:
            operator = _text(value)
        elif number == 7 and _text(value) not in KNOWN_DOMAINS:
            raise ValueError(f"its operator {operator!r} is of the library {_text(value)!r}")
        elif number == 5:
            for part, content in _fields(_bytes(value)):
                if part in (5, 10, 22, 23):
                    _refuse_external(_bytes(content), is_sparse=part > 10)
                elif part in (6, 11):
                    graphs.append(_bytes(content))
    return graphs


def _refuse_external(tensor: memoryview, *, is_sparse: bool) -> None:
    for number, value in _fields(tensor):
        if is_sparse and number in (1, 2):
            _refuse_external(_bytes(value), is_sparse=False)
        elif not is_sparse and (number == 13 or (number == 14 and value != 0)):
            raise ValueError("its weights are in another file: save it as a single one")


def _names(text: str) -> tuple[str, ...]:
    """Class names of ``{0: 'tin', 1: 'box'}`` or a list of them, as Ultralytics writes it."""
    if not text:
        return ()
    if len(text) > MAX_NAMES_CHARS:
        raise ValueError(f"its class names have more than {MAX_NAMES_CHARS:,} characters")
    try:
        found = ast.literal_eval(text)
        entries = dict(enumerate(found)) if isinstance(found, list | tuple) else dict(found)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"its class names are not a list: {text[:60]!r}") from error
    if sorted(entries) != list(range(len(entries))):
        raise ValueError("its class names are not numbered from 0 without gaps")
    return tuple(str(entries[number]) for number in range(len(entries)))


# Protobuf, https://protobuf.dev/programming-guides/encoding/


def _fields(message: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """Number and value of each field; ValueError where the bytes are no message."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _varint(message, at)
        if length is None or at + length > end:
            raise ValueError("its bytes are not those of an ONNX file, or end too early")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("its bytes are not those of an ONNX file, or end too early")


def _bytes(value: "int | memoryview | bytes") -> memoryview:
    if isinstance(value, int):
        raise ValueError("its bytes are not those of an ONNX file")  # noqa: TRY004  # the file's fault
    return memoryview(value)


def _text(value: "int | memoryview | bytes") -> str:
    return bytes(_bytes(value)).decode(errors="replace")
