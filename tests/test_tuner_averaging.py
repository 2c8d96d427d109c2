"""Which trials are averaged: the best first, always the one that gains most, and only what fits."""

from collections.abc import Sequence

import numpy as np
import pytest
from builders import epoch
from builders import record as a_record
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.model.config import Metric
from captune.model.f1 import f1_per_example
from captune.model.metrics import score
from captune.model.rule import cross_fitted, fit_rule
from captune.model.size import Budget
from captune.results.records import Record
from captune.tuner.decisions.averaging import Addition, Candidate, choose_members
from captune.tuner.winner.choose import candidates

ROWS, LABELS = 1000, 6


def drawn(noises: Sequence[float], seed: int = 0) -> tuple[np.ndarray, list[Candidate]]:
    """Truth, and a candidate for each noise that is added to the same evidence."""
    random = np.random.default_rng(seed)
    truth = random.random((ROWS, LABELS)) < 0.3
    evidence = np.where(truth, 1.5, -1.5) + random.normal(0, 1, truth.shape)
    logits = [evidence + random.normal(0, noise, truth.shape) for noise in noises]
    return truth, [Candidate(trial, 1 / (1 + np.exp(-each))) for trial, each in enumerate(logits)]


def anything(trials: Sequence[int]) -> bool:
    return True


def test_networks_that_err_apart_are_averaged_and_gain_what_is_told() -> None:
    truth, pool = drawn([1.5, 1.5, 1.5, 1.5])
    choice = choose_members(truth, pool, anything, None)
    assert choice.trials[0] == 0 and len(choice.trials) == len(set(choice.trials)) > 2
    assert all(added.is_clear for added in choice.additions)
    alone = f1_per_example(truth, cross_fitted(truth, pool[0].probabilities).labels).mean()
    assert choice.mean_f1 == pytest.approx(alone + choice.gain)
    assert tuple(added.trial for added in choice.additions) == choice.trials[1:]


def test_copies_of_the_best_gain_nothing_and_it_stays_alone() -> None:
    truth, (best, *_) = drawn([1.0])
    choice = choose_members(truth, [best, Candidate(7, best.probabilities)], anything, None)
    assert (choice.trials, choice.additions) == ((0,), ())
    assert choice.declined == Addition(7, 0.0, 0.0) and not choice.full


def test_noise_is_declined_by_auto_and_taken_where_a_number_is_asked_for() -> None:
    truth, pool = drawn([0.1, 6.0])
    assert choose_members(truth, pool, anything, None).trials == (0,)
    forced = choose_members(truth, pool, anything, 2)
    assert forced.trials == (0, 1) and forced.additions[0].gain < 0 and forced.declined is None


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "map"])
def test_networks_are_weighed_by_the_metric_of_the_search(metric: Metric) -> None:
    truth, pool = drawn([1.5, 1.5, 1.5])
    choice = choose_members(truth, pool, anything, None, metric)
    members = [candidate.probabilities for candidate in pool if candidate.trial in choice.trials]
    answers = cross_fitted(truth, np.mean(members, axis=0), metric=metric)
    found = score(truth, answers)
    assert choice.rule == fit_rule(truth, np.mean(members, axis=0), metric=metric)
    assert len(members) > 1 and (choice.score, choice.mean_f1) == (getattr(found, metric), found.mean_f1)
    alone = getattr(score(truth, cross_fitted(truth, pool[0].probabilities, metric=metric)), metric)
    assert choice.score == pytest.approx(alone + choice.gain, abs=0.002)


def test_candidates_stand_in_the_order_of_the_metric_of_the_search() -> None:
    def trial(number: int, micro_f1: float) -> Record:
        curve = (epoch(1, 0.9 - micro_f1, metric="micro_f1", micro_f1=micro_f1),)
        return a_record(number, curve=curve, config={"text.units": 8})

    records = [trial(number, score) for number, score in enumerate((0.5, 0.3, 0.4, 0.2))]
    assert [record.number for record in candidates(records, Budget(10**9), records[0], 3)] == [0, 2, 1]


def test_what_does_not_fit_beside_the_others_is_left_out() -> None:
    truth, pool = drawn([1.5] * 4)
    two = choose_members(truth, pool, lambda trials: len(trials) <= 2, 4)
    assert len(two.trials) == 2 and two.full
    without = choose_members(truth, pool, lambda trials: 1 not in trials, 4)
    assert sorted(without.trials) == [0, 2, 3] and without.full
    alone = choose_members(truth, pool, lambda trials: len(trials) == 1, None)
    assert alone.trials == (0,) and alone.full and alone.declined is None


def test_pool_that_is_used_up_is_not_full() -> None:
    truth, pool = drawn([1.5, 1.5])
    assert not choose_members(truth, pool, anything, 5).full


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_members_are_as_many_as_asked_for_or_as_there_are_and_each_the_best_to_add(
    noises: list[float], seed: int, most: int
) -> None:
    truth, pool = drawn(noises, seed)
    choice = choose_members(truth, pool, anything, most)
    assert len(choice.trials) == min(most, len(noises))
    if len(choice.trials) > 1:
        pairs = [
            cross_fitted(truth, np.mean([pool[0].probabilities, other.probabilities], axis=0)).labels
            for other in pool[1:]
        ]
        best = max(f1_per_example(truth, labels).mean() for labels in pairs)
        assert f1_per_example(truth, pairs[choice.trials[1] - 1]).mean() == best


BUDGET = Budget(1_000)


def trial(number: int, score: float, weights_bytes: int = 500, **config: object) -> Record:
    plain = {"storage": "float32", "num_labels": 3, "text.units": 8, "text.encoder": "convolution", "image": None}
    curve = (epoch(1, score, standard_error=0.01),)
    return a_record(number, curve=curve, weights_bytes=weights_bytes, config=plain | config)


def numbers(first: Record, others: Sequence[Record], most: int = 9) -> list[int]:
    return [record.number for record in candidates([*others, first], BUDGET, first, most)]


def test_other_kinds_of_networks_come_before_more_of_the_same() -> None:
    first = trial(0, 0.9)
    others = [trial(1, 0.899), trial(2, 0.898), trial(3, 0.89, **{"text.encoder": "average"}), trial(4, 0.88)]
    assert numbers(first, others) == [0, 3, 1, 2, 4]
    assert numbers(first, others, 3) == [0, 3, 1]


def test_kind_that_is_clearly_worse_has_no_precedence() -> None:
    first = trial(0, 0.9)
    assert numbers(first, [trial(1, 0.899), trial(2, 0.85, **{"text.encoder": "gru"})]) == [0, 1, 2]


@pytest.mark.parametrize(
    "other",
    [
        trial(1, 0.8, storage="int8"),
        trial(1, 0.8, **{"image.side": 64}),
        trial(1, 0.8, weights_bytes=1_001),
        a_record(1, None, config={"storage": "float32"}),
        a_record(1, 0.8, "failed", config={"storage": "float32", "num_labels": 3, "text.units": 8}),
    ],
)
def test_trial_that_cannot_be_averaged_is_no_candidate(other: Record) -> None:
    assert numbers(trial(0, 0.9), [other]) == [0]
