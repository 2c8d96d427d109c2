"""Which networks are averaged: greedily, by validation, under the budget (Caruana et al., 2004). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as numbers

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Metric
from captune.model.f1 import Bits, Floats
from captune.model.metrics import score, shares
from captune.model.rule import DecisionRule, cross_fitted, fit_rule


@dataclass(frozen=True)
class Candidate:
    """A trial that may become a member. probabilities: (n, labels) on validation, calibrated."""

    trial: int
    probabilities: Floats


@dataclass(frozen=True)
class Addition:
    """The best trial to add. gain, standard_error: of the score over the average before, in pairs of rows."""

    trial: int
    gain: float
    standard_error: float

    @property
    def is_clear(self) -> bool:
        """Whether it gains more than may be chance."""
        return self.gain > self.standard_error


@dataclass(frozen=True)
class Choice:
    """Trials whose networks are averaged, the best first; one alone where nothing gains.

    mean_f1, score: on validation, each half of it by the rule fitted on the other; the score is that of the metric.
    rule: fitted on all of it. additions: that were taken, and `declined` the one that was not. full: whether only the
    budget kept more out.
    """

    trials: tuple[int, ...]
    mean_f1: float
    score: float
    rule: DecisionRule
    additions: tuple[Addition, ...] = ()
    declined: Addition | None = None
    full: bool = False

    @property
    def gain(self) -> float:
        """Of the score over that of the first alone."""
        return sum(added.gain for added in self.additions)


def choose_members(
    truth: Bits,
    candidates: Sequence[Candidate],
    fits: Callable[[Sequence[int]], bool],
    most: int | None,
    metric: Metric = "mean_f1",
) -> Choice:
    """The first candidate, and then always the one with which the average has the best score.

    Args:
        truth: (n, labels) of the validation rows, n at least 1.
        candidates: at least one; of equal ones the earlier is taken.
        fits: whether the networks of these trials are within the budget together.
        most: members; None for as many as gain more than one standard error each.
        metric: what the score is.
    """

    def shares_of(some: Sequence[Candidate]) -> NDArray[np.float64]:
        return shares(metric, truth, cross_fitted(truth, _mean(some), metric=metric))

    members, additions = [candidates[0]], list[Addition]()
    declined, full = None, False
    each = shares_of(members)
    for _ in numbers() if most is None else range(1, most):
        others = [candidate for candidate in candidates if all(candidate is not member for member in members)]
        small = [other for other in others if fits([member.trial for member in (*members, other)])]
        full = bool(others) and not small
        if not small:
            break
        scores = [shares_of([*members, other]) for other in small]
        best = int(np.argmax([score.mean() for score in scores]))
        difference = scores[best] - each
        addition = Addition(
            small[best].trial, float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
        )
        if most is None and not addition.is_clear:
            declined = addition
            break
        members.append(small[best])
        additions.append(addition)
        each = scores[best]
    found = score(truth, cross_fitted(truth, _mean(members), metric=metric))
    return Choice(
        trials=tuple(member.trial for member in members),
        mean_f1=found.mean_f1,
        score=getattr(found, metric),
        rule=fit_rule(truth, _mean(members), metric=metric),
        additions=tuple(additions),
        declined=declined,
        full=full,
    )


def _mean(members: Sequence[Candidate]) -> Floats:
    mean: Floats = np.mean([member.probabilities for member in members], axis=0)
    return mean
