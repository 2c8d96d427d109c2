"""Losses: the formulas of their papers, finite at any logit, and weights that rare labels get."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from captune.model.config import TrainConfig

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
TARGETS = (RNG.random((6, 4)) < 0.4).astype(np.float32)
LOGITS = RNG.normal(0, 2, (6, 4)).astype(np.float32)
COUNTS = [10, 20, 40, 80]
LOSSES: list[Any] = ["binary_crossentropy", "focal", "asymmetric"]


def value(targets: Any, logits: Any, **settings: Any) -> NDArray[np.float32]:
    import keras

    from captune.model.losses import make_loss

    losses = make_loss(TrainConfig(**settings), COUNTS)(targets, keras.ops.convert_to_tensor(logits))
    return np.asarray(keras.ops.convert_to_numpy(losses))


def entropy(targets: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


P = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))


def test_binary_crossentropy_is_its_formula() -> None:
    assert value(TARGETS, LOGITS) == pytest.approx(entropy(TARGETS, P).mean(axis=1), rel=1e-5)


@pytest.mark.parametrize("gamma", [1, 2, 3.5])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    wrong = np.where(TARGETS == 1, 1 - P, P)
    expected = (entropy(TARGETS, P) * wrong**gamma).mean(axis=1)
    assert value(TARGETS, LOGITS, loss="focal", gamma=gamma) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("gamma", [1, 4])
def test_asymmetric_loss_fades_easy_negatives_only(gamma: float) -> None:
    shifted = np.maximum(P - 0.05, 0)
    expected = np.where(TARGETS == 1, -np.log(P), -np.log(1 - shifted) * shifted**gamma).mean(axis=1)
    assert value(TARGETS, LOGITS, loss="asymmetric", gamma=gamma) == pytest.approx(expected, rel=1e-4)


def test_negative_below_the_margin_costs_nothing() -> None:
    assert value(np.zeros((1, 4), np.float32), np.full((1, 4), -4.0), loss="asymmetric") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", ["focal", "asymmetric"])
def test_larger_gamma_fades_easy_labels_more(loss: Any) -> None:
    easy = np.full((1, 4), -1.0, np.float32)
    few, many = (value(np.zeros((1, 4), np.float32), easy, loss=loss, gamma=gamma)[0] for gamma in (1, 5))
    assert 0 < many < few


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_loss_and_gradient_stay_finite_for_large_logits(loss: Any, size: float) -> None:
    import tensorflow as tf

    from captune.model.losses import make_loss

    targets = np.array([[0, 1, 0, 1]], np.float32)
    logits = tf.Variable(np.array([[size, size, -size, -size]], np.float32))
    with tf.GradientTape() as tape:
        losses = make_loss(TrainConfig(loss=loss), COUNTS)(targets, logits)
    assert np.isfinite(losses.numpy()).all()
    assert np.isfinite(tape.gradient(losses, logits).numpy()).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_logit_is_not_hidden(loss: Any) -> None:
    logits = LOGITS.copy()
    logits[2, 1] = np.nan
    losses = value(TARGETS, logits, loss=loss)
    assert np.isnan(losses).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("loss", LOSSES)
def test_one_loss_an_example_not_negative_and_the_better_prediction_costs_less(loss: Any) -> None:
    right, wrong = 3 * (2 * TARGETS - 1), -3 * (2 * TARGETS - 1)
    good, bad = value(TARGETS, right, loss=loss), value(TARGETS, wrong, loss=loss)
    assert good.shape == (6,)
    assert (good >= 0).all()
    assert (good < bad).all()


def test_label_smoothing_draws_targets_towards_a_half() -> None:
    soft = TARGETS * 0.9 + 0.05
    assert value(TARGETS, LOGITS, label_smoothing=0.1) == pytest.approx(value(soft, LOGITS), rel=1e-5)


def test_label_smoothing_punishes_certainty() -> None:
    sure = 20 * (2 * TARGETS - 1)
    assert (value(TARGETS, sure, label_smoothing=0.1) > value(TARGETS, sure) + 0.5).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_class_weights_multiply_each_labels_loss(loss: Any) -> None:
    from captune.model.losses import inverse_frequency

    weights = inverse_frequency(COUNTS)
    each = [value(TARGETS[:, [n]], LOGITS[:, [n]], loss=loss) * weights[n] for n in range(4)]
    assert value(TARGETS, LOGITS, loss=loss, class_weights="inverse") == pytest.approx(np.mean(each, axis=0), rel=1e-4)


@pytest.mark.parametrize("counts", [[10, 20, 40], [1], [0, 5], [0, 0], [1, 10**9]])
def test_inverse_frequencies_are_finite_and_have_mean_one(counts: list[int]) -> None:
    from captune.model.losses import inverse_frequency

    weights = inverse_frequency(counts)
    assert weights.dtype == np.float32
    assert weights.shape == (len(counts),)
    assert weights.mean() == pytest.approx(1)
    assert np.isfinite(weights).all() and (weights > 0).all()


def test_label_half_as_common_weighs_twice_as_much() -> None:
    from captune.model.losses import inverse_frequency

    weights = inverse_frequency([10, 20, 40])
    assert weights[0] == pytest.approx(2 * weights[1]) == pytest.approx(4 * weights[2])


def test_label_never_seen_weighs_as_if_seen_once() -> None:
    from captune.model.losses import inverse_frequency

    assert (inverse_frequency([0, 7]) == inverse_frequency([1, 7])).all()
