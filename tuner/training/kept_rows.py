"""Values of the rows of a data set that a network gave once, kept beside the data for all that train on them.

DATA/features/KEY/00000.npy   of the first 1,024 rows, (1024, ..) float16, memory-mapped by its readers, and behind them
                              the SHA-256 of all before it; 00001.npy of the next, and so on
DATA/features/KEY/00000.lock  held by the process that computes them
DATA/features/KEY/rows        how many rows there are to be, for who watches

KEY tells all that they follow from. Each file appears when it is whole: what is killed goes on with the next one, and
all processes that wait for values compute them together, one file each at a time. A damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.errors import one_line
from captune.files import LockedError, locked, written_aside

ROWS = 1024  # in a file: what a killed process has computed of one is lost
_COUNT = "rows"
_SUM_BYTES = 32
_LARGEST = float(np.finfo(np.float16).max)


class Gather:
    """Values of all rows, some of which are read out of their files' memory maps."""

    def __init__(self, files: list[NDArray[np.float16]]) -> None:
        self._files = files
        self.shape = (sum(map(len, files)), *files[0].shape[1:])

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.float16]:
        """(b, ..) of the rows (b,) by their numbers."""
        rows = np.empty((len(numbers), *self.shape[1:]), np.float16)
        for row, number in enumerate(numbers.tolist()):
            rows[row] = self._files[number // ROWS][number % ROWS]
        return rows


class KeptRows(ABC):
    """Values of `count` rows, each of `shape`, and the folder where they are kept.

    Attributes:
        what: they are, in a word. otherwise: how a search does without them.
    """

    what: str
    otherwise: str

    def __init__(self, folder: Path, count: int, shape: tuple[int, ...]) -> None:
        self.folder, self.count, self.shape = folder, count, shape

    @abstractmethod
    def values(self, first: int, count: int) -> Iterator[NDArray[np.floating]]:
        """Of `count` rows from `first` on, any number at a time."""

    def computed(self) -> Gather:
        """All of them, computed where they are not there yet, by this process and others that ask at the same time.

        Raises:
            DataError: they cannot be written beside the data.
            WeightsError: see there.
        """
        numbers = range(-(-self.count // ROWS))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            missing = [number for number in numbers if not _is_whole(self._path(number))]
            if missing:  # else nothing is written, as the folder may be for reading alone
                (self.folder / _COUNT).write_text(str(self.count))
            while missing:
                held = [number for number in missing if not self._compute_unless_held(number)]
                if held:  # others are at them; one that dies gives back its lock
                    with locked(self._path(held[0]).with_suffix(".lock"), wait=True):
                        pass
                missing = [number for number in missing if not _is_whole(self._path(number))]
        except OSError as error:
            raise DataError(
                f"{self.what} cannot be kept in {self.folder.parent} ({one_line(error)}); make it "
                f"writable, or {self.otherwise}"
            ) from None
        return Gather([np.load(self._path(number), mmap_mode="r") for number in numbers])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.npy"

    def _compute_unless_held(self, number: int) -> bool:
        """Whether the file is there or was computed now; not where another process is at it."""
        path = self._path(number)
        try:
            with locked(path.with_suffix(".lock")):
                if not _is_whole(path):
                    self._compute(path, number * ROWS)
        except LockedError:
            return False
        return True

    def _compute(self, path: Path, first: int) -> None:
        count = min(ROWS, self.count - first)
        shape = (count, *self.shape)
        # Written, not mapped: on a full disk that is an error, where a map would end the process.
        with written_aside(path) as aside, aside.open("wb") as file:
            digest = hashlib.sha256()

            def write(content: bytes) -> None:
                file.write(content)
                digest.update(content)

            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            write_array_header_1_0(SimpleNamespace(write=write), header)
            for values in self.values(first, count):
                write(np.clip(values, -_LARGEST, _LARGEST).astype("<f2").tobytes())
            file.write(digest.digest())


def under_way(data: Path, since: float) -> tuple[int, int] | None:
    """Of the values beside a data set that were begun last: how many rows are there, and how many there are to be; None
    where nothing is computed.

    Args:
        since: seconds of the clock; what was begun before is not looked at.
    """
    began = [(lock.stat().st_mtime, lock.parent) for lock in (data / "features").glob("*/*.lock")]
    last, folder = max(began, default=(0.0, data))
    with suppress(OSError, ValueError):  # it is being written, or taken away
        count = int((folder / _COUNT).read_text()) if last >= since else 0
        there = min(count, ROWS * sum(1 for _ in folder.glob("*.npy")))
        return (there, count) if there < count else None
    return None


def folder_of(data: PreparedData, name: str, inputs: dict[str, Any]) -> Path:
    """Where values are kept that follow from the data, the framework and `inputs`. name: for people."""
    import keras

    everything = {
        "format": 3,  # of what `_compute` does
        "keras": [keras.__version__, keras.backend.backend()],
        "data": data.manifest.fingerprint,
        **inputs,
    }
    digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
    return data.path / "features" / f"{name}-{digest[:16]}"


def _is_whole(path: Path) -> bool:
    """Whether values are there as they were written; read as a whole once a process."""
    return path.is_file() and _is_as_written(path, path.stat().st_mtime_ns)


@cache
def _is_as_written(path: Path, time: int) -> bool:
    if path.stat().st_size <= _SUM_BYTES:
        return False
    content = np.memmap(path, np.uint8, "r")
    return hashlib.sha256(content[:-_SUM_BYTES].data).digest() == content[-_SUM_BYTES:].tobytes()
