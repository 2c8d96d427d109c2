"""Scores of multi-label predictions. No framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Metric
from captune.model.f1 import Bits, Floats, contributions, f1, f1_per_example
from captune.model.rule import Answers, DecisionRule
from captune.model.stack import Stack

KINDS = ("start", "data", "compile", "train", "evaluate", "checkpoint")
"""What the seconds of a trial go into."""
_BINS = 15
_BLOCKS = 20


@dataclass(frozen=True)
class Metrics:
    """The scores of a set of examples, each from 0 to 1: their one declaration. More is better but in ERRORS.

    A new one is a line here, its value in `score`, and a test of that: records, tables, reports, `evaluate`, summary
    and proof show what is declared here, and runs from before it are read with NaN in its place.
    """

    mean_f1: float  # F1 of each example's label set, averaged over examples
    micro_f1: float
    macro_f1: float
    map: float  # average precision of each label that occurs, averaged over labels
    ece: float  # expected calibration error of all probabilities, less is better

    def metrics(self) -> dict[str, float]:
        """By name."""
        return {name: getattr(self, name) for name in METRICS}


METRICS = tuple(field.name for field in fields(Metrics))
ERRORS = ("ece",)
"""Metrics of which less is better."""


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

    # Fitted on the whole of validation: what a bundle of this epoch would use. None where nothing could be scored.
    rule: DecisionRule | None
    train_seconds: float
    evaluate_seconds: float
    standard_error: float = 0.0  # of `score`, over the validation examples
    checkpoint_seconds: float = 0.0  # spent on writing since the report before
    # Before the first epoch of a trial: making the process ready, where it is new; opening the examples; building the
    # network and tracing its first step.
    start_seconds: float = 0.0
    data_seconds: float = 0.0
    compile_seconds: float = 0.0
    stack: Stack | None = None  # the same as `rule`, where the network has one
    metric: Metric = "mean_f1"  # what the search maximises

    @property
    def score(self) -> float:
        """What the epoch is judged by: trials are compared by it, halving cuts by it, the winner is chosen by it."""
        value: float = getattr(self, self.metric)
        return value

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """From its values by name: NaN or the default for one that is absent, other names are left out.

        Before rules had kinds, an epoch had the `threshold` of its rule; one without a metric was judged by mean F1.

        Raises:
            TypeError, ValueError: no number of an epoch, a value that is no number, or a rule that is none.
        """
        absent = {field.name: math.nan if field.default is MISSING else field.default for field in fields(cls)}
        del absent["rule"], absent["stack"], absent["metric"]
        numbers = {name: float(values.get(name, otherwise)) for name, otherwise in absent.items()}
        metric = values.get("metric", "mean_f1")
        if metric not in get_args(Metric):
            raise ValueError(f"a metric is one of {', '.join(get_args(Metric))}, got {metric!r}")
        rule = values.get("rule", {"value": values["threshold"]} if "threshold" in values else None)
        return cls(
            int(numbers.pop("epoch")),
            rule=None if rule is None else DecisionRule(**rule),
            stack=Stack.of(**values["stack"]) if values.get("stack") else None,
            metric=metric,
            **numbers,
        )

    def seconds(self) -> dict[str, float]:
        """Where its time went, by kind."""
        return {kind: getattr(self, f"{kind}_seconds") for kind in KINDS}


def score(truth: Bits, answers: Answers) -> Scores:
    """All scores of what a rule made of probabilities.

    Args:
        truth: (n, labels) 0 or 1, n at least 1.
        answers: for these examples; average precision is of the network's own probabilities, whose order they keep.
    """
    truth, labels = truth.astype(bool), answers.labels
    hits, sizes = (truth & labels).sum(axis=0), truth.sum(axis=0) + labels.sum(axis=0)
    per_label = f1(hits, sizes, empty=0.0)
    return Scores(
        mean_f1=float(f1_per_example(truth, labels).mean()),
        micro_f1=float(f1(hits.sum(), sizes.sum(), empty=0.0)),
        macro_f1=float(per_label.mean()),
        map=mean_average_precision(truth, answers.raw),
        ece=expected_calibration_error(truth, answers.probabilities),
        per_label=tuple(map(float, per_label)),
        examples=len(truth),
    )


def standard_error(metric: Metric, truth: Bits, answers: Answers) -> float:
    """Of a score of these examples. Of `map`, which no example has a share of, by leaving out one block of twenty each.

    Args:
        truth, answers: see `score`.
    """
    if metric != "map":
        return float(contributions(metric, truth, answers.labels).std() / math.sqrt(len(truth)))
    without = _without_blocks(truth, answers)
    return float(np.std(without) * math.sqrt(len(without) - 1)) if len(without) > 1 else 0.0


def shares(metric: Metric, truth: Bits, answers: Answers) -> NDArray[np.float64]:
    """Numbers of which the score is the mean, as many whoever answers: two scores of the same examples differ by what
    these differ in pairs, and by as much more or less as is chance.

    They are of the examples, or of `map` of blocks of them: what the score moves without each (the jackknife), spread
    so far that their standard error is the score's.

    Args:
        truth, answers: see `score`.
    """
    if metric != "map":
        return contributions(metric, truth, answers.labels)
    without = _without_blocks(truth, answers)
    whole = mean_average_precision(truth.astype(bool), answers.raw)
    if len(without) < 2:
        return np.array([whole])
    moves: NDArray[np.float64] = without.mean() - without
    return whole + moves * math.sqrt(len(moves) * (len(moves) - 1))


def _without_blocks(truth: Bits, answers: Answers) -> NDArray[np.float64]:
    """Mean average precision without every twentieth example, from each of the first twenty on; fewer of fewer."""
    blocks = min(_BLOCKS, len(truth))
    block = np.arange(len(truth)) % blocks
    kept = [block != each for each in range(blocks if blocks > 1 else 0)]
    return np.array([mean_average_precision(truth[rows].astype(bool), answers.raw[rows]) for rows in kept])


def mean_average_precision(truth: Bits, probabilities: Floats) -> float:
    """Average precision of each label that occurs in `truth`, averaged; 0 when none occurs."""
    from sklearn.metrics import average_precision_score

    occurs = truth.any(axis=0)
    if not occurs.any():
        return 0.0
    return float(average_precision_score(truth[:, occurs], probabilities[:, occurs], average="macro"))


def expected_calibration_error(truth: Bits, probabilities: Floats) -> float:
    """How far probabilities are from the share of true labels among those like them.

    Over all pairs of example and label, in 15 bins of equal width (Naeini et al., 2015; Guo et al., 2017): the
    difference of mean probability and share in each bin, weighted by the bin's pairs.
    """
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    differences = np.bincount(bins.ravel(), weights=(probabilities - truth.astype(float)).ravel())
    return float(np.abs(differences).sum() / truth.size)


def bootstrap_interval(values: Floats, *, seed: int, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (n,), over `draws` resamples of the examples."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
