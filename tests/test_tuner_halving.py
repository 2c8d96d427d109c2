"""Asynchronous successive halving against the plainest model of it."""

import math
from typing import Any

import pytest
from builders import epoch as report
from builders import record
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.results.records import Record
from captune.tuner.decisions.halving import Rungs
from captune.tuner.space.config import HalvingConfig

SCORES = st.floats(0, 1, width=16)
OTHER = st.sampled_from([math.nan, math.inf, -math.inf])
REPORTS = st.lists(st.tuples(st.integers(1, 30), SCORES | OTHER), max_size=60)
LONG = 100
"""Epochs of all trials, more than any test trains."""
few = settings(max_examples=100, deadline=None)


def rungs_up_to(epoch: int, grace: int, reduction: int) -> set[int]:
    return {grace * reduction**power for power in range(12) if grace * reduction**power <= epoch}


@few
@given(reports=REPORTS, grace=st.integers(1, 5), reduction=st.integers(2, 4))
def test_decisions_are_those_of_the_naive_model(reports: Any, grace: int, reduction: int) -> None:
    rungs = Rungs(HalvingConfig(grace=grace, reduction=reduction), LONG)
    seen: dict[int, list[float]] = {}
    for trial, (epoch, score) in enumerate(reports):
        if not math.isfinite(score):
            expected = False
        elif epoch not in rungs_up_to(30, grace, reduction):
            expected = True
        else:
            at = seen.setdefault(epoch, [])
            at.append(score)
            better = sum(other > score for other in at)
            expected = better < math.ceil(len(at) / reduction)
        assert rungs.goes_on(trial, epoch, score, epochs=LONG) is expected, (
            epoch,
            score,
            at if epoch in seen else None,
        )


@few
@given(epoch=st.integers(1, 100), score=OTHER | st.sampled_from([None, "0.9", [0.9]]))
def test_score_that_is_no_finite_number_never_goes_on(epoch: int, score: Any) -> None:
    assert not Rungs(HalvingConfig(), LONG).goes_on(0, epoch, score, epochs=LONG)


@few
@given(scores=st.lists(OTHER, max_size=9))
def test_nan_leaves_no_mark_on_a_rung(scores: list[float]) -> None:
    rungs = Rungs(HalvingConfig(grace=1, reduction=2), LONG)
    for trial, score in enumerate(scores):
        rungs.goes_on(trial, 1, score, epochs=LONG)
    assert rungs.goes_on(100, 1, 0.1, epochs=LONG)
    assert not rungs.goes_on(101, 1, 0.0, epochs=LONG)


@few
@given(scores=st.lists(SCORES, max_size=20), grace=st.integers(2, 10))
def test_every_trial_is_given_its_grace(scores: list[float], grace: int) -> None:
    rungs = Rungs(HalvingConfig(grace=grace), LONG)
    assert all(
        rungs.goes_on(n, epoch, score, epochs=LONG) for n, score in enumerate(scores) for epoch in range(1, grace)
    )


@few
@given(scores=st.lists(SCORES, min_size=1, max_size=40, unique=True), reduction=st.integers(2, 5))
def test_best_so_far_always_goes_on_and_rising_scores_all_do(scores: list[float], reduction: int) -> None:
    rungs = Rungs(HalvingConfig(grace=1, reduction=reduction), LONG)
    best = -1.0
    for trial, score in enumerate(scores):
        went_on = rungs.goes_on(trial, 1, score, epochs=LONG)
        assert went_on or score < best
        best = max(best, score)
    rising = Rungs(HalvingConfig(grace=1, reduction=reduction), LONG)
    assert all(rising.goes_on(trial, 1, score, epochs=LONG) for trial, score in enumerate(sorted(scores)))


@few
@given(scores=st.lists(SCORES, min_size=1, max_size=40, unique=True), reduction=st.integers(2, 5))
def test_of_falling_scores_only_the_first_goes_on(scores: list[float], reduction: int) -> None:
    rungs = Rungs(HalvingConfig(grace=1, reduction=reduction), LONG)
    went_on = [rungs.goes_on(trial, 1, score, epochs=LONG) for trial, score in enumerate(sorted(scores, reverse=True))]
    assert went_on == [True] + [False] * (len(scores) - 1)


def test_rungs_are_apart_by_the_reduction() -> None:
    rungs = Rungs(HalvingConfig(grace=2, reduction=3), LONG)
    for epoch in range(1, 60):
        rungs.goes_on(0, epoch, 1.0, epochs=LONG)
    cut = [epoch for epoch in range(1, 60) if not rungs.goes_on(1, epoch, 0.0, epochs=LONG)]
    assert cut == [2, 6, 18, 54]


