"""Features of a frozen backbone, computed once for all trials and kept beside the data.

DATA/features/KEY.npy   (pictures, .., channels) float32, memory-mapped by its readers, and behind them the SHA-256 of
                        all before it; KEY tells all that they follow from. One that is damaged is computed again.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.files import locked, written_aside
from captune.model.config import ImageConfig, Storage

if TYPE_CHECKING:
    import keras

_BATCH = 64
_SUM_BYTES = 32


def backbone_features(data: PreparedData, config: ImageConfig, storage: Storage) -> NDArray[np.float32]:
    """What the backbone of `config`, its weights as `storage` gives them back, makes of every picture of `data`.

    The first process to ask computes them; others wait for it. One that dies leaves nothing.

    Returns:
        (pictures, channels) by number of the picture, (pictures, height, width, channels) where `head` reads positions.

    Raises:
        DataError: they cannot be written beside the data.
        WeightsError: see there.
    """
    path = data.path / "features" / f"{_key(data, config, storage)}.npy"
    if not _is_whole(path):
        try:
            path.parent.mkdir(exist_ok=True)
            with locked(path.with_suffix(".lock"), wait=True):
                if not _is_whole(path):
                    _compute(path, data, config, storage)
        except OSError as error:
            raise DataError(
                f"features cannot be kept in {path.parent} ({error.strerror or error}); make it writable, "
                "or search with train.cached_features: false"
            ) from None
    features: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return features


def _is_whole(path: Path) -> bool:
    """Whether the features are there as they were written; read as a whole once a process."""
    return path.is_file() and _is_as_written(path, path.stat().st_mtime_ns)


@cache
def _is_as_written(path: Path, time: int) -> bool:
    if path.stat().st_size <= _SUM_BYTES:
        return False
    content = np.memmap(path, np.uint8, "r")
    return hashlib.sha256(content[:-_SUM_BYTES].data).digest() == content[-_SUM_BYTES:].tobytes()


def _key(data: PreparedData, config: ImageConfig, storage: Storage) -> str:
    import keras

    weights = Path(config.weights)
    inputs = {
        "format": 2,  # of what `_compute` does
        "keras": [keras.__version__, keras.backend.backend()],
        "data": data.manifest.fingerprint,
        "backbone": config.backbone,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else config.weights,
        "scaling": config.scaling,
        "side": config.seen_side,
        "pooling": config.pooling if config.head == "pooled" else "none",
        "storage": storage,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{config.backbone}-{digest[:16]}"


def _compute(path: Path, data: PreparedData, config: ImageConfig, storage: Storage) -> None:
    from captune.model.training import put_through

    backbone = _backbone(config)
    put_through(backbone, storage)
    shape = (data.num_pictures, *backbone.output.shape[1:])
    # Written, not mapped: on a full disk that is an error, where a map would end the process.
    with written_aside(path) as aside, aside.open("wb") as file:
        digest = hashlib.sha256()

        def write(content: bytes) -> None:
            file.write(content)
            digest.update(content)

        write_array_header_1_0(SimpleNamespace(write=write), {"descr": "<f4", "fortran_order": False, "shape": shape})
        for start in range(0, shape[0], _BATCH):
            features = backbone.predict_on_batch(data.pictures(start, _BATCH))
            write(np.asarray(features, "<f4").tobytes())
        file.write(digest.digest())


def _backbone(config: ImageConfig) -> keras.Model:
    import keras

    from captune.model.image_encoder import features

    pixels = keras.Input((config.side, config.side, 3), dtype="uint8", name="image")
    return keras.Model(pixels, features(pixels, config, load_weights=True))
