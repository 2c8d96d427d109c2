"""Features of a frozen backbone, kept beside the data."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak
from numpy.typing import NDArray
from pydantic import ValidationError

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig
from captune.model.flat import replace
from captune.model.frozen_features import FrozenFeatures
from captune.model.metrics import Epoch
from captune.model.presets import PRESETS
from captune.tuner.space.space import bind
from captune.tuner.training.kept_rows import under_way

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SMALL = {"text.units": 8, "text.embedding": 8, "head_units": 8, "train.epochs": 2, "train.batch_size": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file as Keras writes it; the network is random."""
    import keras

    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    keras.utils.set_random_seed(1)
    keras.applications.MobileNetV3Small(include_top=False, input_shape=(32, 32, 3), weights=None).save_weights(path)
    return path


@pytest.fixture
def own(data: PreparedData, tmp_path: Path) -> PreparedData:
    """The drawn scenes in a folder of their own."""
    shutil.copytree(data.path, tmp_path / "data")
    return PreparedData.open(tmp_path / "data")


def frozen(weights: Path, data: PreparedData, **changes: Any) -> TrialConfig:
    backbone = {
        "image.backbone": "MobileNetV3Small",
        "image.weights": str(weights),
        "image.frozen": True,
        "image.side": 32,
        "train.augment.flip": False,
        "train.augment.shift": 0.0,
        # At twice that, which the preset has, what half precision rounds off grows to more than one of 16 rows.
        "train.learning_rate": 3e-3,
        # Scores of summed logits are stacked crosswise, those of what is shipped are not.
        "image.head": "pooled",
        "image.pooling": "average",
        "fusion": "gated",
    }
    return bind(replace(PRESETS["compact"], {**SMALL, **backbone, **changes}), data.manifest)


def trained(config: TrialConfig, data: PreparedData, keeper: Any = None) -> list[Epoch]:
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    return list(train_trial(Job(config, 5, 0), data, keeper))


POSITIONS = {
    "image.head": "positions",
    "image.position_units": 8,
    "fusion": "summed",
    "train.own_losses": 0.3,
    "train.prior_start": True,
}


@pytest.mark.parametrize(
    "changes", rest_in_soak([{"image.pooling": "both"}, {"storage": "int8", "train.ema": 0.9}, POSITIONS], POSITIONS)
)
def test_trial_on_cached_features_learns_what_it_learns_without(
    weights: Path, own: PreparedData, changes: dict[str, Any]
) -> None:
    whole = trained(frozen(weights, own, **changes), own)
    cached = trained(frozen(weights, own, **changes, **{"train.cached_features": True}), own)
    # Training on features of the backbone as it is shipped, int8 is another network from the first step on.
    close, places = (0.05, 0.05) if changes.get("storage") == "int8" else (1e-3, 1e-2)
    for one, other in zip(whole, cached, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=close)
        # Of 16 rows, two that change their places by half precision move it by more than they move the loss.
        assert one.map == pytest.approx(other.map, abs=places)


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_score_on_cached_features_is_that_of_the_bundle_on_pictures(
    weights: Path, own: PreparedData, tmp_path: Path, storage: str
) -> None:
    from captune.model.bundle import Bundle
    from captune.model.metrics import mean_average_precision
    from captune.tuner.training.checkpoints import CheckpointPolicy, CheckpointWriter
    from captune.tuner.training.job import Job
    from captune.tuner.winner.predict import probabilities_of_split

    config = frozen(weights, own, storage=storage, **{"train.cached_features": True})
    checkpoints = CheckpointWriter(
        CheckpointPolicy(str(tmp_path / "kept"), None, 1, 0), 0, Job(config, 5, 0).identity(own.manifest.fingerprint)
    )
    epochs = trained(config, own, checkpoints)
    (kept,) = (tmp_path / "kept" / "0").glob("best-*")
    best = max(epochs, key=lambda epoch: epoch.mean_f1)
    found = probabilities_of_split(Bundle.load(kept), own, "validation")
    assert mean_average_precision(own.labels[own.rows("validation")], found) == pytest.approx(best.map, abs=1e-4)


def files_of(config: TrialConfig, data: PreparedData) -> Any:
    from captune.tuner.training.features import FeatureFiles

    assert config.model.image is not None
    return FeatureFiles(data, config.model.image, FrozenFeatures.needed(config)[0])