@few
@given(scores=st.lists(SCORES, min_size=1, max_size=20, unique=True), again=st.data())
def test_trial_that_comes_to_a_rung_again_hears_the_same_and_counts_once(scores: list[float], again: Any) -> None:
    once, twice = Rungs(HalvingConfig(reduction=2), LONG), Rungs(HalvingConfig(reduction=2), LONG)
    decisions: dict[int, bool] = {}
    for trial, score in enumerate(scores):
        decisions[trial] = once.goes_on(trial, 1, score, epochs=LONG)
        assert twice.goes_on(trial, 1, score, epochs=LONG) is decisions[trial]
        back = again.draw(st.integers(0, trial))
        # Trained again elsewhere its score may be another; what was decided stays.
        assert twice.goes_on(back, 1, again.draw(SCORES), epochs=LONG) is decisions[back]


# Trials of different lengths


@few
@given(reports=REPORTS, grace=st.integers(1, 5), reduction=st.integers(2, 4), epochs=st.integers(30, 200))
def test_trials_of_one_length_meet_the_same_rungs_whatever_it_is(
    reports: Any, grace: int, reduction: int, epochs: int
) -> None:
    config = HalvingConfig(grace=grace, reduction=reduction)
    one, other = Rungs(config, LONG), Rungs(config, epochs)
    for trial, (epoch, score) in enumerate(reports):
        expected = one.goes_on(trial, epoch, score, epochs=LONG)
        assert other.goes_on(trial, epoch, score, epochs=epochs) is expected


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(12, [2, 6]), (6, [1, 3]), (24, [4, 12]), (5, [1, 3]), (7, [2, 4]), (3, [1, 2]), (2, [1]), (1, [1])],
)
def test_rungs_stand_at_the_same_shares_of_longer_and_shorter_trials(epochs: int, expected: list[int]) -> None:
    """Of twelve epochs at 2 and 6, a sixth and a half."""
    for epoch in range(1, epochs + 1):
        rungs = Rungs(HalvingConfig(grace=2, reduction=3), 12)
        for each in (2, 6):
            rungs.goes_on(0, each, 1.0, epochs=12)
        assert rungs.goes_on(1, epoch, 0.0, epochs=epochs) is (epoch not in expected)


def test_trials_at_the_same_share_of_their_epochs_are_compared() -> None:
    rungs = Rungs(HalvingConfig(grace=2, reduction=2), 6)
    assert rungs.goes_on(0, 1, 0.7, epochs=3)
    assert not rungs.goes_on(1, 2, 0.6, epochs=6)
    assert rungs.goes_on(2, 3, 0.5, epochs=12)  # a quarter: at no rung
    assert not rungs.goes_on(2, 4, 0.5, epochs=12)
    assert rungs.goes_on(3, 4, 0.8, epochs=12)


def test_short_trial_that_comes_to_several_rungs_at_once_counts_at_the_last() -> None:
    rungs = Rungs(HalvingConfig(grace=1, reduction=2), 8)
    assert rungs.goes_on(0, 1, 0.9, epochs=2)  # half-way, with those that trained 4 of 8
    for epoch in (1, 2):
        assert rungs.goes_on(1, epoch, 0.1, epochs=8)
    assert not rungs.goes_on(1, 4, 0.1, epochs=8)


# From records


def running(number: int, curve: dict[int, float], order: dict[int, int], **changes: Any) -> Record:
    epochs = tuple(report(place, score) for place, score in sorted(curve.items()))
    config = {"train.epochs": LONG}
    return record(number, fate="running", curve=epochs, order=order, config=config, **changes)


@few
@given(data=st.data(), grace=st.integers(1, 3), reduction=st.integers(2, 4))
def test_rungs_from_records_decide_as_those_that_saw_the_reports_come(data: Any, grace: int, reduction: int) -> None:
    config = HalvingConfig(grace=grace, reduction=reduction)
    live, curves, orders = Rungs(config, LONG), {}, {}
    at, ended = dict.fromkeys(range(6), 0), set()
    for place in range(1, data.draw(st.integers(1, 40))):
        trial = data.draw(st.sampled_from(range(6)))
        if trial in ended:
            continue
        at[trial] += 1
        score = data.draw(SCORES)
        curves.setdefault(trial, {})[at[trial]] = score
        orders.setdefault(trial, {})[at[trial]] = place
        if not live.goes_on(trial, at[trial], score, epochs=LONG):
            ended.add(trial)
    cut = data.draw(st.integers(0, 3))  # these went on under another number
    records = []
    for trial in curves:
        first = {epoch: score for epoch, score in curves[trial].items() if epoch <= cut}
        records += [
            running(trial, first, orders[trial]),
            running(10 + trial, curves[trial], orders[trial], origin=trial),
        ]
    again = Rungs.of(config, data.draw(st.permutations(records)), schedule=LONG)
    for trial, curve in curves.items():
        for epoch, score in curve.items():
            assert again.goes_on(trial, epoch, score, epochs=LONG) is live.goes_on(trial, epoch, score, epochs=LONG)
    fresh = data.draw(SCORES)
    for epoch in range(1, 12):
        assert again.goes_on(99, epoch, fresh, epochs=LONG) is live.goes_on(99, epoch, fresh, epochs=LONG)
