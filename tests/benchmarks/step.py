"""Training speed: a trial's step beside Keras's own loop, what augmentation costs, what cached features spare.

    python tests/benchmarks/step.py [PICTURES]

PICTURES (4000) drawn scenes of 48 pixels with captions, preset compact, one thread. Keras's own loop is `fit` on the
same arrays in memory, with the same network, loss and optimizer. Times are the best of three epochs after the first.
Then a frozen backbone at 224 pixels, pictures alone, with and without features that were computed before.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captune.data_prep.demo import draw
from captune.data_prep.store import PreparedData, prepare
from captune.model.config import AugmentConfig, TrialConfig, restrict
from captune.model.flat import replace
from captune.model.presets import PAPER, PRESETS
from captune.tuner.space.space import bind
from captune.tuner.training.job import Job
from captune.tuner.training.runtime import settle
from captune.tuner.training.trial import batches, begin, features_for, train_trial


def best(epoch: Callable[[int], Any], rounds: int = 3) -> float:
    """Seconds of the quickest epoch after the first."""
    epoch(1)
    seconds = []
    for number in range(2, 2 + rounds):
        started = time.perf_counter()
        epoch(number)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def ours(config: TrialConfig, data: PreparedData) -> float:
    training = begin(data, data.rows("train"), config, seed=0, features=features_for(config, data))
    return best(training.epoch)


def keras_alone(config: TrialConfig, data: PreparedData) -> float:
    import keras

    from captune.model.training import Training

    rows = data.rows("train")
    source = batches(data, rows, config.model, len(rows))
    inputs, labels = source.batch(0, 0)
    training = Training(config, source, data.labels[rows].sum(axis=0).tolist(), seed=0)
    network = training._trained
    network.compile(keras.optimizers.Adam(config.train.learning_rate), network.loss, jit_compile=False)
    return best(lambda _: network.fit(inputs, labels, batch_size=config.train.batch_size, verbose=0))


def trial_epochs(config: TrialConfig, data: PreparedData) -> float:
    """Epochs a second of a whole trial, training and evaluation, after the first epoch."""
    epochs = list(train_trial(Job(config, 0, 0), data))[1:]
    return len(epochs) / sum(epoch.train_seconds + epoch.evaluate_seconds for epoch in epochs)


def main(pictures: int) -> None:
    settle(1)
    import keras

    with tempfile.TemporaryDirectory(prefix="captune-bench-") as name:
        folder = Path(name)
        draw(folder / "drawn", count=pictures, unlabelled=1, seed=0)
        data = prepare(folder / "drawn" / "train.csv", folder / "drawn" / "images", folder / "data", side=48)
        count = len(data.rows("train"))
        preset = bind(PRESETS["compact"], data.manifest)
        plain, augmented = (
            preset.model_copy(update={"train": preset.train.model_copy(update={"augment": augment})})
            for augment in (AugmentConfig(), PAPER.train.augment)
        )
        rates = {
            "Keras's fit on arrays in memory": count / keras_alone(plain, data),
            "a trial's step": count / ours(plain, data),
            "with the paper's augmentation": count / ours(augmented, data),
        }
        first = next(iter(rates.values()))
        print(f"{'pictures a second, 48 pixels, one thread':42} {'rate':>8} {'ratio':>6}")
        for what, rate in rates.items():
            print(f"{what:42} {rate:8.0f} {rate / first:6.2f}")

        few = prepare(
            folder / "drawn" / "train.csv",
            folder / "drawn" / "images",
            folder / "few",
            side=224,
            shares=(0.15, 0.05, 0.8),
        )
        pictures_alone = plain.model_copy(update={"model": restrict(plain.model, "image")})
        weights = folder / "small.weights.h5"
        shape = (224, 224, 3)
        keras.applications.MobileNetV3Small(include_top=False, input_shape=shape, weights=None).save_weights(weights)
        changes = {"image.backbone": "MobileNetV3Small", "image.weights": str(weights), "image.frozen": True}
        frozen = bind(replace(pictures_alone, {**changes, "image.side": 224, "train.epochs": 3}), few.manifest)
        without = trial_epochs(frozen, few)
        cached = trial_epochs(replace(frozen, {"train.cached_features": True}), few)
        print(f"{'epochs a second, frozen MobileNetV3Small':42} {'rate':>8} {'ratio':>6}")
        print(f"{'as it is':42} {without:8.2f} {1.0:6.2f}")
        print(f"{'on cached features':42} {cached:8.2f} {cached / without:6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