@pytest.fixture
def in_many_files(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pictures in a file, so few that the drawn scenes take several."""
    from captune.tuner.training import features, kept_rows

    monkeypatch.setattr(features, "_BATCH", 3)
    monkeypatch.setattr(features, "ROWS", 7)
    monkeypatch.setattr(kept_rows, "ROWS", 7)
    return 7


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of features as they are computed."""
    from captune.tuner.training.features import FeatureFiles

    paths: list[Path] = []
    compute = FeatureFiles._compute

    def counted(files: Any, path: Path, first: int) -> None:
        paths.append(path)
        compute(files, path, first)

    monkeypatch.setattr(FeatureFiles, "_compute", counted)
    return paths


def test_features_are_computed_once_for_all_that_share_them(
    weights: Path, own: PreparedData, written: list[Path]
) -> None:
    from captune.tuner.training.trial import features_for

    plain = frozen(weights, own, **{"train.cached_features": True})
    for changes in ({}, {"train.learning_rate": 1e-4, "head_units": 16, "image.units": 4, "text.units": 16}):
        trained(replace(plain, changes), own)
    assert len(written) == 1
    for changes in ({"image.pooling": "max"}, {"storage": "float16"}, {"image.cut": "last_map"}):
        features_for(replace(plain, changes), own)
    assert len({path.parent for path in written}) == len(written) == 4
    again = np.load(written[0])
    assert again.shape == (own.num_pictures, 576) and again.dtype == np.float16
    assert np.load(written[3]).shape == (own.num_pictures, 96)
    copied = weights.with_name("copy.weights.h5")
    shutil.copy(weights, copied)
    features_for(frozen(copied, own, **{"train.cached_features": True}), own)
    assert len(written) == 4, "the file's content counts, not its name"
    features_for(replace(plain, {"image.scaling": "unit"}), own)
    assert len(written) == 4, "a backbone that scales by itself sees the same pixels"


def test_features_are_those_of_the_backbone_to_half_precision(
    weights: Path, own: PreparedData, in_many_files: int
) -> None:
    """Whole files, a shorter last one, batches that do not divide them; in any order."""
    files = files_of(frozen(weights, own, **{"train.cached_features": True}), own)
    features = files.computed()
    assert own.num_pictures % in_many_files and features.shape == (own.num_pictures, 576)
    expected = files._network.predict_on_batch(own.pictures(0, own.num_pictures))
    order = np.random.default_rng(0).permutation(own.num_pictures)
    assert features[order] == pytest.approx(expected[order], rel=1e-3, abs=1e-3)


def left_half(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A backbone that gives how bright the left half of a picture is."""
    return np.repeat(pictures[:, :, : pictures.shape[2] // 2].mean(axis=(1, 2, 3))[:, None], 576, axis=1)


def test_where_training_flips_features_of_mirrored_pictures_are_kept_too(
    weights: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.training.features import FeatureFiles
    from captune.tuner.training.trial import features_for

    monkeypatch.setattr(FeatureFiles, "_answer", staticmethod(left_half))
    config = frozen(weights, own, **{"train.cached_features": True, "train.augment.flip": True})
    plain, mirrored = FrozenFeatures.needed(config)
    assert (plain.mirrored, mirrored.mirrored) == (False, True)
    features = features_for(config, own)
    assert features is not None and features.mirrored is not None
    pictures, side = np.arange(own.num_pictures), own.manifest.side
    assert side is not None
    pixels = own.pictures(0, own.num_pictures)
    left, right = (half.mean(axis=(1, 2, 3)) for half in (pixels[:, :, : side // 2], pixels[:, :, side // 2 :]))
    assert features.plain[pictures][:, 0] == pytest.approx(left, rel=1e-3)
    assert features.mirrored[pictures][:, 0] == pytest.approx(right, rel=1e-3)
    assert all(np.isfinite(epoch.loss) for epoch in trained(config, own))


def _features(path: Path, weights: Path, out: Any) -> None:
    from captune.tuner.training import features, kept_rows

    data = PreparedData.open(path)
    features.ROWS, kept_rows.ROWS, features._BATCH = 7, 7, 3
    files = files_of(frozen(weights, data, **{"train.cached_features": True}), data)
    compute = features.FeatureFiles._compute

    def told(files: Any, path: Path, first: int) -> None:
        out.put(first)
        compute(files, path, first)

    features.FeatureFiles._compute = told  # type: ignore[method-assign]
    out.put(float(files.computed()[np.arange(data.num_pictures)].astype(float).sum()))


@pytest.mark.soak
def test_processes_that_ask_at_once_share_the_work_and_read_the_same(weights: Path, own: PreparedData) -> None:
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    readers = [context.Process(target=_features, args=(own.path, weights, out)) for _ in range(2)]
    for reader in readers:
        reader.start()
    files = range(0, own.num_pictures, 7)
    told = [out.get(timeout=120) for _ in range(len(files) + 2)]
    for reader in readers:
        reader.join(timeout=60)
    assert sorted(value for value in told if isinstance(value, int)) == list(files), "each once"
    sums = [value for value in told if isinstance(value, float)]
    assert sums[0] == sums[1]


@pytest.mark.soak
def test_process_that_is_killed_leaves_whole_files_and_the_next_one_goes_on(
    weights: Path, own: PreparedData, in_many_files: int, written: list[Path]
) -> None:
    files = files_of(frozen(weights, own, **{"train.cached_features": True}), own)
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    reader = context.Process(target=_features, args=(own.path, weights, out))
    reader.start()
    while out.get(timeout=120) < 2 * in_many_files:
        pass
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    reader.join()
    before = {path: path.stat().st_mtime_ns for path in files.folder.glob("*.npy")}
    assert len(before) >= 2
    assert under_way(own.path, 0.0) == (in_many_files * len(before), own.num_pictures)
    assert under_way(own.path, time.time() + 60) is None, "it was begun by another search"
    computed = files.computed()[np.arange(own.num_pictures)]
    assert not {path.name for path in before} & {path.name for path in written}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    fresh = files._network.predict_on_batch(own.pictures(0, own.num_pictures))
    assert computed == pytest.approx(fresh, rel=1e-3, abs=1e-3)


def test_damaged_file_is_computed_again_and_no_other(
    weights: Path, own: PreparedData, in_many_files: int, written: list[Path]
) -> None:
    files = files_of(frozen(weights, own, **{"train.cached_features": True}), own)
    expected = files.computed()[np.arange(own.num_pictures)]
    count = len(written)
    path = files.folder / "00001.npy"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert (files.computed()[np.arange(own.num_pictures)] == expected).all()
    assert [path.name for path in written[count:]] == ["00001.npy"]


def test_computation_that_ends_half_way_leaves_nothing_to_be_read(
    weights: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(frozen(weights, own, **{"train.cached_features": True}), own)

    def broken(*_: Any) -> Iterator[None]:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(PreparedData, "pictures", broken)
        with pytest.raises(DataError, match=r"cannot be kept in .*features.*cached_features: false"):
            files.computed()
    assert not list(files.folder.glob("*.npy"))
    assert under_way(own.path, 0.0) == (0, own.num_pictures)
    assert np.isfinite(files.computed()[np.arange(own.num_pictures)]).all()
    assert under_way(own.path, 0.0) is None, "all are there"
    (files.folder / "rows").unlink()
    files.computed()
    assert not (files.folder / "rows").exists(), "nothing is written where all are there"


def test_values_beyond_half_precision_become_its_largest(
    weights: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(frozen(weights, own, **{"train.cached_features": True}), own)
    monkeypatch.setattr(type(files), "_answer", staticmethod(lambda x: np.full((len(x), 576), -1e6, np.float32)))
    assert (files.computed()[np.arange(3)] == np.finfo(np.float16).min).all()


def test_cached_features_need_a_frozen_backbone_and_no_augmentation(weights: Path, data: PreparedData) -> None:
    plain = frozen(weights, data)
    with pytest.raises(ValidationError, match=r"needs image\.frozen: true"):
        replace(plain, {"image.frozen": False, "train.cached_features": True})
    assert replace(plain, {"train.augment.flip": True, "train.cached_features": True}).train.augment.flip
    with pytest.raises(ValidationError, match="without augmentation"):
        replace(plain, {"train.augment.rotation": 5.0, "train.cached_features": True})
    with pytest.raises(ValidationError, match=r"needs image\.frozen: true"):
        replace(PRESETS["captions"], {"train.cached_features": True})
