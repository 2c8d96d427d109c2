"""Which of the best trials is the best: what their networks of other seeds say, row by row. Pure.

Of many trials the best by validation is partly the luckiest. Seeds that took no part in the choice show it. What other
rows and other seeds would have given is drawn from normal distributions (a parametric bootstrap): rows in pairs, since
all finalists answer the same ones, and seeds by what they make differ, pooled over the finalists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SURE = 0.9
"""Probability from which a trial is the best, or worse than the best."""
MOST_SEEDS = 5
_LEAST_SEEDS = 2  # of each finalist: one seed alone shows nothing of what seeds make differ
_DRAWS = 10_000
_EQUAL = 1e-9  # draws that differ by less do so by rounding


@dataclass(frozen=True)
class Finalist:
    """A trial in the race. size: bytes that count.

    shares: (seeds, rows), on validation, of seeds other than its own, see captune.model.metrics.shares.
    """

    trial: int
    size: int
    shares: NDArray[np.float64]

    @property
    def score(self) -> float:
        """Of all seeds and rows."""
        return float(self.shares.mean())


@dataclass(frozen=True)
class Standing:
    """Where the race stands.

    best: of those that are left. left: trials that are not clearly worse than the best, it among them. probability:
    that it is the best of all.
    """

    best: int
    left: tuple[int, ...]
    probability: float

    @property
    def is_decided(self) -> bool:
        """Whether more seeds would change nothing."""
        return len(self.left) == 1 or self.probability >= SURE


@dataclass(frozen=True)
class Verdict:
    """The trial that wins. how: it is the best, or the smallest of those that are equal.

    expected: the score on rows that took no part in the choice. standard_error: of it, by rows and seeds.
    """

    trial: int
    how: Literal["best", "smallest"]
    probability: float
    left: tuple[int, ...]
    expected: float
    standard_error: float


def standing(finalists: Sequence[Finalist]) -> Standing:
    """Where finalists stand after the seeds so far; at least one, each with at least one seed and the same rows."""
    place = max(range(len(finalists)), key=lambda number: finalists[number].score)
    best = finalists[place]
    if min(len(finalist.shares) for finalist in finalists) < _LEAST_SEEDS:
        left = tuple(finalist.trial for finalist in finalists)
        return Standing(best.trial, left, 1.0 if len(finalists) == 1 else 0.0)
    scores = _drawn(finalists)
    of_best = scores[place]
    left = tuple(
        finalist.trial
        for finalist, each in zip(finalists, scores, strict=True)
        if finalist is best or _probability(of_best, each) < SURE
    )
    first = scores >= scores.max(axis=0) - _EQUAL
    return Standing(best.trial, left, float((first[place] / first.sum(axis=0)).mean()))


def verdict(finalists: Sequence[Finalist]) -> Verdict:
    """The end of a race: the best if that is sure, else the smallest of those that are left."""
    now = standing(finalists)
    by_trial = {finalist.trial: finalist for finalist in finalists}
    sure = now.is_decided
    winner = by_trial[now.best] if sure else min((by_trial[t] for t in now.left), key=lambda f: (f.size, -f.score))
    optimism = _optimism(finalists) if winner.trial == now.best else 0.0
    variance = winner.shares.mean(axis=0).var() / winner.shares.shape[1] + _seed_variance(finalists) / len(
        winner.shares
    )
    return Verdict(
        trial=winner.trial,
        how="best" if sure else "smallest",
        probability=now.probability,
        left=now.left,
        expected=winner.score - optimism,
        standard_error=float(np.sqrt(variance)),
    )


def _probability(better: NDArray[np.float64], worse: NDArray[np.float64]) -> float:
    return float((better > worse + _EQUAL).mean() + (abs(better - worse) <= _EQUAL).mean() / 2)


def _seed_variance(finalists: Sequence[Finalist]) -> float:
    """Of the score between seeds, pooled over the finalists; 0 where none has two."""
    means = [finalist.shares.mean(axis=1) for finalist in finalists]
    freedom = sum(len(each) - 1 for each in means)
    return float(sum(len(each) * each.var() for each in means) / freedom) if freedom else 0.0


def _drawn(finalists: Sequence[Finalist]) -> NDArray[np.float64]:
    """Scores (finalists, draws) as they would be with other rows and seeds."""
    each = np.array([finalist.shares.mean(axis=0) for finalist in finalists])
    of_rows = np.atleast_2d(np.cov(each, bias=True)) / each.shape[1]
    of_seeds = np.diag([_seed_variance(finalists) / len(finalist.shares) for finalist in finalists])
    random, means = np.random.default_rng(0), each.mean(axis=1)
    scores = random.multivariate_normal(means, of_rows + of_seeds, _DRAWS, method="eigh").T
    return scores + (means - scores.mean(axis=1))[:, None]


def _optimism(finalists: Sequence[Finalist]) -> float:
    """How much better the best looks on the rows and seeds that it was chosen by than it is."""
    scores, means = _drawn(finalists), np.array([finalist.score for finalist in finalists])
    chosen = scores.argmax(axis=0)
    return max(0.0, float((scores.max(axis=0) - means[chosen]).mean()))
