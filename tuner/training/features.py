"""Features of a frozen backbone, computed once for all trials and kept beside the data.

DATA/features/KEY/00000.npy   of the first 1,024 pictures, (pictures, ..) float16, memory-mapped by its readers, and
                              behind them the SHA-256 of all before it; 00001.npy of the next, and so on
DATA/features/KEY/00000.lock  held by the process that computes them

KEY tells all that they follow from. Each file appears when it is whole: what is killed goes on with the next one, and
all processes that wait for features compute them together, one file each at a time. A damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.files import LockedError, locked, written_aside
from captune.model.backbones import weights_path
from captune.model.config import ImageConfig
from captune.model.frozen_features import FrozenFeatures

if TYPE_CHECKING:
    import keras

_BATCH = 64
_PICTURES = 1024  # in a file: what a killed process has computed of one is lost
_SUM_BYTES = 32
_LARGEST = float(np.finfo(np.float16).max)


class Gather:
    """Features of all pictures, rows of which are read out of their files' memory maps."""

    def __init__(self, files: list[NDArray[np.float16]]) -> None:
        self._files = files
        self.shape = (sum(map(len, files)), *files[0].shape[1:])

    def __getitem__(self, pictures: NDArray[np.int64]) -> NDArray[np.float16]:
        """(b, ..) of the pictures (b,) by their numbers."""
        rows = np.empty((len(pictures), *self.shape[1:]), np.float16)
        for row, picture in enumerate(pictures.tolist()):
            rows[row] = self._files[picture // _PICTURES][picture % _PICTURES]
        return rows


@dataclass(frozen=True)
class FeatureFiles:
    """What a backbone makes of every picture of a data set, and the folder where that is kept."""

    data: PreparedData
    image: ImageConfig
    features: FrozenFeatures
    folder: Path

    @classmethod
    def of(cls, data: PreparedData, image: ImageConfig, features: FrozenFeatures) -> FeatureFiles:
        """image: the encoder that the features are of."""
        return cls(data, image, features, data.path / "features" / _key(data, features))

    def computed(self) -> Gather:
        """All of them, computed where they are not there yet, by this process and others that ask at the same time.

        Raises:
            DataError: they cannot be written beside the data.
            WeightsError: see there.
        """
        numbers = range(-(-self.data.num_pictures // _PICTURES))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            missing = [number for number in numbers if not _is_whole(self._path(number))]
            while missing:
                held = [number for number in missing if not self._compute_unless_held(number)]
                if held:  # others are at them; one that dies gives back its lock
                    with locked(self._path(held[0]).with_suffix(".lock"), wait=True):
                        pass
                missing = [number for number in missing if not _is_whole(self._path(number))]
        except OSError as error:
            raise DataError(
                f"features cannot be kept in {self.folder.parent} ({error.strerror or error}); make it writable, "
                "or search with train.cached_features: false"
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
                    self._compute(path, number * _PICTURES)
        except LockedError:
            return False
        return True

    def _compute(self, path: Path, first: int) -> None:
        count = min(_PICTURES, self.data.num_pictures - first)
        shape = (count, *self.features.shape)
        # Written, not mapped: on a full disk that is an error, where a map would end the process.
        with written_aside(path) as aside, aside.open("wb") as file, ThreadPoolExecutor(1) as reader:
            digest = hashlib.sha256()

            def write(content: bytes) -> None:
                file.write(content)
                digest.update(content)

            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            write_array_header_1_0(SimpleNamespace(write=write), header)
            starts = range(first, first + count, _BATCH)
            ahead = reader.submit(self._pictures, starts[0])
            for following in (*starts[1:], None):
                pictures = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._pictures, following)
                values = np.asarray(self._network.predict_on_batch(pictures))
                write(np.clip(values, -_LARGEST, _LARGEST).astype("<f2").tobytes())
            file.write(digest.digest())

    def _pictures(self, start: int) -> NDArray[np.uint8]:
        last = (start // _PICTURES + 1) * _PICTURES
        pictures = self.data.pictures(start, min(_BATCH, last - start))
        return pictures[:, :, ::-1] if self.features.mirrored else pictures

    @cached_property
    def _network(self) -> keras.Model:
        import keras

        from captune.model.image_encoder import features
        from captune.model.training import put_through

        pixels = keras.Input((self.image.side, self.image.side, 3), dtype="uint8", name="image")
        network = keras.Model(pixels, features(pixels, self.image, load_weights=True))
        put_through(network, self.features.storage)
        return network


def _is_whole(path: Path) -> bool:
    """Whether the features are there as they were written; read as a whole once a process."""
    return path.is_file() and _is_as_written(path, path.stat().st_mtime_ns)


@cache
def _is_as_written(path: Path, time: int) -> bool:
    if path.stat().st_size <= _SUM_BYTES:
        return False
    content = np.memmap(path, np.uint8, "r")
    return hashlib.sha256(content[:-_SUM_BYTES].data).digest() == content[-_SUM_BYTES:].tobytes()


def _key(data: PreparedData, features: FrozenFeatures) -> str:
    import keras

    inputs: dict[str, Any] = {
        "format": 3,  # of what `_compute` does
        "keras": [keras.__version__, keras.backend.backend()],
        "data": data.manifest.fingerprint,
        **features.identity(),
    }
    if features.weights not in ("imagenet", "none"):
        inputs["weights"] = hashlib.sha256(weights_path(features.weights).read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{features.backbone}-{digest[:16]}"
