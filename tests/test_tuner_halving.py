"""Asynchronous successive halving against the plainest model of it."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.config import HalvingConfig

pytestmark = pytest.mark.cluster  # imports Ray, starts none of it

SCORES = st.floats(0, 1, width=16)
OTHER = st.sampled_from([math.nan, math.inf, -math.inf])
REPORTS = st.lists(st.tuples(st.integers(1, 30), SCORES | OTHER), max_size=60)
few = settings(max_examples=100, deadline=None)


@pytest.fixture(scope="module")
def halving() -> Any:
    import tuner.halving

    return tuner.halving


def rungs_up_to(epoch: int, grace: int, reduction: int) -> set[int]:
    return {grace * reduction**power for power in range(12) if grace * reduction**power <= epoch}


@few
@given(reports=REPORTS, grace=st.integers(1, 5), reduction=st.integers(2, 4))
def test_decisions_are_those_of_the_naive_model(halving: Any, reports: Any, grace: int, reduction: int) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=grace, reduction=reduction))
    seen: dict[int, list[float]] = {}
    for epoch, score in reports:
        if not math.isfinite(score):
            expected = False
        elif epoch not in rungs_up_to(30, grace, reduction):
            expected = True
        else:
            at = seen.setdefault(epoch, [])
            at.append(score)
            better = sum(other > score for other in at)
            expected = better < math.ceil(len(at) / reduction)
        assert rungs.goes_on(epoch, score) is expected, (epoch, score, at if epoch in seen else None)


@few
@given(epoch=st.integers(1, 100), score=OTHER)
def test_score_that_is_not_finite_never_goes_on(halving: Any, epoch: int, score: float) -> None:
    assert not halving.Rungs(HalvingConfig()).goes_on(epoch, score)


@few
@given(scores=st.lists(OTHER, max_size=9))
def test_nan_leaves_no_mark_on_a_rung(halving: Any, scores: list[float]) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=1, reduction=2))
    for score in scores:
        rungs.goes_on(1, score)
    assert rungs.goes_on(1, 0.1)
    assert not rungs.goes_on(1, 0.0)


@few
@given(score=SCORES, grace=st.integers(1, 10))
def test_first_at_a_rung_goes_on(halving: Any, score: float, grace: int) -> None:
    assert halving.Rungs(HalvingConfig(grace=grace)).goes_on(grace, score)


@few
@given(scores=st.lists(SCORES, max_size=20), grace=st.integers(2, 10))
def test_every_trial_is_given_its_grace(halving: Any, scores: list[float], grace: int) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=grace))
    assert all(rungs.goes_on(epoch, score) for score in scores for epoch in range(1, grace))


@few
@given(scores=st.lists(SCORES, min_size=1, max_size=40, unique=True), reduction=st.integers(2, 5))
def test_best_so_far_always_goes_on_and_rising_scores_all_do(halving: Any, scores: list[float], reduction: int) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=1, reduction=reduction))
    best = -1.0
    for score in scores:
        went_on = rungs.goes_on(1, score)
        assert went_on or score < best
        best = max(best, score)
    rising = halving.Rungs(HalvingConfig(grace=1, reduction=reduction))
    assert all(rising.goes_on(1, score) for score in sorted(scores))


@few
@given(scores=st.lists(SCORES, min_size=1, max_size=40, unique=True), reduction=st.integers(2, 5))
def test_of_falling_scores_only_the_first_goes_on(halving: Any, scores: list[float], reduction: int) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=1, reduction=reduction))
    went_on = [rungs.goes_on(1, score) for score in sorted(scores, reverse=True)]
    assert went_on == [True] + [False] * (len(scores) - 1)


def test_equal_scores_all_go_on(halving: Any) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=1, reduction=4))
    assert all(rungs.goes_on(1, 0.5) for _ in range(9))


def test_rungs_are_apart_by_the_reduction(halving: Any) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=2, reduction=3))
    for epoch in range(1, 60):
        rungs.goes_on(epoch, 1.0)
    cut = [epoch for epoch in range(1, 60) if not rungs.goes_on(epoch, 0.0)]
    assert cut == [2, 6, 18, 54]


def test_scores_of_one_rung_say_nothing_at_another(halving: Any) -> None:
    rungs = halving.Rungs(HalvingConfig(grace=1, reduction=2))
    assert rungs.goes_on(1, 0.9)
    assert rungs.goes_on(2, 0.1)


def test_two_searches_share_no_rungs(halving: Any) -> None:
    halving.Rungs(HalvingConfig(grace=1)).goes_on(1, 1.0)
    assert halving.Rungs(HalvingConfig(grace=1)).goes_on(1, 0.0)


def test_scheduler_stops_what_a_rung_cuts_and_says_at_which_epoch(halving: Any) -> None:
    scheduler = halving.HalvingScheduler(HalvingConfig(grace=1, reduction=2))
    decisions = [
        scheduler.on_trial_result(
            None, SimpleNamespace(trial_id=name), {"training_iteration": 1, "mean_f1": score, "epoch": 1}
        )
        for name, score in (("a", 0.9), ("b", 0.1), ("c", math.nan), ("d", 0.95))
    ]
    assert decisions == ["CONTINUE", "STOP", "STOP", "CONTINUE"]
    assert scheduler.stopped == {"b": 1, "c": 1}
