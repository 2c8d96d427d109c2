"""The rule: calibrated probabilities in the network's order, label sets as defined, a fit that chance cannot lead."""

import itertools
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from captune.model.f1 import f1_per_example
from captune.model.metrics import expected_calibration_error
from captune.model.rule import RULES, VALUES, DecisionRule, RuleKind, cross_fitted, expected_f1, fit_rule

CASES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9))
CALIBRATIONS = st.tuples(st.floats(0.01, 20), st.floats(-20, 20))
RULE = st.builds(DecisionRule, st.floats(0, 1), st.sampled_from(RULES), st.floats(1e-9, 1e9), st.floats(-1e9, 1e9))
PROBABILITIES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=12)


def drawn(seed: int, rows: int, labels: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Random truth with empty rows in it, and probabilities that know something of it."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, labels)) < 0.3).astype(np.uint8)
    return truth, np.clip(0.4 * truth + rng.random((rows, labels)) * 0.6, 0, 1).astype(np.float32)


def calibrated_draw(seed: int, rows: int = 4000, labels: int = 6) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Probabilities that are right, and labels drawn from them independently."""
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(0.4, 1.2, (rows, labels)).astype(np.float32)
    return (rng.random(probabilities.shape) < probabilities).astype(np.uint8), probabilities


def squashed(probabilities: NDArray[np.float32], scale: float, shift: float) -> NDArray[np.float32]:
    """What a network gives whose logits are not those of its probabilities."""
    logits = np.log(probabilities.astype(np.float64)) - np.log1p(-probabilities.astype(np.float64))
    return (1 / (1 + np.exp(-(scale * logits + shift)))).astype(np.float32)


def mean_f1(truth: Any, labels: Any) -> float:
    return float(f1_per_example(truth, labels).mean())


# The value


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_value_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        DecisionRule(value)


@pytest.mark.parametrize("numbers", [(0, 0), (-1, 0), (math.nan, 0), (math.inf, 0), (1, math.nan), (1, -math.inf)])
def test_calibration_that_turns_the_order_round_or_is_no_number_is_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scale above 0"):
        DecisionRule(0.5, "threshold", *numbers)


def test_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="expected_f1, relative, threshold, got 'median'"):
        DecisionRule(0.5, "median")  # type: ignore[arg-type]


@given(RULE)
def test_rule_is_what_its_values_by_name_make(rule: DecisionRule) -> None:
    assert DecisionRule(**asdict(rule)) == rule


def test_rule_is_shown_with_the_value_that_it_uses() -> None:
    shown = [str(DecisionRule(0.25, kind, 1.5, -0.5)) for kind in RULES]
    assert shown == ["expected_f1", "relative 0.25", "threshold 0.25"]


# Calibration


@given(PROBABILITIES, CALIBRATIONS)
def test_calibrated_probabilities_keep_their_order_and_are_from_0_to_1(
    values: list[float], calibration: tuple[float, float]
) -> None:
    raw = np.sort(np.array([values], np.float32))
    calibrated = DecisionRule(0.5, "threshold", *calibration).calibrated(raw)
    assert calibrated.dtype == raw.dtype and calibrated.shape == raw.shape
    assert (np.diff(calibrated) >= 0).all() and calibrated.min() >= 0 and calibrated.max() <= 1


@given(PROBABILITIES)
def test_without_calibration_probabilities_are_the_networks_own_bits(values: list[float]) -> None:
    raw = np.array([values], np.float32)
    assert (DecisionRule(0.5).calibrated(raw) == raw).all()


def test_calibration_is_platts() -> None:
    raw = np.array([[0.5, 0.8, 0.2, 0.0, 1.0]])
    calibrated = DecisionRule(0.5, "threshold", 2.0, -1.0).calibrated(raw)[0]
    by_hand = [1 / (1 + math.exp(-(2 * math.log(p / (1 - p)) - 1))) for p in (0.5, 0.8, 0.2)]
    assert calibrated[:3] == pytest.approx(by_hand)
    assert 0 <= calibrated[3] < 1e-70 and 1 - 1e-14 < calibrated[4] <= 1, "finite at both ends"


@pytest.mark.parametrize(("scale", "shift"), [(0.4, -1.0), (1.0, 0.0), (1.6, 0.7), (0.3, 2.0)])
def test_fit_finds_the_calibration_that_undoes_what_a_loss_did_to_probabilities(scale: float, shift: float) -> None:
    truth, probabilities = calibrated_draw(1, rows=20_000)
    rule = fit_rule(truth, squashed(probabilities, scale, shift))
    # Of 120,000 pairs; the standard errors of scale and shift are below 0.01 of logits that are not squashed.
    assert rule.scale * scale == pytest.approx(1, abs=0.04)
    assert rule.shift + rule.scale * shift == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_the_likeliest_of_all_to_the_fifth_digit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.integers(-300, 300, (400, 3)) / 50  # to which a fit rounds
    truth = (generator.random(logits.shape) < 1 / (1 + np.exp(1 - 0.7 * logits))).astype(np.uint8)
    rule = fit_rule(truth, (1 / (1 + np.exp(-logits))).astype(np.float32))

    def unlikely(scale: float, shift: float) -> float:
        x = scale * logits + shift
        return float((np.logaddexp(0, x) - truth * x).sum() + ((scale - 1) ** 2 + shift**2) / 2)

    for scale, shift in ((2e-5, 0), (-2e-5, 0), (0, 2e-5), (0, -2e-5)):
        assert unlikely(rule.scale + scale, rule.shift + shift) > unlikely(rule.scale, rule.shift)


@pytest.mark.parametrize("seed", range(3))
def test_each_half_is_calibrated_by_the_other_and_well(seed: int) -> None:
    truth, probabilities = calibrated_draw(seed)
    raw = squashed(probabilities, 0.3, 1.0)
    answers = cross_fitted(truth, raw)
    assert (answers.raw == raw).all()
    assert expected_calibration_error(truth, raw) > 0.1
    assert expected_calibration_error(truth, answers.probabilities) < 0.02
    assert (answers.probabilities[0::2] == fit_rule(truth[1::2], raw[1::2]).calibrated(raw[0::2])).all()


@pytest.mark.parametrize("truth", [[[1, 0]], [[0, 0]], [[1, 1]], [[0, 1]]])
@pytest.mark.parametrize("raw", [[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 0.0]], [[1.0, 1.0]]])
def test_one_example_of_any_kind_gives_a_rule_that_stays_near_what_the_network_says(truth: Any, raw: Any) -> None:
    rule = fit_rule(np.array(truth), np.array(raw, np.float32))
    assert 0 < rule.scale < 10 and abs(rule.shift) < 10


def test_network_that_is_wrong_more_often_than_right_keeps_its_order() -> None:
    truth, probabilities = calibrated_draw(3)
    raw = 1 - probabilities
    rule = fit_rule(truth, raw)
    assert rule.scale == 0.01
    assert (rule.calibrated(raw).argmax(axis=1) == raw.argmax(axis=1)).mean() > 0.99


# Label sets


@given(CASES, RULE)
def test_every_example_gets_a_label_and_the_likeliest_among_them(
    case: tuple[int, int, int], rule: DecisionRule
) -> None:
    _, raw = drawn(*case)
    decided = rule.decide(raw)
    assert decided.any(axis=1).all()
    assert decided[np.arange(len(decided)), raw.argmax(axis=1)].all()
    least_given, most_left = np.where(decided, raw, 2).min(axis=1), np.where(decided, -1, raw).max(axis=1)
    assert (least_given >= most_left).all(), "no label is given while a likelier one is not"


def test_one_label_is_given_where_no_probability_reaches_the_threshold() -> None:
    decided = DecisionRule(0.9).decide(np.array([[0.2, 0.3, 0.1], [0.0, 0.0, 0.0]], np.float32))
    assert decided.tolist() == [[False, True, False], [True, False, False]]


def test_probability_equal_to_the_threshold_is_given() -> None:
    probabilities = np.array([[np.float32(0.3), np.float32(0.9)]], np.float32)
    assert DecisionRule(0.3).decide(probabilities).all()


@given(CASES, st.floats(0, 1))
def test_threshold_gives_what_reaches_it(case: tuple[int, int, int], threshold: float) -> None:
    _, raw = drawn(*case)
    likeliest = raw == raw.max(axis=1, keepdims=True)
    decided = DecisionRule(threshold).decide(raw)
    assert (decided | likeliest == (raw >= threshold) | likeliest).all()


@given(CASES, st.floats(0.01, 1))
def test_relative_gives_what_reaches_a_share_of_the_largest(case: tuple[int, int, int], share: float) -> None:
    _, raw = drawn(*case)
    decided = DecisionRule(share, "relative").decide(raw)
    assert (decided == (raw / raw.max(axis=1, keepdims=True) >= share)).all()


@given(CASES, CALIBRATIONS)
@example((596, 37, 2), (18.0, 0.0))
def test_whole_share_of_the_largest_gives_the_largest_alone(
    case: tuple[int, int, int], calibration: tuple[float, float]
) -> None:
    """Where all are too small for a float32, the largest of those that are not calibrated."""
    _, raw = drawn(*case)
    rule = DecisionRule(1.0, "relative", *calibration)
    calibrated = rule.calibrated(raw)
    calibrated = np.where(calibrated.any(axis=1, keepdims=True), calibrated, raw)
    assert (rule.decide(raw) == (calibrated == calibrated.max(axis=1, keepdims=True))).all()


def test_deciding_does_not_change_the_probabilities() -> None:
    _, raw = drawn(0, 5, 3)
    before = raw.copy()
    for kind in RULES:
        DecisionRule(0.5, kind, 1.5, 0.5).answers(raw)
    assert (raw == before).all()


def test_no_examples_get_no_labels() -> None:
    for kind in RULES:
        assert DecisionRule(0.5, kind, 1.5).decide(np.empty((0, 4), np.float32)).shape == (0, 4)


def by_enumeration(p: list[float], given: tuple[int, ...]) -> float:
    """Expected F1 of a label set, over all that may be true of independent labels."""
    total = 0.0
    for truth in itertools.product((0, 1), repeat=len(p)):
        chance = math.prod(q if y else 1 - q for q, y in zip(p, truth, strict=True))
        total += chance * 2 * sum(truth[label] for label in given) / (len(given) + sum(truth))
    return total


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6))
def test_expected_f1_is_that_of_all_sets_enumerated(p: list[float]) -> None:
    ranked = sorted(p, reverse=True)
    expected = expected_f1(np.array([ranked], np.float32))[0]
    firsts = [by_enumeration(ranked, tuple(range(count))) for count in range(1, len(p) + 1)]
    assert expected == pytest.approx(firsts, abs=1e-12)
    (labels,) = DecisionRule(0.0, "expected_f1").decide(np.array([p], np.float32))
    sets = [given for count in range(1, len(p) + 1) for given in itertools.combinations(range(len(p)), count)]
    best = max(by_enumeration(p, given) for given in sets)
    assert by_enumeration(p, tuple(np.flatnonzero(labels))) == pytest.approx(best, abs=1e-12)


def test_expected_f1_of_eighteen_labels_is_the_mean_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    p = np.sort(rng.beta(0.3, 1.5, 18))[::-1]
    truth = rng.random((200_000, 18)) < p
    found = expected_f1(p[None])[0]
    for count in (1, 3, 10, 18):
        given = np.arange(18) < count
        # Standard error of the mean below 0.001: five of them.
        assert found[count - 1] == pytest.approx(mean_f1(truth, np.broadcast_to(given, truth.shape)), abs=0.005)


def test_labels_beyond_those_looked_at_count_together_and_take_no_time() -> None:
    rng = np.random.default_rng(0)
    p = np.sort(rng.beta(0.05, 5, (50, 1000)), axis=1)[:, ::-1]
    found = expected_f1(p)
    assert found.shape == (50, 32)
    truth = rng.random((4000, 1000)) < p[0]
    given = np.arange(1000) < 4
    assert found[0, 3] == pytest.approx(mean_f1(truth, np.broadcast_to(given, truth.shape)), abs=0.02)


# The fit


@settings(max_examples=25)
@given(CASES, st.sampled_from(["threshold", "relative"]))
def test_fitted_value_is_the_best_with_its_neighbours(case: tuple[int, int, int], kind: RuleKind) -> None:
    truth, raw = drawn(*case)
    rule = fit_rule(truth, raw, [kind])

    def mean(value: float) -> float:
        return mean_f1(truth, DecisionRule(value, kind, rule.scale, rule.shift).decide(raw))

    def around(place: int) -> float:
        places = [min(max(near, 0), len(VALUES) - 1) for near in range(place - 5, place + 6)]
        return float(np.mean([means[near] for near in places]))

    truth[~truth.any(axis=1), 0] = 1  # a row without labels scores nothing whatever is given
    rule = fit_rule(truth, raw, [kind])
    means = [mean(float(value)) for value in VALUES]
    best = int(np.flatnonzero(rule.value == VALUES)[0])
    assert around(best) == pytest.approx(max(around(place) for place in range(len(VALUES))))


def test_value_that_is_right_by_chance_does_not_beat_a_plateau() -> None:
    # At 0.3 of the largest alone every row is right; from 0.4 to 0.6 all but one are.
    truth = np.array([[1, 0]] * 9 + [[1, 1]], np.uint8)
    raw = np.array([[0.9, 0.1]] * 8 + [[0.9, 0.26], [0.9, 0.275]], np.float32)
    means = [mean_f1(truth, DecisionRule(value, "relative").decide(raw)) for value in (0.3, 0.5)]
    assert means[0] == 1 > means[1]
    rule = fit_rule(truth, raw, ["relative"])
    assert mean_f1(truth, rule.decide(raw)) == means[1]


def test_of_equally_good_values_the_nearest_to_a_half_is_taken() -> None:
    truth = np.array([[1, 0], [0, 1]])
    for kind in ("threshold", "relative"):
        assert fit_rule(truth, np.array([[0.97, 0.01], [0.01, 0.97]]), [kind]).value == 0.5


def test_values_run_from_5_to_95_percent() -> None:
    assert VALUES[0] == 0.05 and VALUES[-1] == 0.95
    assert np.diff(VALUES) == pytest.approx(0.01)


@pytest.mark.parametrize("seed", range(5))
def test_labels_that_are_independent_are_given_by_expected_f1(seed: int) -> None:
    truth, probabilities = calibrated_draw(seed)
    rule = fit_rule(truth, squashed(probabilities, 0.5, 0.5))
    assert rule.kind == "expected_f1"


@pytest.mark.parametrize("seed", range(5))
def test_another_kind_is_taken_where_labels_come_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    together = rng.random((2000, 1)) < 0.3
    truth = np.hstack([rng.random((2000, 1)) < 0.9, np.repeat(together, 10, axis=1)])
    raw = np.full(truth.shape, 0.3, np.float32)
    raw[:, 0] = 0.9
    rule = fit_rule(truth, raw)
    independent, best = (mean_f1(truth, fit_rule(truth, raw, kinds).decide(raw)) for kinds in (["expected_f1"], RULES))
    assert rule.kind != "expected_f1" and best > independent + 0.1


@pytest.mark.parametrize("seed", range(6))
def test_chosen_rule_is_hardly_worse_than_the_threshold_on_other_examples(seed: int) -> None:
    truth, probabilities = calibrated_draw(seed, rows=6000)
    raw = squashed(probabilities, 0.5, -0.5)
    plain = fit_rule(truth[:1000], raw[:1000], ["threshold"]).decide(raw[1000:])
    chosen = fit_rule(truth[:1000], raw[:1000]).decide(raw[1000:])
    assert mean_f1(truth[1000:], chosen) >= mean_f1(truth[1000:], plain) - 0.001


@given(CASES)
def test_order_of_examples_changes_no_rule(case: tuple[int, int, int]) -> None:
    truth, raw = drawn(*case)
    order = np.random.default_rng(case[0] + 1).permutation(len(truth))
    assert fit_rule(truth[order], raw[order]) == fit_rule(truth, raw)


def opposed() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Even rows have the second label wherever the network says 0.3, odd rows have not: the halves' rules differ."""
    raw = np.array([[0.9, 0.3, 0.01]] * 40, np.float32)
    truth = np.array([[1, 1, 0], [1, 0, 0]] * 20, np.uint8)
    return truth, raw


def test_each_half_is_decided_by_the_other_halfs_rule() -> None:
    truth, raw = opposed()
    labels = cross_fitted(truth, raw).labels
    assert (labels[0::2] == fit_rule(truth[1::2], raw[1::2]).decide(raw[0::2])).all()
    assert (labels[1::2] == fit_rule(truth[0::2], raw[0::2]).decide(raw[1::2])).all()
    assert labels[0].tolist() == [True, False, False]
    assert labels[1].tolist() == [True, True, False]


def test_cross_fitted_score_is_below_the_optimistic_one_where_the_halves_disagree() -> None:
    truth, raw = opposed()
    flattered = [mean_f1(truth[h::2], fit_rule(truth[h::2], raw[h::2]).decide(raw[h::2])) for h in (0, 1)]
    assert flattered == [1, 1]
    assert mean_f1(truth, cross_fitted(truth, raw).labels) < 0.7


@given(CASES, st.integers(0, 1))
def test_own_half_has_no_say_in_its_rule(case: tuple[int, int, int], half: int) -> None:
    truth, raw = drawn(*case)
    if len(truth) < 2:
        return
    changed = truth.copy()
    changed[half::2] = 1 - changed[half::2]
    before, after = cross_fitted(truth, raw), cross_fitted(changed, raw)
    assert (before.labels[half::2] == after.labels[half::2]).all()
    assert (before.probabilities[half::2] == after.probabilities[half::2]).all()


def test_single_example_is_decided_at_a_half_of_what_the_network_says() -> None:
    answers = cross_fitted(np.array([[1, 0]]), np.array([[0.6, 0.55]]))
    assert answers.labels.tolist() == [[True, True]] and answers.probabilities.tolist() == [[0.6, 0.55]]
