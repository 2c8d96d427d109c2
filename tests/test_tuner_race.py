"""Finalists with other seeds: who is the best, who is out, and what the chosen one may be expected to score."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.tuner.decisions.race import SURE, Finalist, standing, verdict

ROWS = 1000


def race(
    means: list[float], *, seeds: int = 3, spread: float = 0.001, sizes: list[int] | None = None, draw: int = 0
) -> list[Finalist]:
    """Finalists whose networks agree on most rows; `spread` is the standard deviation of a seed's mean."""
    random = np.random.default_rng(draw)
    rows = random.beta(6, 1, ROWS)
    rows -= rows.mean()
    return [
        Finalist(
            trial,
            100 + trial if sizes is None else sizes[trial],
            mean + rows + random.normal(0, 0.03, (seeds, ROWS)) + random.normal(0, spread, (seeds, 1)),
        )
        for trial, mean in enumerate(means)
    ]


def test_clear_best_wins_whatever_its_size() -> None:
    finalists = race([0.86, 0.90, 0.85], sizes=[1, 900, 2])
    now = standing(finalists)
    assert (now.best, now.left, now.is_decided) == (1, (1,), True)
    end = verdict(finalists)
    assert (end.trial, end.how) == (1, "best") and end.probability > 0.99


def test_of_equal_ones_the_smallest_wins() -> None:
    """Three equal ones look as if one were the best in a tenth to a quarter of the draws."""
    ends = [verdict(race([0.87] * 3, spread=0.003, sizes=[300, 200, 100], draw=draw)) for draw in range(40)]
    smallest = [end for end in ends if end.how == "smallest"]
    assert len(smallest) > 20
    assert all(end.trial == max(end.left) and end.probability < SURE for end in smallest)


def test_one_that_is_clearly_worse_does_not_win_by_its_size() -> None:
    finalists = race([0.87, 0.8701, 0.80], spread=0.003, sizes=[300, 200, 1])
    assert 2 not in standing(finalists).left
    assert verdict(finalists).trial != 2


def test_copies_are_equal() -> None:
    (one,) = race([0.8])
    end = verdict([one, Finalist(1, 1, one.shares)])
    assert (end.trial, end.how, end.probability, end.left) == (1, "smallest", pytest.approx(0.5, abs=0.02), (0, 1))


def test_a_single_seed_each_decides_nothing() -> None:
    finalists = race([0.9, 0.5], seeds=1)
    now = standing(finalists)
    assert (now.left, now.is_decided) == ((0, 1), False)
    assert verdict(finalists).how == "smallest"


def test_one_alone_is_the_best() -> None:
    (only,) = race([0.8])
    end = verdict([only])
    assert (end.trial, end.how, end.probability, end.expected) == (0, "best", 1.0, pytest.approx(only.score))
    assert verdict(race([0.8], seeds=1)).how == "best"


def test_score_of_the_best_of_many_equals_is_corrected_downwards() -> None:
    """Of finalists that are all alike the best looks better than it is: the correction takes half of that or more."""
    errors, raw = [], []
    for draw in range(20):
        finalists = race([0.87] * 5, seeds=2, spread=0.0, draw=draw)
        noisy = [
            Finalist(f.trial, f.size, f.shares + np.random.default_rng((draw, f.trial)).normal(0, 0.1, ROWS))
            for f in finalists
        ]
        best = max(noisy, key=lambda finalist: finalist.score)
        lone = [Finalist(f.trial, 0 if f is best else 1, f.shares) for f in noisy]  # the best is the smallest, too
        raw.append(best.score - 0.87)
        errors.append(verdict(lone).expected - 0.87)
    assert np.mean(raw) > 0.002, "chosen for its luck"
    assert abs(np.mean(errors)) < np.mean(raw) / 2


@given(st.lists(st.sampled_from([0.8, 0.82, 0.9]), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_the_winner_is_among_those_left_and_the_best_is_never_dropped(
    means: list[float], seeds: int, draw: int
) -> None:
    finalists = race(means, seeds=seeds, draw=draw)
    now, end = standing(finalists), verdict(finalists)
    best = max(finalists, key=lambda finalist: finalist.score)
    assert now.best == best.trial and best.trial in now.left and end.trial in end.left
    assert 0 <= now.probability <= 1 and end.standard_error > 0
    assert end.expected <= {f.trial: f for f in finalists}[end.trial].score
    assert verdict(finalists) == end, "the same every time"


def test_thousands_of_rows_are_weighed_in_seconds() -> None:
    random = np.random.default_rng(0)
    finalists = [Finalist(trial, 1, random.random((5, 20_000))) for trial in range(5)]
    started = time.process_time()
    standing(finalists)
    assert time.process_time() - started < 10
