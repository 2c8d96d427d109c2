"""Training: it learns, it repeats itself, it ends at the first NaN, and averaged weights leave no trace."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak
from numpy.typing import NDArray

from captune.model import metrics
from captune.model.config import AugmentConfig, ImageConfig, ModelConfig, TextConfig, TrainConfig, TrialConfig
from captune.model.f1 import f1_per_example
from captune.model.part_of_epoch import PartOfEpoch
from captune.model.rule import DecisionRule, cross_fitted, fit_rule

pytestmark = pytest.mark.slow

LABELS, WORDS, TOKENS, SIDE = 4, 20, 5, 16
TEXT = TextConfig(encoder="average", vocabulary_size=WORDS, max_tokens=TOKENS, embedding=8, units=8, dense=16)
IMAGE = ImageConfig(side=SIDE, width=4, stages=2, units=8)
CAPTION = ModelConfig(text=TEXT, num_labels=LABELS)
BOTH = ModelConfig(image=IMAGE, text=TEXT, fusion="gated", num_labels=LABELS)
SUMMED = ModelConfig(
    image=IMAGE.model_copy(update={"head": "positions", "position_units": 6}),
    text=TEXT.model_copy(update={"wide": True, "wide_buckets": 50}),
    fusion="summed",
    num_labels=LABELS,
)


@dataclass(frozen=True)
class Arrays:
    """Batches of rows that lie in memory, in the same order in every epoch."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.float32]
    size: int = 16

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def batch(self, number: int, index: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        rows = slice(index * self.size, (index + 1) * self.size)
        return {name: values[rows] for name, values in self.inputs.items()}, self.labels[rows]


def task(count: int, seed: int) -> Arrays:
    """Label n is there exactly where word n + 2 is in the caption; label 0 is the commonest. Pictures are noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, LABELS)) < [0.7, 0.3, 0.3, 0.3]).astype(np.float32)
    captions = rng.integers(LABELS + 2, WORDS, (count, TOKENS)).astype(np.int32)
    for n in range(LABELS):
        captions[:, n] = np.where(labels[:, n] == 1, n + 2, captions[:, n])
    pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return Arrays({"caption": captions, "image": pixels}, labels)


def of(arrays: Arrays, config: ModelConfig) -> Arrays:
    names = {"both": ["image", "caption"], "image": ["image"], "caption": ["caption"]}[config.modality]
    return replace(arrays, inputs={name: arrays.inputs[name] for name in names})


def fitted(
    model: ModelConfig = CAPTION, train: Arrays | None = None, seed: int = 0, bfloat16: bool = False, **settings: Any
) -> list[metrics.Epoch]:
    from captune.model.held_out import fit
    from captune.model.training import Training

    train = train or task(64, 1)
    config = TrialConfig(model=model, train=TrainConfig(**{"epochs": 2, "learning_rate": 0.02, **settings}))
    validation = task(40, 2)
    counts = train.labels.sum(axis=0).astype(int).tolist()
    truth = validation.labels.astype(np.uint8)
    passes = config.train.passes(len(train.labels))
    learner = Training(config, of(train, model), counts, seed=seed, bfloat16=bfloat16, passes=passes)
    return list(fit(learner, config.train.epochs, of(validation, model), truth))


def training(model: ModelConfig = CAPTION, rows: int = 64, bfloat16: bool = False, **settings: Any) -> Any:
    from captune.model.training import Training

    config = TrialConfig(model=model, train=TrainConfig(**settings))
    train = task(rows, 1)
    counts = train.labels.sum(axis=0).astype(int).tolist()
    return Training(config, of(train, model), counts, seed=0, bfloat16=bfloat16)


def without_seconds(epochs: Sequence[metrics.Epoch]) -> list[tuple[Any, ...]]:
    return [(e.epoch, e.loss, e.mean_f1, e.micro_f1, e.macro_f1, e.map, e.ece, e.rule) for e in epochs]


def test_network_learns_what_is_to_be_learnt() -> None:
    epochs = fitted(train=task(256, 1), epochs=8)
    truth = task(40, 2).labels.astype(np.uint8)
    always = np.zeros_like(truth)
    always[:, truth.sum(axis=0).argmax()] = 1
    baseline = float(f1_per_example(truth, always).mean())
    assert epochs[-1].mean_f1 > baseline
    assert epochs[-1].map > truth.mean(axis=0).mean()  # what probabilities at random come to
    assert epochs[-1].loss < epochs[0].loss / 2
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert all(epoch.train_seconds > 0 and epoch.evaluate_seconds > 0 for epoch in epochs)
    assert all(epoch.rule is not None for epoch in epochs)


def test_epochs_go_on_after_those_that_training_has_behind_it() -> None:
    from captune.model.held_out import fit

    validation, settings = task(40, 2), {"epochs": 3, "learning_rate": 0.02}
    learner = training(CAPTION, **settings)
    learner.epoch(1)
    rest = list(fit(learner, 3, of(validation, CAPTION), validation.labels.astype(np.uint8), after=1))
    assert without_seconds(rest) == without_seconds(fitted(**settings))[1:]
    assert list(fit(learner, 3, of(validation, CAPTION), validation.labels.astype(np.uint8), after=3)) == []


def test_epoch_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from captune.model.training import Training

    monkeypatch.setattr("captune.model.training._HEARD_SECONDS", 0.0)
    train, told = of(task(19 * 16, 1), CAPTION), list[PartOfEpoch]()
    config = TrialConfig(model=CAPTION, train=TrainConfig(epochs=2))
    learner = Training(config, train, [1] * LABELS, seed=0)
    learner.epoch(2, told.append)
    assert [(part.epoch, part.share) for part in told] == [(2, min(n, 19) / 19) for n in range(2, 21, 2)], "two a call"
    assert told[0].seconds is None and all((part.seconds or 0) > 0 for part in told[1:])


SETTINGS = {"augment": AugmentConfig(rotation=20, flip=True), "ema": 0.9}
DROPPING = BOTH.model_copy(
    update={"image": IMAGE.model_copy(update={"dropout": 0.3}), "text": TEXT.model_copy(update={"dropout": 0.3})}
)


@pytest.mark.parametrize(("examples", "passes"), [(0, 1), (90, 1), (170, 3)])
def test_epoch_of_few_examples_passes_over_them_again(examples: int, passes: int) -> None:
    """As so many shorter epochs would: batches, rates and dropout are the same."""
    asked = fitted(DROPPING, epochs=2, epoch_examples=examples, schedule="cosine")
    short = fitted(DROPPING, epochs=2 * passes, schedule="cosine")[passes - 1 :: passes]
    assert [(epoch.mean_f1, epoch.map, epoch.ece) for epoch in asked] == [
        (epoch.mean_f1, epoch.map, epoch.ece) for epoch in short
    ]


def test_same_seed_gives_the_same_epochs_twice_in_one_process_and_another_seed_others() -> None:
    first, again, other = (without_seconds(fitted(DROPPING, seed=seed, **SETTINGS)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


CASES = [
    (BOTH, {"optimizer": "adamw", "weight_decay": 0.01, "clip_norm": 1.0}),
    (CAPTION, {"augment": AugmentConfig(flip=True), "class_weights": "inverse", "loss": "focal"}),
    (SUMMED, {"own_losses": 0.3, "prior_start": True, "loss": "asymmetric", "ema": 0.5}),
    (BOTH, {"augment": AugmentConfig(shift=0.1, zoom=0.1)}),
    (ModelConfig(image=IMAGE, num_labels=LABELS), {"augment": AugmentConfig(flip=True), "loss": "asymmetric"}),
    (CAPTION, {"class_weights": "dynamic", "loss": "asymmetric"}),
    (BOTH.model_copy(update={"fusion": "summed"}), {"class_weights": "dynamic", "own_losses": 0.3}),
    (CAPTION, {"schedule": "cosine", "warmup": 0.5, "ema": 0.5, "epochs": 1}),
    (CAPTION, {"optimizer": "adamw", "weight_decay": 0.0, "label_smoothing": 0.1}),
    (SUMMED, {"own_losses": 0.3, "augment": AugmentConfig(flip=True)}),
]


@pytest.mark.parametrize(("model", "settings"), rest_in_soak(CASES, *CASES[:3]))
def test_every_setting_of_training_gives_finite_epochs(model: ModelConfig, settings: Any) -> None:
    epochs = fitted(model, **{"epochs": 2, **settings})
    assert len(epochs) == settings.get("epochs", 2)
    assert all(math.isfinite(value) for epoch in epochs for value in (epoch.loss, *epoch.metrics().values()))


def test_parts_learn_by_losses_of_their_own() -> None:
    """The loss of a part alone reaches only what it is made of: without one the picture's noise is left to the sum."""
    import keras

    from captune.model.metrics import mean_average_precision

    validation, scores = task(40, 2), {}
    for own_losses in (0.0, 1.0):
        learner = training(SUMMED, rows=256, own_losses=own_losses, learning_rate=0.02)
        for number in range(1, 6):
            learner.epoch(number)
        caption = keras.Model(learner.network.inputs, learner.network.get_layer("logits_of_caption").output)
        scores[own_losses] = mean_average_precision(
            validation.labels.astype(np.uint8), np.asarray(caption.predict_on_batch(validation.inputs))
        )
    assert scores[1.0] > 0.9 and scores[1.0] > scores[0.0] - 0.02


def test_scores_are_of_the_stack_that_is_saved_and_training_goes_on_without_it(tmp_path: Path) -> None:
    from captune.model.rule import cross_fitted, fit_rule
    from captune.model.stack import cross_stacked
    from captune.model.training import predict

    settings = {"epochs": 2, "learning_rate": 0.02, "own_losses": 0.3}
    *_, epoch = fitted(SUMMED, **settings)
    learner, rows, truth = training(SUMMED, **settings), of(task(40, 2), SUMMED), task(40, 2).labels.astype(np.uint8)
    for number in (1, 2):
        learner.epoch(number)
    before, parts = bits(learner.network), learner.parts(rows)
    answers = cross_fitted(truth, *cross_stacked(truth, parts))
    assert epoch.map == metrics.score(truth, answers).map
    with learner.stacked(epoch.stack):
        saved = predict(from_bundle(learner, SUMMED, tmp_path), rows)
        assert (learner.predict(rows) == saved).all()
    assert saved == pytest.approx(epoch.stack.probabilities(parts), abs=1e-6)
    assert epoch.rule == fit_rule(truth, epoch.stack.probabilities(parts))
    assert bits(learner.network) == before
    assert metrics.Epoch.read(json.loads(json.dumps(asdict(epoch)))) == epoch


def test_first_loss_of_a_network_that_starts_at_the_prior_is_lower() -> None:
    odds, zero = (training(SUMMED, prior_start=start, learning_rate=1e-7).epoch(1) for start in (True, False))
    assert odds < zero


# Divergence


@pytest.mark.parametrize("label", [np.nan, -np.inf])
def test_loss_that_is_not_finite_gives_one_epoch_without_scores_and_ends(label: float) -> None:
    train = task(64, 1)
    train.labels[20, 0] = label
    epochs = fitted(train=train, epochs=5)
    assert len(epochs) == 1
    assert not math.isfinite(epochs[0].loss) and math.isnan(epochs[0].mean_f1)
    assert epochs[0].epoch == 1
    assert epochs[0].train_seconds > 0


def test_nan_ends_the_epoch_at_once() -> None:
    batches: list[int] = []

    class Watched(Arrays):
        def batch(self, number: int, index: int) -> Any:
            batches.append(index)
            return super().batch(number, index)

    train = task(16 * 60, 1)
    train.labels[0] = np.nan
    assert len(fitted(train=Watched(train.inputs, train.labels))) == 1
    assert 1 <= len(set(batches)) < 30  # what was fetched ahead, not all 60


def test_finite_loss_with_nan_probabilities_ends_the_trial_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from captune.model.training import Training

    def last_step_overflows(self: Training, number: int, heard: Any) -> float:
        kernel = self.network.get_layer("logits").kernel
        kernel.assign(np.full(kernel.shape, np.nan))
        return 0.5

    monkeypatch.setattr(Training, "epoch", last_step_overflows)
    epochs = fitted(epochs=3)
    assert len(epochs) == 1
    assert (epochs[0].loss, math.isnan(epochs[0].mean_f1), epochs[0].rule) == (0.5, True, None)


def test_absurd_learning_rate_never_raises_and_ends_at_the_first_epoch_without_scores() -> None:
    epochs = fitted(BOTH, epochs=6, learning_rate=1.0, optimizer="adamw", weight_decay=1.0)
    assert all(math.isfinite(epoch.mean_f1) for epoch in epochs[:-1])
    assert len(epochs) == 6 or not math.isfinite(epochs[-1].mean_f1)


def test_error_in_a_batch_reaches_the_caller_soon() -> None:
    class Broken(Arrays):
        def batch(self, number: int, index: int) -> Any:
            if index == 2:
                raise OSError("the disk is gone")
            return super().batch(number, index)

    train = task(64, 1)
    started = time.monotonic()
    with pytest.raises(Exception, match="the disk is gone"):
        fitted(train=Broken(train.inputs, train.labels))
    assert time.monotonic() - started < 60


# Averaged weights


def test_averaged_weights_are_in_place_inside_and_gone_to_the_last_bit_outside() -> None:
    learner = training(BOTH, ema=0.9)
    learner.epoch(1)
    before = [np.array(weight) for weight in learner.network.weights]
    with learner.averaged():
        inside = [np.array(weight) for weight in learner.network.weights]
    after = [np.array(weight) for weight in learner.network.weights]
    assert any((a != b).any() for a, b in zip(before, inside, strict=True))
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    with learner.averaged():
        again = [np.array(weight) for weight in learner.network.weights]
    assert all((a == b).all() for a, b in zip(inside, again, strict=True))


def test_averaged_weights_are_put_back_after_an_error() -> None:
    learner = training(ema=0.9)
    learner.epoch(1)
    before = learner.network.get_weights()
    with pytest.raises(KeyError), learner.averaged():
        raise KeyError
    assert all((a == b).all() for a, b in zip(before, learner.network.get_weights(), strict=True))


def test_averaged_weights_are_the_exponential_mean_of_the_steps() -> None:
    import keras

    learner = training(ema=0.75)
    steps: list[list[NDArray[Any]]] = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_: steps.append(learner.network.get_weights()))
    source = task(64, 1)
    for index in range(4):
        inputs, labels = of(source, CAPTION).batch(1, index)
        learner._trained.train_on_batch(inputs, labels)
        keep.on_train_batch_end(index)
    mean = steps[0]
    for weights in steps[1:]:
        mean = [0.75 * a + 0.25 * b for a, b in zip(mean, weights, strict=True)]
    with learner.averaged():
        for a, b in zip(learner.network.get_weights(), mean, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def test_predictions_are_those_of_the_averaged_weights() -> None:
    from captune.model.training import predict

    learner, rows = training(ema=0.9), of(task(40, 2), CAPTION)
    learner.epoch(1)
    with learner.averaged():
        inside = predict(learner.network, rows)
    assert (learner.predict(rows) == inside).all()
    assert (predict(learner.network, rows) != inside).any()


def test_evaluating_in_between_does_not_change_training() -> None:
    def losses_of(evaluate: bool) -> list[float]:
        learner, rows, losses = training(ema=0.9, epochs=3), of(task(40, 2), CAPTION), []
        for number in (1, 2, 3):
            losses.append(learner.epoch(number))
            if evaluate:
                learner.predict(rows)
        return losses

    assert losses_of(True) == losses_of(False)


# Prediction


def test_predictions_come_in_the_order_of_the_rows_whatever_the_batch() -> None:
    from captune.model.training import predict

    learner, rows = training(BOTH), of(task(37, 2), BOTH)
    whole = predict(learner.network, Arrays(rows.inputs, rows.labels, 37))
    parts = predict(learner.network, Arrays(rows.inputs, rows.labels, 5))
    assert whole.shape == (37, LABELS)
    assert parts == pytest.approx(whole, abs=1e-6)


def test_training_with_augmentation_trains_the_network_that_is_kept() -> None:
    learner = training(BOTH, augment=AugmentConfig(flip=True))
    before = learner.network.get_weights()
    learner.epoch(1)
    assert all((a != b).any() for a, b in zip(before, learner.network.get_weights(), strict=True))
    assert "affine" not in " ".join(layer.name for layer in learner.network.layers)


# Predictions by the weights that are shipped


def as_stored(model: ModelConfig, storage: Any) -> ModelConfig:
    return model.model_copy(update={"storage": storage})


def bits(network: Any) -> list[bytes]:
    return [values.tobytes() for values in network.get_weights()]


def from_bundle(learner: Any, model: ModelConfig, folder: Path) -> Any:
    """The network of a training after it was shipped: the averaged weights, where there are any."""
    from captune.model.bundle import Bundle

    labels = tuple(range(LABELS))
    vocabulary = '{"words": [], "settings": {}}' if model.text is not None else None
    with learner.averaged():
        Bundle(learner.network, model, DecisionRule(0.5), labels, tuple(map(str, labels)), vocabulary).save(
            folder / "bundle"
        )
    return Bundle.load(folder / "bundle").network


@pytest.mark.parametrize(
    ("storage", "ema"),
    rest_in_soak([("float32", 0.9), ("float16", 0.0), ("int8", 0.0), ("int8", 0.9), ("int4", 0.9)], ("int4", 0.9)),
)
def test_predictions_are_those_of_the_bundle_to_the_bit(tmp_path: Path, storage: Any, ema: float) -> None:
    from captune.model.training import predict

    model = as_stored(BOTH, storage)
    learner, rows = training(model, ema=ema), of(task(40, 2), BOTH)
    learner.epoch(1)
    expected = learner.predict(rows)
    assert (predict(from_bundle(learner, model, tmp_path), rows) == expected).all()
    assert (learner.predict(rows) == expected).all()


@pytest.mark.parametrize(("storage", "ema"), rest_in_soak([("float16", 0.9), ("int8", 0.0)], ("int8", 0.0)))
def test_predictions_before_storage_are_those_of_the_weights_as_they_are(storage: Any, ema: float) -> None:
    from captune.model.training import predict

    learner, rows = training(as_stored(BOTH, storage), ema=ema), of(task(40, 2), BOTH)
    learner.epoch(1)
    with learner.averaged():
        exact = predict(learner.network, rows)
    assert (learner.predict(rows, stored=False) == exact).all()
    assert (learner.predict(rows) != exact).any()
    assert learner.predict(rows) == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize(
    ("storage", "ema"),
    rest_in_soak([("float32", 0.0), ("float32", 0.9), ("float16", 0.0), ("int8", 0.9)], ("int8", 0.9)),
)
def test_training_goes_on_from_the_weights_before_storage(storage: Any, ema: float) -> None:
    rows = of(task(40, 2), BOTH)

    def trained(storage: Any) -> tuple[list[float], list[bytes]]:
        learner, losses = training(as_stored(BOTH, storage), ema=ema, epochs=3), []
        for number in (1, 2, 3):
            losses.append(learner.epoch(number))
            before = bits(learner.network)
            learner.predict(rows)
            learner.predict(rows, stored=False)
            assert bits(learner.network) == before
        return losses, bits(learner.network)

    assert trained(storage) == trained("float32")


@pytest.mark.parametrize("bfloat16", rest_in_soak([False, True], False))
def test_int4_is_trained_for_in_the_last_epochs(bfloat16: bool) -> None:
    from captune.model.layout import is_grouped
    from captune.model.storage import through

    def stored() -> set[bool]:
        return {bool((through(w, "int4") == w).all()) for w in learner.network.get_weights() if is_grouped(w.shape)}

    learner, rows = training(as_stored(BOTH, "int4"), bfloat16=bfloat16, epochs=4, learning_rate=0.02), task(40, 2)
    losses = [learner.epoch(1), learner.epoch(2)]
    learner.predict(rows)
    assert stored() == {False}
    losses += [learner.epoch(3), learner.epoch(4)]
    learner.predict(rows)
    assert stored() == {True}
    assert losses == sorted(losses, reverse=True)


def test_weights_are_put_back_after_an_error_in_a_batch() -> None:
    class Broken(Arrays):
        def batch(self, number: int, index: int) -> Any:
            raise OSError("the disk is gone")

    learner, rows = training(as_stored(BOTH, "int8"), ema=0.9), task(40, 2)
    learner.epoch(1)
    before = bits(learner.network)
    with pytest.raises(OSError, match="the disk is gone"):
        learner.predict(Broken(rows.inputs, rows.labels))
    assert bits(learner.network) == before


def test_scores_of_a_trial_are_those_of_its_bundle(tmp_path: Path) -> None:
    """Int8 weights score differently here, so that scores of others would show."""
    from captune.model.training import predict

    model, settings = as_stored(BOTH, "int8"), {"epochs": 2, "learning_rate": 0.02, "ema": 0.5}
    scored = fitted(model, **settings)[-1]
    learner, rows, truth = training(model, **settings), of(task(40, 2), model), task(40, 2).labels.astype(np.uint8)
    for number in (1, 2):
        learner.epoch(number)

    def scores(probabilities: NDArray[np.float32]) -> tuple[Any, ...]:
        totals = metrics.score(truth, cross_fitted(truth, probabilities))
        return *totals.metrics().values(), fit_rule(truth, probabilities)

    shipped = scores(predict(from_bundle(learner, model, tmp_path), rows))
    assert shipped == (*scored.metrics().values(), scored.rule)
    assert shipped != scores(learner.predict(rows, stored=False))


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "int4"])
def test_nan_in_one_weight_ends_the_trial_whatever_the_storage(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from captune.model.training import Training

    def one_weight_breaks(self: Training, number: int, heard: Any) -> float:
        kernel = self.network.get_layer("logits").kernel
        values = np.ones(kernel.shape, np.float32)
        values[3, 1] = np.nan
        kernel.assign(values)
        return 0.5

    monkeypatch.setattr(Training, "epoch", one_weight_breaks)
    epochs = fitted(as_stored(CAPTION, storage), epochs=3)
    assert len(epochs) == 1
    assert math.isnan(epochs[0].mean_f1)


@pytest.mark.soak
@pytest.mark.parametrize("encoder", rest_in_soak(["convolution", "bilstm"], "convolution"))
def test_network_learns_in_bfloat16_too(encoder: str) -> None:
    model = BOTH.model_copy(update={"text": TEXT.model_copy(update={"encoder": encoder})})
    train = task(256, 1)
    augment = AugmentConfig(rotation=5)
    rounded, exact = (fitted(model, train, bfloat16=on, epochs=6, augment=augment) for on in (True, False))
    assert rounded[0].loss == pytest.approx(exact[0].loss, rel=0.2)
    assert rounded[0].loss != exact[0].loss
    assert rounded[-1].loss < rounded[0].loss / 2


def test_what_was_trained_in_bfloat16_is_scored_and_shipped_in_float32() -> None:
    from captune.model.classifier import build
    from captune.model.training import predict

    validation = of(task(40, 2), BOTH)
    learner = training(BOTH, bfloat16=True, ema=0.9)
    learner.epoch(1)
    scored = learner.predict(validation)
    fresh = build(BOTH)
    with learner.averaged():
        fresh.set_weights(learner.network.get_weights())
    assert all(variable.dtype == "float32" for variable in learner.network.weights)
    assert np.array_equal(predict(fresh, validation), scored)


@pytest.mark.soak
def test_training_in_bfloat16_goes_on_from_a_checkpoint_as_if_never_stopped() -> None:
    validation = of(task(40, 2), DROPPING)
    settings = {"ema": 0.9, "augment": AugmentConfig(rotation=20), "bfloat16": True}
    through = training(DROPPING, **settings)
    through.epoch(1)
    checkpoint = through.checkpoint(1, "same")
    through.epoch(2)
    expected = through.predict(validation)
    resumed = training(DROPPING, **settings)
    resumed.restore(checkpoint)
    resumed.epoch(2)
    assert np.array_equal(resumed.predict(validation), expected)


# Labels that weigh by what went wrong


def test_label_weights_are_one_in_the_first_epoch_and_then_follow_its_errors() -> None:
    import keras

    plain, dynamic = (fitted(train=task(256, 1), epochs=2, class_weights=name) for name in ("none", "dynamic"))
    assert dynamic[0].loss == plain[0].loss
    assert dynamic[1].loss != plain[1].loss
    learner = training(rows=256, class_weights="dynamic")
    learner.epoch(1)
    weights = keras.ops.convert_to_numpy(learner._class_weights.values)
    assert weights.mean() == pytest.approx(1) and weights.std() > 0.01


@pytest.mark.parametrize("bfloat16", rest_in_soak([False, True], False))
def test_training_with_dynamic_weights_goes_on_from_a_checkpoint_as_if_never_stopped(bfloat16: bool) -> None:
    validation = of(task(40, 2), CAPTION)
    settings = {"class_weights": "dynamic", "bfloat16": bfloat16}
    through = training(**settings)
    through.epoch(1)
    checkpoint = through.checkpoint(1, "same")
    through.epoch(2)
    expected = through.predict(validation)
    resumed = training(**settings)
    resumed.restore(checkpoint)
    resumed.epoch(2)
    assert np.array_equal(resumed.predict(validation), expected)


# A pretrained tower


@pytest.fixture
def pretrained(tmp_path: Path) -> ModelConfig:
    """Pictures alone, the tower of fewest layers with weights from a file."""
    from captune.model import tower_network

    file = tmp_path / "tower.weights.h5"
    tower_network.build("AlexNet", "final", 64).save_weights(file)
    image = ImageConfig(backbone="AlexNet", weights=str(file), side=64, units=8, dropout=0.2)
    return ModelConfig(image=image, num_labels=LABELS)


def tower_weights(learner: Any) -> list[NDArray[Any]]:
    import keras

    from captune.model.image_encoder import DROPOUT

    network = learner._learner
    pixels = next(x for x in network.inputs if x.name == "image")
    return [v.numpy() for v in keras.Model(pixels, network.get_layer(DROPOUT).input).trainable_variables]


def large(count: int, seed: int) -> Arrays:
    rows = task(count, seed)
    return replace(rows, inputs={"image": rows.inputs["image"].repeat(4, 1).repeat(4, 2)})


@pytest.mark.soak
@pytest.mark.parametrize("bfloat16", [False, True])
def test_pretrained_tower_stays_for_its_share_of_the_schedule_and_moves_after_it(
    pretrained: ModelConfig, bfloat16: bool
) -> None:
    from captune.model.training import Training

    train = large(32, 1)

    def learner() -> Any:
        config = TrialConfig(model=pretrained, train=TrainConfig(epochs=2, thaw=0.5, tower_rate=0.1, ema=0.5))
        return Training(config, train, [8] * LABELS, seed=0, bfloat16=bfloat16)

    through = learner()
    start = tower_weights(through)
    through.epoch(1)
    assert all((a == b).all() for a, b in zip(start, tower_weights(through), strict=True))
    checkpoint = through.checkpoint(1, "same")
    through.epoch(2)
    moved = tower_weights(through)
    assert any((a != b).any() for a, b in zip(start, moved, strict=True))
    resumed = learner()
    resumed.restore(checkpoint)
    resumed.epoch(2)
    assert all((a == b).all() for a, b in zip(moved, tower_weights(resumed), strict=True))


def test_tower_with_random_weights_has_the_rate_of_the_others(pretrained: ModelConfig) -> None:
    from captune.model.views import pretrained_weights

    assert pretrained.image is not None
    network = training(BOTH).network
    frozen = pretrained.image.model_copy(update={"frozen": True})
    for config in (BOTH, BOTH.model_copy(update={"image": None}), pretrained.model_copy(update={"image": frozen})):
        assert pretrained_weights(network, config) == []


def test_batches_are_read_ahead_in_order_and_untuned() -> None:
    """A data set that tunes itself has a thread that now and then is waited for at the end of an epoch."""
    from captune.model.on_tensorflow import read_ahead
    from captune.model.training import _Sequence

    arrays = of(task(40, 1), BOTH)
    read = read_ahead(_Sequence(arrays, 1, 1, 1))
    assert read.options().autotune.enabled is False
    assert int(read.cardinality()) == len(arrays) == 3
    for index, (inputs, labels) in enumerate(read):
        expected, truth = arrays.batch(1, index)
        assert all((inputs[name].numpy() == expected[name]).all() for name in ("image", "caption"))
        assert (labels.numpy() == truth).all()
