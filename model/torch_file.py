"""Tensors of a PyTorch file (.pth, .pt, .bin), read without PyTorch and without running anything that it says.

Such a file is a pickle that tells how tensors are put together of raw arrays, and these arrays: in a zip, or, as
written before PyTorch 1.6, one after another. The pickle may name a dictionary, a tensor's record and kinds of arrays.
Each stands for something of ours that does nothing; whatever else it names ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_MAGIC = 0x1950A86A20F9469CFC6C  # what files without a zip begin with
_KINDS = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
}
_MOST_PARTS = 10**6  # that a pickle numbers


class TorchFileError(ValueError):
    """No file of tensors alone."""


def read_tensors(content: bytes) -> dict[str, Array]:
    """All tensors of a file by their names.

    Raises:
        TorchFileError: it is another file, it holds more than a dictionary of tensors, or it is damaged.
    """
    try:
        read = _of_zip if zipfile.is_zipfile(io.BytesIO(content)) else _of_stream
        tensors, storage = read(io.BytesIO(content))
        if not isinstance(tensors, dict):
            raise TorchFileError("it holds no dictionary of tensors")
        return {name: _array(name, record, storage) for name, record in tensors.items()}
    except TorchFileError:
        raise
    except Exception as error:  # a pickle of somebody's making can end in any error
        raise TorchFileError(f"it cannot be read ({type(error).__name__}: {error})") from None


class _Storage(NamedTuple):
    """A raw array: its kind, under which key, how many values. No attribute of it can be set."""

    dtype: str
    key: str
    length: int


def _load(stream: IO[bytes]) -> Any:
    """The next pickle. It is looked through first: its numbers alone could take all memory, others set attributes."""
    start = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _OPCODES or (opcode.name == "LONG_BINPUT" and int(argument or 0) > _MOST_PARTS):
            raise TorchFileError(f"its pickle has a part {opcode.name}, and that of tensors has not")
    stream.seek(start)
    return _Reader(stream).load()


class _Reader(pickle.Unpickler):
    """Knows names of its own alone. They are made for each file, so that nothing a file does to them lasts."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

        class Names(dict[Any, Any]):
            def __setstate__(self, state: object) -> None:
                """What PyTorch says of versions."""

        class Record(tuple[Any, ...]):
            def __new__(cls, *parts: object) -> Record:
                return super().__new__(cls, parts)

        self._known: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): Names,
            ("torch._utils", "_rebuild_tensor_v2"): Record,
        }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _KINDS:
            return _KINDS[name]  # a text: it cannot be called
        try:
            return self._known[module, name]
        except KeyError:
            raise TorchFileError(f"it asks for {module}.{name}, and tensors alone are read") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in _KINDS.values() or any(view) or type(count) is not int:
            raise TorchFileError("it holds arrays of an unknown kind")
        return _Storage(dtype, str(key), count)


Raw = Callable[[_Storage], bytes]


def _of_zip(stream: IO[bytes]) -> tuple[object, Raw]:
    archive = zipfile.ZipFile(stream)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise TorchFileError("it is compressed, and what PyTorch writes is not")
    (pickled,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
    folder = pickled.rpartition("/")[0]
    if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
        raise TorchFileError("its numbers are big-endian")
    tensors = _load(io.BytesIO(archive.read(pickled)))
    return tensors, lambda storage: archive.read(f"{folder}/data/{storage.key}")


def _of_stream(stream: IO[bytes]) -> tuple[object, Raw]:
    magic, _, machine = (_load(stream) for _ in range(3))
    if magic != _MAGIC:
        raise TorchFileError("it is no file of PyTorch's")
    if machine.get("little_endian") is not True:
        raise TorchFileError("its numbers are big-endian")
    tensors, keys = _load(stream), _load(stream)
    kinds = {record[0].key: np.dtype(record[0].dtype) for record in tensors.values()}
    raw: dict[str, bytes] = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        raw[key] = stream.read(max(0, count) * kinds[key].itemsize)
    return tensors, lambda storage: raw[storage.key]


def _array(name: object, record: Any, raw: Raw) -> Array:
    """The tensor that a record describes: where it begins in its raw array, its shape, and steps along each axis."""
    storage, offset, shape, strides, *_ = record
    if not isinstance(name, str) or not isinstance(storage, _Storage):
        raise TorchFileError("it holds something beside tensors")
    values = np.frombuffer(raw(storage), storage.dtype)
    numbers = (offset, *shape, *strides)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if (
        any(type(number) is not int or number < 0 for number in numbers)
        or len(values) != storage.length
        or math.prod(shape) > len(values)
        or (math.prod(shape) and last >= len(values))
    ):
        raise TorchFileError(f"{name} does not lie within its values")
    within = values[offset:] if math.prod(shape) else values[:0]
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(within, shape, steps, writeable=False).copy()
