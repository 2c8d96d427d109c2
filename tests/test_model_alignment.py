"""Pictures and captions aligned in training: CLIP's loss by its formula, and nothing of it in what is shipped."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak
from numpy.typing import NDArray
from test_model_training import BOTH, CAPTION, IMAGE, LABELS, SUMMED, TEXT, bits, of, task, training
from two_devices import printed_with_two_devices

from captune.model.config import AugmentConfig, ImageConfig, ModelConfig, TrainConfig, TrialConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def unit(rows: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(rows, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_loss_is_the_mean_of_two_cross_entropies_among_examples_with_a_caption() -> None:
    import keras

    from captune.model.alignment import contrast

    images, captions, present = unit(5, 1), unit(5, 2), np.array([1, 1, 0, 1, 1], np.float32)
    losses = keras.ops.convert_to_numpy(contrast(images, captions, present, 4.0))
    for row in range(5):
        others = [other for other in range(5) if present[other]]
        own = math.exp(4 * images[row] @ captions[row])
        by_image = -math.log(own / sum(math.exp(4 * images[row] @ captions[other]) for other in others))
        by_caption = -math.log(own / sum(math.exp(4 * images[other] @ captions[row]) for other in others))
        assert losses[row] == pytest.approx((by_image + by_caption) / 2 if present[row] else 0, abs=1e-5)
    nobody = keras.ops.convert_to_numpy(contrast(images, captions, np.zeros(5, np.float32), 4.0))
    assert (nobody == 0).all()
    alone = keras.ops.convert_to_numpy(contrast(images[:1], captions[:1], present[:1], 100.0))
    assert alone == pytest.approx(0, abs=1e-4)


def test_last_column_counts_as_it_is_weighed_beside_the_loss_of_the_others() -> None:
    import keras

    from captune.model.losses import make_loss, with_last

    targets, outputs = np.eye(3, dtype=np.float32), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    loss = make_loss(TrainConfig(), [1, 1, 1])
    expected = np.asarray(loss(targets, outputs[:, :3])) + 0.3 * outputs[:, 3]
    assert np.asarray(with_last(loss, 0.3)(targets, keras.ops.convert_to_tensor(outputs))) == pytest.approx(expected)


@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_loss_alone_reaches_both_encoders_and_moves_nothing_of_the_labels(dropped: float) -> None:
    import tensorflow as tf

    model = SUMMED.model_copy(update={"modality_dropout": dropped})
    learner, rows = training(model, alignment=1.0), task(32, 3)
    with tf.GradientTape() as tape:
        output = learner._trained(rows.inputs, training=False)
        assert output.shape == (32, LABELS + 1)
        contrast = tf.reduce_mean(output[:, -1])
    variables = learner._trained.trainable_variables
    gradients = map(
        tf.convert_to_tensor, tape.gradient(contrast, [v.value for v in variables], unconnected_gradients="zero")
    )
    moved = {v.path: bool((g.numpy() != 0).any()) for v, g in zip(variables, gradients, strict=True)}
    names = ("compact_stem", "image_positions", "text_embedding", "alignment_of_image", "alignment_of_caption", "scale")
    for name in names:
        assert any(reached for path, reached in moved.items() if name in path), name
    assert not any(reached for path, reached in moved.items() if path.startswith("logits_"))


def test_pairs_are_found_after_training_and_the_shipped_network_is_of_the_same_weights() -> None:
    plain, aligned = (training(BOTH, alignment=share, epochs=3, learning_rate=0.02) for share in (0.0, 1.0))
    shapes = [[(v.path, tuple(v.shape)) for v in learner.network.weights] for learner in (plain, aligned)]
    assert shapes[0] == shapes[1]
    assert bits(plain.network) == bits(aligned.network), "before training they are the same, so that pairs compare"
    rows = of(task(64, 1), BOTH)

    def contrast() -> float:
        return float(np.asarray(aligned._trained.predict_on_batch(rows.inputs))[:, -1].mean())

    before = contrast()
    for number in range(1, 4):
        plain.epoch(number)
        aligned.epoch(number)
    assert before > math.log(64) - 1 and contrast() < before - 0.3
    assert bits(plain.network) != bits(aligned.network)
    assert aligned.predict(rows).shape == (64, LABELS)
    assert all("alignment" not in layer.name for layer in aligned.network.layers)


def test_labels_are_learnt_beside_alignment() -> None:
    from captune.model.metrics import mean_average_precision

    validation = of(task(40, 2), SUMMED)
    learner = training(SUMMED, rows=256, alignment=0.1, own_losses=1.0, learning_rate=0.02)
    losses = [learner.epoch(number) for number in range(1, 6)]
    score = mean_average_precision(validation.labels.astype(np.uint8), learner.predict(validation))
    assert losses[-1] < losses[0] and score > 0.9, (losses, score)


@pytest.mark.soak
@pytest.mark.parametrize(
    "settings",
    [
        {"augment": AugmentConfig(rotation=20), "ema": 0.9, "own_losses": 0.3, "class_weights": "dynamic"},
        pytest.param(
            {"bfloat16": True, "optimizer": "adamw", "weight_decay": 0.01, "clip_norm": 1.0}, marks=pytest.mark.soak
        ),
    ],
)
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(settings: dict[str, Any]) -> None:
    settings = {**settings, "alignment": 0.3, "epochs": 2}
    through = training(SUMMED, **settings)
    assert math.isfinite(through.epoch(1))
    checkpoint = through.checkpoint(1, "same")
    through.epoch(2)
    resumed = training(SUMMED, **settings)
    resumed.restore(checkpoint)
    resumed.epoch(2)
    assert bits(resumed._trained) == bits(through._trained)
    assert (resumed.predict(of(task(40, 2), SUMMED)) == through.predict(of(task(40, 2), SUMMED))).all()


@pytest.mark.parametrize("model", [CAPTION, ModelConfig(image=IMAGE)])
def test_network_of_one_modality_has_nothing_to_align(model: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"train.alignment .* reads \w+ alone; set train.alignment to 0"):
        TrialConfig(model=model, train=TrainConfig(alignment=0.1))


# Without batch normalisation, whose statistics go by device. Batches of 13, which two devices cannot share evenly.
DEVICES = """
    (file,) = arguments
    import numpy as np
    from dataclasses import replace
    from test_model_alignment import cached
    from test_model_training import Arrays, LABELS, task
    from captune.model.training import Training

    config, drawn = cached(file), task(39, 1)
    drawn.inputs["caption"][5] = 0
    features = np.random.default_rng(1).random((39, 3, 3, 256), np.float32)
    rows = Arrays({"features": features, "caption": drawn.inputs["caption"]}, drawn.labels, 13)
    two = runtime.spread(2)

    def losses(*spreads):
        # Of one epoch after another, each in a training that goes on from the one before.
        told, checkpoint = [], None
        for number, spread in enumerate(spreads, 1):
            learner = Training(config, rows, [8] * LABELS, seed=0, spread=spread)
            if checkpoint is not None:
                learner.restore(checkpoint)
            told.append(learner.epoch(number))
            checkpoint = learner.checkpoint(number, "same")
        return told

    told = {"one": losses(None, None, None), "two": losses(two, two, two), "in turns": losses(None, two, None)}
    print(json.dumps(told))
"""


def cached(file: str) -> TrialConfig:
    """Of features of a frozen tower, without dropout."""
    image = ImageConfig(backbone="AlexNet", weights=file, frozen=True, side=127, head="positions", position_units=6)
    model = ModelConfig(image=image, text=TEXT, fusion="summed", num_labels=LABELS)
    return TrialConfig(model=model, train=TrainConfig(alignment=0.5, own_losses=0.3, epochs=3, cached_features=True))


@pytest.mark.parametrize("backend", rest_in_soak(["tensorflow", "jax"]))
def test_each_example_is_compared_with_those_of_all_devices(backend: str, tmp_path: Path) -> None:
    from captune.model import tower_network

    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    tower_network.build("AlexNet", "final", 127).save_weights(tmp_path / "tower.weights.h5")
    told = printed_with_two_devices(DEVICES, backend, tmp_path / "tower.weights.h5")
    assert told["one"] == sorted(told["one"], reverse=True)
    for course in ("two", "in turns"):
        assert told[course] == pytest.approx(told["one"], rel=1e-4), course
