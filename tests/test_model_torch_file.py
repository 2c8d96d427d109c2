"""A PyTorch file is tensors or it is refused: nothing that it names is looked up, let alone called."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_files import random_tensors, torch_file

from captune.model.torch_file import TorchFileError, read_tensors

TENSORS = random_tensors({"a.weight": (3, 2, 1, 4), "a.bias": (3,), "empty": (0, 5)}) | {
    "turned": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "count": np.array(7, np.int64),
    "half": np.array([1.5, -2], np.float16),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read_as_they_were_written(zipped: bool) -> None:
    tensors = read_tensors(torch_file(TENSORS, zipped=zipped))
    assert list(tensors) == list(TENSORS)
    for name, values in TENSORS.items():
        assert tensors[name].dtype == values.dtype and (tensors[name] == values).all()
        assert tensors[name].shape == values.shape


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def hostile(mark: Path) -> dict[str, bytes]:
    command = f"touch {mark}"
    return {
        "os.system": pickle.dumps(Calls(os.system, command), 2),
        "posix.system, protocol 4": pickle.dumps(Calls(os.system, command), 4),
        "eval": pickle.dumps(Calls(eval, f"__import__('os').system('{command}')"), 2),
        "getattr of what is known": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        "attribute of what is known": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        "another name of torch": b"\x80\x02ctorch\nload\n.",
        "other storage": b"\x80\x02ctorch\n_utils\n.",
        "instance by its class": b"(cposix\nsystem\n(S'" + command.encode() + b"'\no.",
        "instance by its name": b"(S'" + command.encode() + b"'\niposix\nsystem\n.",
        "registry of extensions": b"\x80\x02\x82\x01.",
        "memory of a billion parts": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "call of a text": b"\x80\x02ctorch\nFloatStorage\n(K\x01tR.",
        "attribute set on what is known": b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02db.",
        "no dictionary": pickle.dumps([1, 2], 2),
        "dictionary of numbers": pickle.dumps({"a": 1}, 2),
        "nothing": b"",
        "no end": b"\x80\x02K\x01",
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", hostile(Path("mark")))
def test_pickle_of_anything_but_tensors_is_refused_and_runs_nothing(kind: str, zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(TorchFileError):
        read_tensors(torch_file(TENSORS, zipped=zipped, content=hostile(mark)[kind]))
    assert not mark.exists()


@pytest.mark.parametrize("place", range(3))
def test_hostile_pickle_is_refused_wherever_it_stands(place: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts[place] = hostile(mark)["os.system"]
    with pytest.raises(TorchFileError):
        read_tensors(b"".join(parts))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (4,), (1,)), (1, (3,), (1,)), (0, (2, 2), (1, 2)), (0, (10**6,), (0,)), (-1, (3,), (1,)), (0, (3,), (-1,))],
)
def test_tensor_beyond_its_values_is_refused(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x03NtQ"
    record = storage + number(offset) + numbers(shape) + numbers(strides)
    content = b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + record + b"\x89}tRs."
    with pytest.raises(TorchFileError, match="a does not lie within"):
        read_tensors(torch_file({"a": np.zeros(3, np.float32)}, zipped=True, content=content))


def test_compressed_or_big_endian_files_are_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(TorchFileError, match="compressed"):
        read_tensors(stream.getvalue())
    stream = io.BytesIO(torch_file(TENSORS, zipped=True))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("archive/byteorder", b"big")
    with pytest.raises(TorchFileError, match="big-endian"):
        read_tensors(stream.getvalue())
    content = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}))
    with pytest.raises(TorchFileError, match="big-endian"):
        read_tensors(content)


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_file_is_tensors_or_refused(zipped: bool, changes: list[tuple[int, int]]) -> None:
    content = bytearray(torch_file(TENSORS, zipped=zipped))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        tensors = read_tensors(bytes(content))
    except TorchFileError:
        return
    assert all(isinstance(values, np.ndarray) and values.dtype.kind in "fiub" for values in tensors.values())
