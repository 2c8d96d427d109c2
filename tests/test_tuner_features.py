"""Features of a frozen backbone, kept beside the data."""

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig, replace
from captune.model.metrics import Epoch
from captune.model.presets import PRESETS
from captune.tuner.space.dimensions import bind

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


@pytest.mark.parametrize("changes", [{"image.pooling": "both"}, {"storage": "int8", "train.ema": 0.9}, POSITIONS])
def test_trial_on_cached_features_learns_what_it_learns_without(
    weights: Path, own: PreparedData, changes: dict[str, Any]
) -> None:
    whole = trained(frozen(weights, own, **changes), own)
    cached = trained(frozen(weights, own, **changes, **{"train.cached_features": True}), own)
    # Training on features of the backbone as it is shipped, int8 is another network from the first step on.
    close = 0.05 if changes.get("storage") == "int8" else 1e-3
    for one, other in zip(whole, cached, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=close)
        assert one.map == pytest.approx(other.map, abs=close)


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


def test_features_are_computed_once_for_all_that_share_them(
    weights: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.training import features

    computed: list[str] = []
    compute = features._compute

    def counted(path: Path, *rest: Any) -> None:
        computed.append(path.name)
        compute(path, *rest)

    monkeypatch.setattr(features, "_compute", counted)
    plain = frozen(weights, own, **{"train.cached_features": True})
    for changes in ({}, {"train.learning_rate": 1e-4, "head_units": 16, "image.units": 4, "text.units": 16}):
        trained(replace(plain, changes), own)
    assert len(computed) == 1
    for changes in ({"image.pooling": "max"}, {"storage": "float16"}, {"image.scaling": "unit"}):
        trained(replace(plain, changes), own)
    assert len(set(computed)) == len(computed) == 4
    again = np.load(own.path / "features" / computed[0])
    assert again.shape == (own.num_pictures, 576) and again.dtype == np.float32
    copied = weights.with_name("copy.weights.h5")
    shutil.copy(weights, copied)
    trained(frozen(copied, own, **{"train.cached_features": True}), own)
    assert len(computed) == 4, "the file's content counts, not its name"


def _features(path: Path, weights: Path, out: Any) -> None:
    data = PreparedData.open(path)
    config = frozen(weights, data, **{"train.cached_features": True})
    from captune.tuner.training import features

    compute = features._compute

    def told(*given: Any) -> None:
        out.put("computed")
        compute(*given)

    features._compute = told
    assert config.model.image is not None
    out.put(float(features.backbone_features(data, config.model.image, "float32").sum()))


def test_processes_that_ask_at_once_compute_once_and_read_the_same(weights: Path, own: PreparedData) -> None:
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    readers = [context.Process(target=_features, args=(own.path, weights, out)) for _ in range(2)]
    for reader in readers:
        reader.start()
    told = [out.get(timeout=120) for _ in range(3)]
    for reader in readers:
        reader.join(timeout=60)
    assert told.count("computed") == 1
    sums = [value for value in told if value != "computed"]
    assert sums[0] == sums[1]


def test_computation_that_ends_half_way_leaves_nothing_to_be_read(
    weights: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.training.features import backbone_features

    image = frozen(weights, own).model.image
    assert image is not None

    def broken(*_: Any) -> Iterator[None]:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(PreparedData, "pictures", broken)
        with pytest.raises(DataError, match=r"cannot be kept in .*features.*cached_features: false"):
            backbone_features(own, image, "float32")
    assert not list((own.path / "features").glob("*.npy"))
    assert np.isfinite(backbone_features(own, image, "float32")).all()


def test_cached_features_need_a_frozen_backbone_and_no_augmentation(weights: Path, data: PreparedData) -> None:
    plain = frozen(weights, data)
    with pytest.raises(ValidationError, match=r"needs image\.frozen: true"):
        replace(plain, {"image.frozen": False, "train.cached_features": True})
    with pytest.raises(ValidationError, match="without augmentation"):
        replace(plain, {"train.augment.rotation": 5.0, "train.cached_features": True})
    with pytest.raises(ValidationError, match=r"needs image\.frozen: true"):
        replace(PRESETS["captions"], {"train.cached_features": True})
