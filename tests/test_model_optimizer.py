"""The optimizer: Adam as its authors have it, whichever way TensorFlow is asked to compute it."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from captune.model.config import TrainConfig
from captune.model.storage import through

pytestmark = pytest.mark.slow

WORDS, WIDTH, RATE = 5, 2, 0.1
# Word 1 stands twice in a caption, word 2 in two captions, word 4 in none.
CAPTIONS = np.array([[1, 1, 2], [2, 3, 0]], np.int32)
GOALS = np.array([1.0, -2.0], np.float32)


def adam(weights: NDArray[Any], *, steps: int, decay: float, int4_from: int = 1000) -> NDArray[Any]:
    """Algorithm 1 of Kingma and Ba on the mean squared error of the sums of embedded captions, by hand.

    int4_from: step from which on the gradient is that of the weights as int4 gives them back.
    """
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, steps + 1):
        seen = through(weights.astype(np.float32), "int4") if step > int4_from else weights
        errors = seen[CAPTIONS].sum(axis=(1, 2)) - GOALS
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


@pytest.mark.parametrize("in_one_kernel", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_weights_are_int4_in_the_last_quarter_and_what_they_are_made_of_moves_by_their_gradient(
    in_one_kernel: bool, decay: float
) -> None:
    import keras

    from captune.model.optimizer import make_optimizer

    keras.utils.set_random_seed(5)
    table = keras.layers.Embedding(WORDS, WIDTH)
    tokens = keras.Input((3,), dtype="int32")
    network = keras.Model(tokens, keras.ops.sum(table(tokens), axis=(1, 2)))
    config = TrainConfig(learning_rate=RATE, optimizer="adamw" if decay else "adam", weight_decay=decay)
    optimizer = make_optimizer(config, steps=16, in_one_kernel=in_one_kernel, storage="int4")
    optimizer.build(network.trainable_variables)
    network.compile(optimizer, "mse")
    start = table.get_weights()[0].astype(np.float64)
    for step in range(1, 17):
        network.train_on_batch(CAPTIONS, GOALS)
        expected = adam(start, steps=step, decay=decay, int4_from=12)
        # Scales are rounded to float16, to the nearest one in training.
        near = {"rtol": 2e-3, "atol": 2e-3} if step > 12 else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(optimizer.variables[-1], expected, **near)
        there = table.get_weights()[0]
        assert (there == through(there, "int4")).all() == (step >= 12)
        np.testing.assert_allclose(there, expected, atol=np.abs(expected).max() / 7 if step >= 12 else 1e-5)


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


# The rate of a pretrained tower


def course(
    steps: int, in_one_kernel: bool = True, tower: bool = True, **settings: Any
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Weights of a tower and of a head before the first step and after each."""
    import keras

    from captune.model.optimizer import make_optimizer

    keras.utils.set_random_seed(3)
    first, second = keras.layers.Dense(3, name="tower"), keras.layers.Dense(1, name="head")
    pixels = keras.Input((2,))
    network = keras.Model(pixels, second(keras.ops.tanh(first(pixels))))
    config = TrainConfig(learning_rate=RATE, **settings)
    optimizer = make_optimizer(
        config, steps=steps, in_one_kernel=in_one_kernel, tower=first.trainable_variables if tower else ()
    )
    network.compile(optimizer, "mse")
    inputs, goals = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([[1.0], [-3.0]])
    courses: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    for step in range(steps + 1):
        if step:
            network.train_on_batch(inputs, goals)
        for weights, layer in zip(courses, (first, second), strict=True):
            weights.append(layer.get_weights()[0].astype(np.float64))
    return courses


@pytest.mark.parametrize("in_one_kernel", [True, False])
@pytest.mark.parametrize("decay", [{}, {"optimizer": "adamw", "weight_decay": 0.1}])
def test_first_step_of_a_tower_is_its_share_of_that_of_the_others(in_one_kernel: bool, decay: Any) -> None:
    alike, _ = course(1, in_one_kernel, tower=False, **decay)
    slower, _ = course(1, in_one_kernel, tower_rate=0.25, **decay)
    assert np.abs(alike[1] - alike[0]).min() > 0.05
    np.testing.assert_allclose(slower[1] - slower[0], 0.25 * (alike[1] - alike[0]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("in_one_kernel", [True, False])
@pytest.mark.parametrize("decay", [{}, {"optimizer": "adamw", "weight_decay": 0.1}])
def test_tower_at_the_rate_of_the_others_takes_their_course(in_one_kernel: bool, decay: Any) -> None:
    for one, other in zip(
        course(5, in_one_kernel, **decay), course(5, in_one_kernel, tower=False, **decay), strict=True
    ):
        np.testing.assert_allclose(one[-1], other[-1], rtol=1e-5)


@pytest.mark.parametrize("in_one_kernel", [True, False])
@pytest.mark.parametrize("decay", [{}, {"optimizer": "adamw", "weight_decay": 0.1}])
def test_tower_stays_until_it_thaws_and_its_first_step_is_no_longer_than_the_rate(
    in_one_kernel: bool, decay: Any
) -> None:
    tower, head = course(10, in_one_kernel, thaw=0.4, clip_norm=5.0, **decay)
    assert all((weights == tower[0]).all() for weights in tower[:5])
    assert all((after != before).all() for before, after in pairwise(head))
    first = np.abs(tower[5] - tower[4])
    assert (first > 0).all() and first.max() <= 1.5 * RATE


def test_average_of_a_frozen_tower_is_what_it_is() -> None:
    import keras

    from captune.model.optimizer import make_optimizer

    layer = keras.layers.Dense(2)
    network = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    config = TrainConfig(thaw=0.5, ema=0.9, learning_rate=RATE)
    optimizer = make_optimizer(config, steps=4, in_one_kernel=True, tower=layer.trainable_variables)
    network.compile(optimizer, "mse")
    before = layer.get_weights()[0]
    for _ in range(2):
        network.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))
    optimizer.finalize_variable_values(network.trainable_variables)
    np.testing.assert_allclose(layer.get_weights()[0], before, rtol=1e-6)
