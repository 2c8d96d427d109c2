"""The optimizer: Adam as its authors have it, whichever way TensorFlow is asked to compute it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from captune.model.config import TrainConfig

pytestmark = pytest.mark.slow

WORDS, WIDTH, RATE = 5, 2, 0.1
# Word 1 stands twice in a caption, word 2 in two captions, word 4 in none.
CAPTIONS = np.array([[1, 1, 2], [2, 3, 0]], np.int32)
GOALS = np.array([1.0, -2.0], np.float32)


def adam(weights: NDArray[Any], *, steps: int, decay: float) -> NDArray[Any]:
    """Algorithm 1 of Kingma and Ba on the mean squared error of the sums of embedded captions, by hand."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, steps + 1):
        errors = weights[CAPTIONS].sum(axis=(1, 2)) - GOALS
        gradient = np.zeros_like(weights)
        np.add.at(gradient, CAPTIONS, np.broadcast_to(errors[:, None, None], (*CAPTIONS.shape, WIDTH)))
        weights = weights * (1 - decay * RATE)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights = weights - RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
    return weights


@pytest.mark.parametrize("in_one_kernel", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_word_that_stands_twice_in_a_batch_moves_as_adam_moves_it(in_one_kernel: bool, decay: float) -> None:
    import keras

    from captune.model.optimizer import make_optimizer

    table = keras.layers.Embedding(WORDS, WIDTH)
    tokens = keras.Input((3,), dtype="int32")
    network = keras.Model(tokens, keras.ops.sum(table(tokens), axis=(1, 2)))
    config = TrainConfig(learning_rate=RATE, optimizer="adamw" if decay else "adam", weight_decay=decay)
    network.compile(make_optimizer(config, steps=20, in_one_kernel=in_one_kernel), "mse")
    expected = adam(table.get_weights()[0].astype(np.float64), steps=20, decay=decay)
    for _ in range(20):
        network.train_on_batch(CAPTIONS, GOALS)
    np.testing.assert_allclose(table.get_weights()[0], expected, rtol=1e-4, atol=1e-5)


def rates(steps: int, **settings: Any) -> NDArray[np.float64]:
    from captune.model.optimizer import make_optimizer

    config = TrainConfig(learning_rate=0.01, **settings)
    rate = make_optimizer(config, steps=steps, in_one_kernel=True)._learning_rate
    return np.array([float(rate(step)) for step in range(steps + 1)])


def test_constant_rate_stays() -> None:
    assert rates(50) == pytest.approx(0.01)


def test_cosine_falls_from_the_rate_to_zero_at_the_last_step() -> None:
    steps = rates(50, schedule="cosine")
    assert steps[0] == pytest.approx(0.01)
    assert steps[25] == pytest.approx(0.005)
    assert steps[-1] == pytest.approx(0, abs=1e-8)
    assert (np.diff(steps) < 0).all()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_rises_from_zero_to_the_rate_in_its_share_of_the_steps(schedule: Any) -> None:
    steps = rates(50, schedule=schedule, warmup=0.2)
    assert steps[0] == pytest.approx(0, abs=1e-8)
    assert steps[10] == pytest.approx(0.01, rel=1e-5)
    assert (np.diff(steps[:11]) > 0).all()
    assert steps.max() <= 0.01 * (1 + 1e-6)
    assert steps[-1] == pytest.approx(0.01 if schedule == "constant" else 0, abs=1e-8)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_run_of_a_single_step_has_a_finite_rate(warmup: float) -> None:
    steps = rates(1, schedule="cosine", warmup=warmup)
    assert np.isfinite(steps).all() and steps.max() <= 0.01 * (1 + 1e-6)
