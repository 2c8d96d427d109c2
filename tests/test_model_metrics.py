"""Scores: as scikit-learn counts them, in any order of rows, and never flattered by the rule's own examples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from captune.model.f1 import f1_per_example
from captune.model.metrics import (
    Epoch,
    bootstrap_interval,
    expected_calibration_error,
    mean_average_precision,
    score,
)
from captune.model.rule import DecisionRule, cross_fitted, fit_rule


def drawn(seed: int, rows: int, labels: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Random truth with empty rows in it, and probabilities that know something of it."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, labels)) < 0.3).astype(np.uint8)
    return truth, np.clip(0.4 * truth + rng.random((rows, labels)) * 0.6, 0, 1).astype(np.float32)


CASES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9))


@given(CASES)
def test_scores_agree_with_scikit_learn(case: tuple[int, int, int]) -> None:
    from sklearn.metrics import f1_score

    truth, probabilities = drawn(*case)
    answers = DecisionRule(0.5).answers(probabilities)
    scores, labels = score(truth, answers), answers.labels
    # Two label sets that are both empty agree; scikit-learn scores them as it is told.
    reference = {"y_true": np.column_stack([truth, truth * 0]), "y_pred": np.column_stack([labels, truth * 0])}
    assert scores.mean_f1 == pytest.approx(f1_score(**reference, average="samples", zero_division=1.0))
    assert scores.micro_f1 == pytest.approx(f1_score(**reference, average="micro", zero_division=0.0))
    per_label = f1_score(**reference, average=None, zero_division=0.0)[: truth.shape[1]]
    assert scores.per_label == pytest.approx(per_label)
    assert scores.macro_f1 == pytest.approx(per_label.mean())
    assert scores.examples == len(truth)


@given(CASES)
def test_map_is_the_mean_of_each_occurring_labels_average_precision(case: tuple[int, int, int]) -> None:
    from sklearn.metrics import average_precision_score

    truth, probabilities = drawn(*case)
    columns = [n for n in range(truth.shape[1]) if truth[:, n].any()]
    each = [average_precision_score(truth[:, n], probabilities[:, n]) for n in columns]
    assert mean_average_precision(truth, probabilities) == pytest.approx(np.mean(each) if each else 0.0)


@given(CASES)
def test_order_of_examples_changes_no_score(case: tuple[int, int, int]) -> None:
    truth, probabilities = drawn(*case)
    order = np.random.default_rng(case[0] + 1).permutation(len(truth))
    rule = fit_rule(truth, probabilities)
    before, after = score(truth, rule.answers(probabilities)), score(truth[order], rule.answers(probabilities[order]))
    assert after.mean_f1 == pytest.approx(before.mean_f1)
    assert after.per_label == pytest.approx(before.per_label)
    assert after.map == pytest.approx(before.map)


def test_f1_of_an_example_is_that_of_its_label_sets() -> None:
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]])
    labels = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert f1_per_example(truth, labels).tolist() == pytest.approx([1, 2 / 3, 0, 1, 0, 0])


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_number_type_of_the_truth_does_not_matter(kind: type) -> None:
    truth, probabilities = drawn(3, 300, 4)
    answers = DecisionRule(0.5).answers(probabilities)
    assert score(truth.astype(kind), answers) == score(truth, answers)


def test_scores_do_not_overflow_small_integers() -> None:
    truth = np.ones((700, 3), np.uint8)
    scores = score(truth, DecisionRule(0.5).answers(truth.astype(np.float32)))
    assert (scores.mean_f1, scores.micro_f1, scores.macro_f1, scores.map, scores.ece) == (1, 1, 1, 1, 0)


def test_calibration_error_is_the_mean_gap_of_its_bins() -> None:
    # Bins of a fifteenth: 0.81 and 0.85 share one (0.83, of which half are true), 0.1 has its own, 1.0 is in the last.
    truth = np.array([[1, 0], [0, 1]])
    probabilities = np.array([[0.81, 0.1], [0.85, 1.0]])
    assert expected_calibration_error(truth, probabilities) == pytest.approx((2 * 0.33 + 0.1 + 0.0) / 4)


@given(CASES)
def test_calibration_error_is_that_of_a_loop_over_bins(case: tuple[int, int, int]) -> None:
    truth, probabilities = drawn(*case)
    total = 0.0
    for number in range(15):
        inside = np.minimum((probabilities * 15).astype(int), 14) == number
        if inside.any():
            total += inside.sum() * abs(probabilities[inside].astype(float).mean() - truth[inside].mean())
    assert expected_calibration_error(truth, probabilities) == pytest.approx(total / truth.size, abs=1e-7)


def test_probabilities_that_are_certain_and_right_have_no_calibration_error_and_wrong_ones_all() -> None:
    truth = np.array([[1, 0], [0, 1]])
    assert expected_calibration_error(truth, truth.astype(np.float32)) == 0
    assert expected_calibration_error(truth, 1 - truth.astype(np.float32)) == 1


@given(CASES, st.floats(0.05, 5), st.floats(-5, 5))
def test_calibration_changes_the_calibration_error_and_never_the_average_precision(
    case: tuple[int, int, int], scale: float, shift: float
) -> None:
    truth, raw = drawn(*case)
    before, after = (
        score(truth, DecisionRule(0.5, "relative", *numbers).answers(raw)) for numbers in ((1, 0), (scale, shift))
    )
    assert after.map == before.map == mean_average_precision(truth, raw)
    assert before.ece == expected_calibration_error(truth, raw)
    assert after.ece == expected_calibration_error(truth, DecisionRule(0.5, "threshold", scale, shift).calibrated(raw))


def test_examples_without_any_label_give_finite_scores() -> None:
    truth, probabilities = np.zeros((4, 3), np.uint8), np.full((4, 3), 0.2, np.float32)
    scores = score(truth, cross_fitted(truth, probabilities))
    assert (scores.mean_f1, scores.micro_f1, scores.macro_f1, scores.map) == (0, 0, 0, 0)
    assert 0 <= scores.ece < 0.2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 1000))
@settings(max_examples=20)
def test_interval_holds_the_mean_and_is_the_same_for_the_same_seed(values: list[float], seed: int) -> None:
    scores = np.array(values)
    low, high = bootstrap_interval(scores, seed=seed, draws=200)
    assert scores.min() - 1e-12 <= low <= high <= scores.max() + 1e-12
    assert (low, high) == bootstrap_interval(scores, seed=seed, draws=200)


def test_interval_covers_the_mean_and_narrows_with_more_examples() -> None:
    def width(count: int) -> float:
        scores = np.random.default_rng(1).random(count)
        low, high = bootstrap_interval(scores, seed=0)
        assert low < scores.mean() < high
        return high - low

    # The width falls with the square root of the count: here to about a tenth.
    assert width(3000) < width(30) / 5


def test_interval_depends_on_its_seed() -> None:
    scores = np.random.default_rng(0).random(50)
    assert bootstrap_interval(scores, seed=0) != bootstrap_interval(scores, seed=1)


def test_interval_of_equal_scores_is_that_score() -> None:
    assert bootstrap_interval(np.full(9, 0.25), seed=0) == (0.25, 0.25)


# What an epoch reports


def test_epoch_of_before_has_a_threshold_for_its_rule_and_no_calibration() -> None:
    epoch = Epoch.read({"epoch": 3, "mean_f1": 0.5, "threshold": 0.42})
    assert epoch.rule == DecisionRule(0.42, "threshold", 1.0, 0.0)
    assert math.isnan(epoch.ece) and epoch.mean_f1 == 0.5


def test_epoch_without_a_rule_has_none() -> None:
    assert Epoch.read({"epoch": 1}).rule is None and Epoch.read({"epoch": 1, "rule": None}).rule is None


@pytest.mark.parametrize(
    "rule", [5, "x", [], {}, {"value": 2}, {"value": 0.5, "kind": "median"}, {"value": 0.5, "x": 1}]
)
def test_rule_that_is_none_is_refused(rule: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Epoch.read({"epoch": 1, "rule": rule})
