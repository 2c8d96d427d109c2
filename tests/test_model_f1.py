"""F1 of label sets, and of what examples each move it."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from builders import epoch, record, refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from captune.model.config import TITLES, Metric
from captune.model.f1 import contributions
from captune.model.metrics import METRICS, Epoch, score, shares, standard_error
from captune.model.rule import VALUES, DecisionRule, RuleKind, fit_rule
from captune.model.size import Budget
from captune.results.attributes import epoch_attribute, epochs_of
from captune.results.frontier import frontier

F1 = {"mean_f1": "samples", "micro_f1": "micro", "macro_f1": "macro"}


def drawn(seed: int, examples: int = 400, labels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and probabilities that know something of it; labels of very different frequency."""
    random = np.random.default_rng(seed)
    often = np.linspace(0.02, 0.6, labels)
    truth = random.random((examples, labels)) < often
    truth[np.arange(examples), random.integers(0, labels, examples)] = True
    logits = 2.0 * truth - 1 + random.normal(0, 1.5, truth.shape)
    return truth.astype(np.uint8), 1 / (1 + np.exp(-logits))


def test_every_metric_is_one_that_is_declared_and_has_a_title() -> None:
    assert set(get_args(Metric)) < set(METRICS) and set(TITLES) == set(get_args(Metric))


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(F1)), st.integers(1, 30))
def test_mean_of_contributions_is_the_score(seed: int, metric: Metric, examples: int) -> None:
    random = np.random.default_rng(seed)
    truth, labels = (random.integers(0, 2, (examples, 4)) for _ in range(2))
    if metric == "mean_f1":
        truth[:, 0] = 1
    expected = f1_score(truth, labels, average=F1[metric], zero_division=0)
    assert contributions(metric, truth, labels).mean() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", get_args(Metric))
def test_standard_error_is_the_spread_of_the_score_over_samples(metric: Metric) -> None:
    truth, raw = drawn(0)
    answers = DecisionRule(0.5).answers(raw)
    random = np.random.default_rng(1)
    rows = [random.integers(0, len(truth), len(truth)) for _ in range(300)]
    spread = np.std([getattr(score(truth[each], DecisionRule(0.5).answers(raw[each])), metric) for each in rows])
    assert standard_error(metric, truth, answers) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("metric", get_args(Metric))
def test_shares_are_the_score_and_its_spread(metric: Metric) -> None:
    truth, raw = drawn(0)
    truth[:, 1] *= np.arange(len(truth)) % 97 == 0  # a rare label
    answers = DecisionRule(0.5).answers(raw)
    each = shares(metric, truth, answers)
    assert each.mean() == pytest.approx(getattr(score(truth, answers), metric), abs=1e-9)
    assert each.std() / np.sqrt(len(each)) == pytest.approx(standard_error(metric, truth, answers), rel=1e-9)
    assert shares(metric, truth[:1], DecisionRule(0.5).answers(raw[:1])).shape == (1,)


@pytest.mark.parametrize("kind", ["threshold", "relative"])
@pytest.mark.parametrize("metric", sorted(F1))
def test_value_of_the_rule_has_the_best_of_the_metric_around_it(metric: Metric, kind: RuleKind) -> None:
    truth, raw = drawn(0, 200)
    fitted = fit_rule(truth, raw, (kind,), metric=metric)
    scores = [getattr(score(truth, replace(fitted, value=value).answers(raw)), metric) for value in VALUES]
    around = np.convolve(np.pad(scores, 5, mode="edge"), np.full(11, 1 / 11), mode="valid")
    assert around[fitted.value == VALUES] == pytest.approx(around.max())


def test_rule_for_average_precision_is_that_for_mean_f1() -> None:
    truth, raw = drawn(3)
    assert fit_rule(truth, raw, metric="map") == fit_rule(truth, raw)


def test_epoch_is_judged_by_its_metric_and_says_so_in_the_study() -> None:
    judged = epoch(2, 0.5, micro_f1=0.8, metric="micro_f1")
    assert judged.score == 0.8
    name, value = epoch_attribute(judged, 7)
    assert epochs_of({name: value}) == {judged: 7}
    name, value = epoch_attribute(epoch(2, 0.5), 7)
    assert "metric" not in value and epochs_of({name: value}) == {epoch(2, 0.5): 7}
    refused(lambda: Epoch.read({**value, "metric": "accuracy"}), "accuracy", error=ValueError)


def test_best_epoch_and_best_trial_are_by_the_metric() -> None:
    def judged(number: int, *scores: tuple[float, float]) -> tuple[Epoch, ...]:
        return tuple(epoch(place, m, macro_f1=a, metric="macro_f1") for place, (m, a) in enumerate(scores, 1))

    good = record(0, curve=judged(0, (0.9, 0.1), (0.5, 0.4)), best_epoch=2, mean_f1=0.5)
    other = record(1, curve=judged(1, (0.9, 0.3)), best_epoch=1, mean_f1=0.9)
    assert (good.score, good.metric, other.score) == (0.4, "macro_f1", 0.3)
    assert frontier([other, good], Budget(10**9)) == [good]
