"""Weights of labels that follow how well each was told in the epoch before."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

F1 = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(F1)
def test_weights_have_mean_one_and_rise_with_the_errors(f1: list[float]) -> None:
    from captune.model.class_weights import HIGHEST, LOWEST, by_errors

    weights = by_errors(np.array(f1))
    assert weights.dtype == np.float32 and np.isfinite(weights).all()
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    assert weights.max() <= HIGHEST / LOWEST * weights.min() * (1 + 1e-5)
    order = np.argsort(f1)
    assert (np.diff(weights[order]) <= 1e-6).all()


@pytest.mark.parametrize("f1", [[0.0], [1.0, 1.0], [0.0, 0.0, 0.0], [0.7, 0.7]])
def test_labels_told_alike_weigh_alike(f1: list[float]) -> None:
    from captune.model.class_weights import by_errors

    assert by_errors(np.array(f1)) == pytest.approx(1)


def test_weights_are_what_is_wrong_relative_to_the_mean_within_their_bounds() -> None:
    from captune.model.class_weights import by_errors

    assert by_errors(np.array([0.9, 0.8, 0.7])) == pytest.approx([0.5, 1.0, 1.5])
    assert by_errors(np.array([1.0, 0.8, 0.6])) == pytest.approx(np.array([0.5, 1.0, 2.0]) / 3.5 * 3)


def test_counts_of_an_epoch_make_the_weights_of_the_next() -> None:
    import keras

    from captune.model.class_weights import DynamicWeights, by_errors

    weights = DynamicWeights(3)
    assert keras.ops.convert_to_numpy(weights.values) == pytest.approx(1)
    batches: list[Any] = [
        (np.array([[1, 0, 1], [1, 0, 0]]), np.array([[2.0, 1.0, -1.0], [3.0, -2.0, -1.0]])),
        (np.array([[0, 1, 1]]), np.array([[1.0, 2.0, 0.5]])),
    ]
    for targets, logits in batches:
        weights.update_state(targets.astype(np.float32), logits.astype(np.float32))
    # Label 0: 2 hits, 2 true, 3 given; label 1: 1, 1, 2; label 2: 1, 2, 1.
    f1 = np.array([4 / 5, 2 / 3, 2 / 3])
    assert float(weights.result()) == pytest.approx(f1.mean())
    weights.take_up()
    assert keras.ops.convert_to_numpy(weights.values) == pytest.approx(by_errors(f1), rel=1e-5)
    weights.reset_state()
    assert keras.ops.convert_to_numpy(weights.values) == pytest.approx(by_errors(f1), rel=1e-5)
    assert float(weights.result()) == 0
