"""Files as PyTorch writes them, made without it: tensors by name, in a zip or one after another."""

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_KINDS = {"<f4": "FloatStorage", "<i8": "LongStorage", "<f2": "HalfStorage"}


class _Tensor:
    def __init__(self, key: str, values: Array) -> None:
        self.key, self.values = key, values


def _modules() -> dict[str, ModuleType]:
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for name in _KINDS.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    return {"torch": torch, "torch._utils": utils}


def _pickled(content: object) -> bytes:
    modules = _modules()

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            if not isinstance(item, tuple) or len(item) != 2 or item[0] != "storage":
                return None
            tensor = item[1]
            kind = getattr(modules["torch"], _KINDS[tensor.values.dtype.str])
            return ("storage", kind, tensor.key, "cpu", tensor.values.size, None)

        def reducer_override(self, item: Any) -> Any:
            if not isinstance(item, _Tensor):
                return NotImplemented
            strides = tuple(step // item.values.itemsize for step in item.values.strides)
            record = (("storage", item), 0, item.values.shape, strides, False, OrderedDict())
            return modules["torch._utils"]._rebuild_tensor_v2, record

    stream = io.BytesIO()
    with mock.patch.dict(sys.modules, modules):
        Pickler(stream, 2).dump(content)
    return stream.getvalue()


def torch_file(tensors: Mapping[str, Array], *, zipped: bool, content: bytes | None = None) -> bytes:
    """Tensors as a file. content: a pickle to stand in the place of theirs."""
    records = {name: _Tensor(str(place), values) for place, (name, values) in enumerate(tensors.items())}
    described = _pickled(OrderedDict(records)) if content is None else content
    stream = io.BytesIO()
    raw = {record.key: record.values.T.tobytes() if _turned(record.values) else record.values.tobytes()
           for record in records.values()}  # fmt: skip
    if zipped:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", described)
            for key, values in raw.items():
                archive.writestr(f"archive/data/{key}", values)
        return stream.getvalue()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        stream.write(pickle.dumps(part, 2))
    stream.write(described + pickle.dumps(list(raw), 2))
    for record in records.values():
        stream.write(struct.pack("<q", record.values.size) + raw[record.key])
    return stream.getvalue()


def _turned(values: Array) -> bool:
    """Whether its values lie in the order of its columns."""
    return bool(values.flags.f_contiguous and not values.flags.c_contiguous)


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """float32, small; variances above zero."""
    random = np.random.default_rng(seed)
    return {name: np.abs(random.normal(0, 0.1, shape)).astype(np.float32) for name, shape in shapes.items()}
