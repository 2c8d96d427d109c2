"""Scores of multi-label predictions, and the rule that turns probabilities into labels. NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bits = NDArray[np.integer] | NDArray[np.bool_]
THRESHOLDS = np.arange(5, 96) / 100
_NEIGHBOURS = 5  # thresholds to either side
KINDS = ("start", "data", "compile", "train", "evaluate", "checkpoint")
"""What the seconds of a trial go into."""


@dataclass(frozen=True)
class DecisionRule:
    """A label is given when its probability reaches `threshold` (0 to 1); the likeliest one always."""

    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"a threshold must be from 0 to 1, got {self.threshold}")

    def decide(self, probabilities: Floats) -> NDArray[np.bool_]:
        """(n, labels) probabilities to (n, labels) booleans with at least one True a row."""
        labels = probabilities >= self.threshold
        labels[np.arange(len(labels)), probabilities.argmax(axis=1)] = True
        return labels


@dataclass(frozen=True)
class Metrics:
    """The scores of a set of examples, each from 0 to 1, more is better: their one declaration.

    A new one is a line here, its value in `score`, and a test of that: records, tables, reports, `evaluate`, summary
    and proof show what is declared here, and runs from before it are read with NaN in its place.
    """

    mean_f1: float  # F1 of each example's label set, averaged over examples: what the search maximises
    micro_f1: float
    macro_f1: float
    map: float  # average precision of each label that occurs, averaged over labels

    def metrics(self) -> dict[str, float]:
        """By name."""
        return {name: getattr(self, name) for name in METRICS}


METRICS = tuple(field.name for field in fields(Metrics))


@dataclass(frozen=True)
class Scores(Metrics):
    """Scores on one set of examples, with those of each label."""

    per_label: tuple[float, ...]  # F1 of each label
    examples: int


@dataclass(frozen=True)
class _Trained:
    epoch: int  # from 1
    loss: float


@dataclass(frozen=True)
class Epoch(Metrics, _Trained):
    """What one epoch of a trial reports: its number and training loss, validation scores, and what it cost."""

    threshold: float  # of the rule fitted on the whole of validation: what a bundle of this epoch would use
    train_seconds: float
    evaluate_seconds: float
    standard_error: float = 0.0  # of mean_f1, over the validation examples
    checkpoint_seconds: float = 0.0  # spent on writing since the report before
    # Before the first epoch of a trial: making the process ready, where it is new; opening the examples; building the
    # network and tracing its first step.
    start_seconds: float = 0.0
    data_seconds: float = 0.0
    compile_seconds: float = 0.0

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """From its values by name: NaN or the default for one that is absent, other names are left out.

        Raises:
            TypeError, ValueError: no number of an epoch, or a value that is no number.
        """
        absent = {field.name: math.nan if field.default is MISSING else field.default for field in fields(cls)}
        numbers = {name: float(values.get(name, otherwise)) for name, otherwise in absent.items()}
        return cls(int(numbers.pop("epoch")), **numbers)

    def seconds(self) -> dict[str, float]:
        """Where its time went, by kind."""
        return {kind: getattr(self, f"{kind}_seconds") for kind in KINDS}


def f1_per_example(truth: Bits, labels: Bits) -> NDArray[np.float64]:
    """(n, labels) twice to (n,): 2 |truth & labels| / (|truth| + |labels|); 1 where both sets are empty."""
    truth, labels = truth.astype(bool), labels.astype(bool)
    return _f1((truth & labels).sum(axis=1), truth.sum(axis=1) + labels.sum(axis=1), empty=1.0)


def fit_rule(truth: Bits, probabilities: Floats) -> DecisionRule:
    """The threshold with the best mean F1 around it on these examples; of equal ones the nearest to 0.5.

    Mean F1 over thresholds is a plateau with noise on it, and the highest point of the noise is nothing to rely on:
    each threshold counts with its neighbours up to 0.05 away.
    """
    means = np.array([f1_per_example(truth, DecisionRule(float(t)).decide(probabilities)).mean() for t in THRESHOLDS])
    window = np.full(2 * _NEIGHBOURS + 1, 1 / (2 * _NEIGHBOURS + 1))
    around = np.convolve(np.pad(means, _NEIGHBOURS, mode="edge"), window, mode="valid")
    best = THRESHOLDS[around >= around.max() - 1e-12]
    return DecisionRule(float(best[np.abs(best - 0.5).argmin()]))


def cross_fitted(truth: Bits, probabilities: Floats) -> NDArray[np.bool_]:
    """Labels given to each half of the examples by the rule fitted on the other half.

    Scoring a rule on the examples that it was fitted on flatters it. Halves are the even and the odd rows: validation
    rows are in no order that would favour one, and every trial is compared on the same halves.
    """
    if len(truth) < 2:
        return DecisionRule(0.5).decide(probabilities)
    labels = np.zeros(probabilities.shape, dtype=bool)
    for half in (0, 1):
        rule = fit_rule(truth[1 - half :: 2], probabilities[1 - half :: 2])
        labels[half::2] = rule.decide(probabilities[half::2])
    return labels


def score(truth: Bits, probabilities: Floats, labels: Bits) -> Scores:
    """All scores of decided labels.

    Args:
        truth: (n, labels) 0 or 1, n at least 1.
        probabilities: (n, labels), for the average precision.
        labels: (n, labels) decided labels.
    """
    truth, labels = truth.astype(bool), labels.astype(bool)
    hits, sizes = (truth & labels).sum(axis=0), truth.sum(axis=0) + labels.sum(axis=0)
    per_label = _f1(hits, sizes, empty=0.0)
    return Scores(
        mean_f1=float(f1_per_example(truth, labels).mean()),
        micro_f1=float(_f1(hits.sum(), sizes.sum(), empty=0.0)),
        macro_f1=float(per_label.mean()),
        map=mean_average_precision(truth, probabilities),
        per_label=tuple(map(float, per_label)),
        examples=len(truth),
    )


def mean_average_precision(truth: Bits, probabilities: Floats) -> float:
    """Average precision of each label that occurs in `truth`, averaged; 0 when none occurs."""
    from sklearn.metrics import average_precision_score

    occurs = truth.any(axis=0)
    if not occurs.any():
        return 0.0
    return float(average_precision_score(truth[:, occurs], probabilities[:, occurs], average="macro"))


def bootstrap_interval(values: Floats, *, seed: int, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (n,), over `draws` resamples of the examples."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _f1(hits: NDArray[np.integer], sizes: NDArray[np.integer], *, empty: float) -> NDArray[np.float64]:
    return np.where(sizes == 0, empty, 2 * hits / np.maximum(sizes, 1))
