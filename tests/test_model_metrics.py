"""Scores: as scikit-learn counts them, in any order of rows, and never flattered by the rule's own examples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from captune.model.metrics import (
    THRESHOLDS,
    DecisionRule,
    bootstrap_interval,
    cross_fitted,
    f1_per_example,
    fit_rule,
    mean_average_precision,
    score,
)


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
    labels = DecisionRule(0.5).decide(probabilities)
    scores = score(truth, probabilities, labels)
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
    assert fit_rule(truth[order], probabilities[order]) == rule
    before = score(truth, probabilities, rule.decide(probabilities))
    after = score(truth[order], probabilities[order], rule.decide(probabilities[order]))
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
    labels = DecisionRule(0.5).decide(probabilities)
    assert score(truth.astype(kind), probabilities, labels) == score(truth, probabilities, labels)


def test_scores_do_not_overflow_small_integers() -> None:
    truth = np.ones((700, 3), np.uint8)
    scores = score(truth, truth.astype(np.float32), truth)
    assert (scores.mean_f1, scores.micro_f1, scores.macro_f1, scores.map) == (1, 1, 1, 1)


@given(CASES, st.floats(0, 1))
def test_every_example_gets_a_label_and_the_likeliest_among_them(case: tuple[int, int, int], threshold: float) -> None:
    _, probabilities = drawn(*case)
    decided = DecisionRule(threshold).decide(probabilities)
    assert decided.any(axis=1).all()
    assert decided[np.arange(len(decided)), probabilities.argmax(axis=1)].all()
    assert decided[probabilities >= np.float32(threshold)].all()


def test_one_label_is_given_where_no_probability_reaches_the_threshold() -> None:
    decided = DecisionRule(0.9).decide(np.array([[0.2, 0.3, 0.1], [0.0, 0.0, 0.0]], np.float32))
    assert decided.tolist() == [[False, True, False], [True, False, False]]


def test_probability_equal_to_the_threshold_is_given() -> None:
    probabilities = np.array([[np.float32(0.3), np.float32(0.9)]], np.float32)
    assert DecisionRule(0.3).decide(probabilities).all()


def test_deciding_does_not_change_the_probabilities() -> None:
    _, probabilities = drawn(0, 5, 3)
    before = probabilities.copy()
    DecisionRule(0.5).decide(probabilities)
    assert (probabilities == before).all()


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf])
def test_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        DecisionRule(threshold)


@settings(max_examples=25)
@given(CASES)
def test_fitted_rule_is_the_best_with_its_neighbours_on_the_grid(case: tuple[int, int, int]) -> None:
    truth, probabilities = drawn(*case)

    def mean(threshold: float) -> float:
        return float(f1_per_example(truth, DecisionRule(threshold).decide(probabilities)).mean())

    def around(place: int) -> float:
        places = [min(max(near, 0), len(THRESHOLDS) - 1) for near in range(place - 5, place + 6)]
        return float(np.mean([means[near] for near in places]))

    means = [mean(float(threshold)) for threshold in THRESHOLDS]
    rule = fit_rule(truth, probabilities)
    assert rule.threshold in THRESHOLDS
    best = int(np.flatnonzero(rule.threshold == THRESHOLDS)[0])
    assert around(best) == pytest.approx(max(around(place) for place in range(len(THRESHOLDS))))


def test_threshold_that_is_right_by_chance_does_not_beat_a_plateau() -> None:
    # At 0.3 alone every row is right; from 0.4 to 0.6 all but one are.
    truth = np.array([[1, 0]] * 9 + [[1, 1]], np.uint8)
    probabilities = np.array([[0.9, 0.1]] * 8 + [[0.9, 0.295], [0.9, 0.305]], np.float32)
    means = [f1_per_example(truth, DecisionRule(t).decide(probabilities)).mean() for t in (0.3, 0.5)]
    assert means[0] == 1 > means[1]
    assert fit_rule(truth, probabilities).threshold > 0.3


def test_of_equally_good_neighbourhoods_the_nearest_to_a_half_is_taken() -> None:
    truth = np.array([[1, 0], [0, 1]])
    assert fit_rule(truth, np.array([[0.97, 0.01], [0.01, 0.97]])).threshold == 0.5
    assert fit_rule(truth, np.array([[0.97, 0.601], [0.01, 0.97]])).threshold == pytest.approx(0.66)
    assert fit_rule(np.ones((2, 2)), np.array([[0.97, 0.301], [0.301, 0.97]])).threshold == pytest.approx(0.25)


def test_grid_runs_from_5_to_95_percent() -> None:
    assert THRESHOLDS[0] == 0.05 and THRESHOLDS[-1] == 0.95
    assert np.diff(THRESHOLDS) == pytest.approx(0.01)


def opposed() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Even rows are right at 0.2 to 0.3, odd ones at 0.7 to 0.8: each half's rule is wrong on the other."""
    even, odd = [0.9, 0.3, 0.2], [0.9, 0.8, 0.7]
    truth, probabilities = np.array([[1, 1, 0]] * 8, np.uint8), np.array([even, odd] * 4, np.float32)
    return truth, probabilities


def test_each_half_is_decided_by_the_other_halfs_rule() -> None:
    truth, probabilities = opposed()
    labels = cross_fitted(truth, probabilities)
    assert (labels[0::2] == fit_rule(truth[1::2], probabilities[1::2]).decide(probabilities[0::2])).all()
    assert (labels[1::2] == fit_rule(truth[0::2], probabilities[0::2]).decide(probabilities[1::2])).all()
    assert labels[0].tolist() == [True, False, False]  # 0.3 is below the odd rows' threshold
    assert labels[1].tolist() == [True, True, True]


def test_cross_fitted_score_is_below_the_optimistic_one_where_the_halves_disagree() -> None:
    truth, probabilities = opposed()
    honest = f1_per_example(truth, cross_fitted(truth, probabilities)).mean()
    flattered = np.mean(
        [
            f1_per_example(truth[h::2], fit_rule(truth[h::2], probabilities[h::2]).decide(probabilities[h::2])).mean()
            for h in (0, 1)
        ]
    )
    assert flattered == 1
    assert honest < flattered


@given(CASES, st.integers(0, 1))
def test_own_half_has_no_say_in_its_rule(case: tuple[int, int, int], half: int) -> None:
    truth, probabilities = drawn(*case)
    if len(truth) < 2:
        return
    changed = truth.copy()
    changed[half::2] = 1 - changed[half::2]
    before, after = cross_fitted(truth, probabilities), cross_fitted(changed, probabilities)
    assert (before[half::2] == after[half::2]).all()


def test_single_example_is_scored_at_a_half() -> None:
    truth, probabilities = np.array([[1, 0]]), np.array([[0.6, 0.55]])
    assert cross_fitted(truth, probabilities).tolist() == [[True, True]]
    scores = score(truth, probabilities, cross_fitted(truth, probabilities))
    assert scores.mean_f1 == pytest.approx(2 / 3)
    assert scores.map == 1


def test_examples_without_any_label_give_finite_scores() -> None:
    truth, probabilities = np.zeros((4, 3), np.uint8), np.full((4, 3), 0.2, np.float32)
    scores = score(truth, probabilities, cross_fitted(truth, probabilities))
    assert (scores.mean_f1, scores.micro_f1, scores.macro_f1, scores.map) == (0, 0, 0, 0)


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
