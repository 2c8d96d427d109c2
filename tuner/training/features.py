"""Features of frozen towers, computed once for all trials and kept beside the data.

DATA/features/KEY/00000.npy   of the first 1,024 pictures or captions, (1024, ..) float16, memory-mapped by its readers,
                              and behind them the SHA-256 of all before it; 00001.npy of the next, and so on
DATA/features/KEY/00000.lock  held by the process that computes them

KEY tells all that they follow from. Each file appears when it is whole: what is killed goes on with the next one, and
all processes that wait for features compute them together, one file each at a time. A damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from captune.data_prep.batches import lengths
from captune.data_prep.pieces import cut_pieces, piece_ids
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.files import LockedError, locked, written_aside
from captune.model.backbones import weights_path
from captune.model.config import ImageConfig, TextConfig
from captune.model.frozen_features import CaptionFeatures, FrozenFeatures
from captune.model.text_towers import WEIGHTS, weights_folder
from captune.reading import sha256

if TYPE_CHECKING:
    import keras

_BATCH = 64
_ROWS = 1024  # pictures or captions in a file: what a killed process has computed of one is lost
_SUM_BYTES = 32
_LARGEST = float(np.finfo(np.float16).max)


class Gather:
    """Features of all pictures or captions, rows of which are read out of their files' memory maps."""

    def __init__(self, files: list[NDArray[np.float16]]) -> None:
        self._files = files
        self.shape = (sum(map(len, files)), *files[0].shape[1:])

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.float16]:
        """(b, ..) of the pictures or captions (b,) by their numbers."""
        rows = np.empty((len(numbers), *self.shape[1:]), np.float16)
        for row, number in enumerate(numbers.tolist()):
            rows[row] = self._files[number // _ROWS][number % _ROWS]
        return rows


@dataclass(frozen=True)
class FeatureFiles:
    """What a tower makes of every picture, or every caption, of a data set, and the folder where that is kept."""

    data: PreparedData
    encoder: ImageConfig | TextConfig
    features: FrozenFeatures | CaptionFeatures
    folder: Path

    @classmethod
    def of(
        cls, data: PreparedData, encoder: ImageConfig | TextConfig, features: FrozenFeatures | CaptionFeatures
    ) -> FeatureFiles:
        """encoder: that the features are of."""
        return cls(data, encoder, features, data.path / "features" / _key(data, features))

    @property
    def _count(self) -> int:
        return self.data.num_pictures if isinstance(self.encoder, ImageConfig) else len(self.data)

    def computed(self) -> Gather:
        """All of them, computed where they are not there yet, by this process and others that ask at the same time.

        Raises:
            DataError: they cannot be written beside the data.
            WeightsError: see there.
        """
        numbers = range(-(-self._count // _ROWS))
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
                    self._compute(path, number * _ROWS)
        except LockedError:
            return False
        return True

    def _compute(self, path: Path, first: int) -> None:
        count = min(_ROWS, self._count - first)
        shape = (count, *self.features.shape)
        # Written, not mapped: on a full disk that is an error, where a map would end the process.
        with written_aside(path) as aside, aside.open("wb") as file:
            digest = hashlib.sha256()

            def write(content: bytes) -> None:
                file.write(content)
                digest.update(content)

            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            write_array_header_1_0(SimpleNamespace(write=write), header)
            of = self._of_pictures if isinstance(self.encoder, ImageConfig) else self._of_captions
            for values in of(first, count):
                write(np.clip(values, -_LARGEST, _LARGEST).astype("<f2").tobytes())
            file.write(digest.digest())

    def _of_pictures(self, first: int, count: int) -> Iterator[NDArray[np.float32]]:
        """Of `count` pictures from `first` on, a batch at a time."""
        starts = range(first, first + count, _BATCH)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._pictures, starts[0])
            for following in (*starts[1:], None):
                pictures = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._pictures, following)
                yield np.asarray(self._network.predict_on_batch(pictures))

    def _pictures(self, start: int) -> NDArray[np.uint8]:
        last = (start // _ROWS + 1) * _ROWS
        pictures = self.data.pictures(start, min(_BATCH, last - start))
        mirrored = isinstance(self.features, FrozenFeatures) and self.features.mirrored
        return pictures[:, :, ::-1] if mirrored else pictures

    def _of_captions(self, first: int, count: int) -> Iterator[NDArray[np.float32]]:
        """Of `count` captions from `first` on; those of like length go through the tower together."""
        assert isinstance(self.encoder, TextConfig)
        ids = text_tower_ids(self.data, self.encoder)[first : first + count]
        order = np.argsort(lengths(ids), kind="stable")
        values = np.empty((count, *self.features.shape), np.float32)
        for start in range(0, count, _BATCH):
            rows = order[start : start + _BATCH]
            values[rows] = np.asarray(self._network.predict_on_batch({"caption": ids[rows]}))
        yield values

    @cached_property
    def _network(self) -> keras.Model:
        import keras

        from captune.model import image_encoder, text_tower
        from captune.model.training import jit, put_through
        from captune.model.views import with_captions_cut

        if isinstance(self.encoder, ImageConfig):
            pixels = keras.Input((self.encoder.side, self.encoder.side, 3), dtype="uint8", name="image")
            network = keras.Model(pixels, image_encoder.features(pixels, self.encoder, load_weights=True))
            put_through(network, self.features.storage)
            return network
        tokens = keras.Input((self.encoder.max_tokens,), dtype="int32", name="caption")
        rows = text_tower_rows(self.data, self.encoder)
        values = text_tower.features(tokens, self.encoder, load_weights=True, pieces=rows)
        network = keras.Model({"caption": tokens}, values)
        put_through(network, self.features.storage)
        network = network if jit() else with_captions_cut(network)
        network.jit_compile = jit()
        return network


def text_tower_ids(data: PreparedData, text: TextConfig) -> NDArray[np.int32]:
    """(rows, max_tokens) ids of the word pieces of all captions, for a transformer. Raises DataError, WeightsError."""
    return piece_ids(data, weights_folder(text.weights), text.vocabulary_size, text.max_tokens)


def text_tower_rows(data: PreparedData, text: TextConfig) -> tuple[int, ...]:
    """Of each id the row in the vocabulary of the weights. Raises DataError, WeightsError."""
    return cut_pieces(data, weights_folder(text.weights)).rows[: text.vocabulary_size]


def _is_whole(path: Path) -> bool:
    """Whether the features are there as they were written; read as a whole once a process."""
    return path.is_file() and _is_as_written(path, path.stat().st_mtime_ns)


@cache
def _is_as_written(path: Path, time: int) -> bool:
    if path.stat().st_size <= _SUM_BYTES:
        return False
    content = np.memmap(path, np.uint8, "r")
    return hashlib.sha256(content[:-_SUM_BYTES].data).digest() == content[-_SUM_BYTES:].tobytes()


def _key(data: PreparedData, features: FrozenFeatures | CaptionFeatures) -> str:
    import keras

    inputs: dict[str, Any] = {
        "format": 3,  # of what `_compute` does
        "keras": [keras.__version__, keras.backend.backend()],
        "data": data.manifest.fingerprint,
        **features.identity(),
    }
    if isinstance(features, CaptionFeatures):
        folder = weights_folder(features.weights)
        inputs["pieces"] = cut_pieces(data, folder).pieces.to_json()
        inputs["weights"] = sha256(folder / WEIGHTS)
    elif features.weights not in ("imagenet", "none"):
        inputs["weights"] = sha256(weights_path(features.weights))
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{features.name}-{digest[:16]}"
