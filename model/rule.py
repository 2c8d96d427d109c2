"""The rule that makes labels of a network's probabilities, calibrated first, and how it is fitted. No framework."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Metric
from captune.model.f1 import Bits, Floats, contributions

RuleKind = Literal["expected_f1", "relative", "threshold"]
RULES: tuple[RuleKind, ...] = get_args(RuleKind)
"""The first has no value that could be fitted to chance, and is taken unless another is clearly better."""
VALUES = np.arange(5, 96) / 100
"""Of relative and threshold, that are tried."""
_NEIGHBOURS = 5  # of them to either side
_EQUAL = 1e-12  # means that differ by less do so by rounding
_LEAST, _MOST = 1e-38, 1 - 2**-25  # next to 0 and 1 where probabilities are float32: logits from -88 to 17
_LEAST_SCALE = 0.01  # a network that is wrong more often than right keeps its order all the same
_CANDIDATES = 32  # labels of a row that expected_f1 looks at, the others count together


@dataclass(frozen=True)
class Answers:
    """What a rule makes of a network's probabilities, each (n, labels).

    raw: as the network gives them. probabilities: calibrated. labels: True where a label is given.
    """

    raw: Floats
    probabilities: Floats
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class DecisionRule:
    """Calibrates probabilities, then gives each row the labels that it decides on, its likeliest one always.

    kind: threshold: a label is given when its probability reaches `value`; relative: when it reaches `value` times the
    largest of its row; expected_f1: the set of labels is given whose expected F1 is the highest, see `expected_f1`.
    value: from 0 to 1; means nothing to expected_f1.
    scale, shift: of Platt's calibration (1999), sigmoid(scale * logit(p) + shift); 1 and 0 leave p as it is.
    """

    value: float
    kind: RuleKind = "threshold"
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise ValueError(f"a rule is one of {', '.join(RULES)}, got {self.kind!r}")
        if not 0 <= self.value <= 1:
            raise ValueError(f"the value of a rule must be from 0 to 1, got {self.value}")
        if not (0 < self.scale < math.inf and math.isfinite(self.shift)):
            raise ValueError(f"a calibration has a scale above 0 and a shift, got {self.scale} and {self.shift}")

    def __str__(self) -> str:
        return self.kind if self.kind == "expected_f1" else f"{self.kind} {self.value:.2f}"

    def calibrated(self, raw: Floats) -> Floats:
        """A network's probabilities, calibrated: of the same shape and type, and in the same order."""
        return _calibrated(raw, self.scale, self.shift)

    def decide(self, raw: Floats) -> NDArray[np.bool_]:
        """(n, labels) of a network's probabilities to (n, labels) booleans with at least one True a row."""
        return self.answers(raw).labels

    def answers(self, raw: Floats) -> Answers:
        """Calibrated probabilities and labels of a network's probabilities."""
        probabilities = self.calibrated(raw)
        order = _falling(raw)
        counts = _counts(self.kind, self.value, np.take_along_axis(probabilities, order, axis=1))
        labels = np.zeros(raw.shape, dtype=bool)
        np.put_along_axis(labels, order, np.arange(raw.shape[1]) < counts[:, None], axis=1)
        return Answers(raw, probabilities, labels)

    def specification(self, labels: int) -> dict[str, Any]:
        """Every number that `answers` needs for rows of so many labels, as a program elsewhere reads them: for JSON."""
        nodes, weights = _nodes(labels)
        limits = {"least": _LEAST, "most": _MOST, "tiny": float(np.finfo(np.float32).tiny)}
        return {**asdict(self), **limits, "nodes": nodes.tolist(), "weights": weights.tolist()}


def fit_rule(
    truth: Bits, raw: Floats, kinds: Sequence[RuleKind] = RULES, *, metric: Metric = "mean_f1"
) -> DecisionRule:
    """The rule with the best score on these examples, as far as they can tell.

    It is of the first kind unless another is better by more than one standard error of the difference: less may be
    chance.

    Args:
        truth: (n, labels) of 0 and 1, n at least 1.
        raw: (n, labels), the network's probabilities.
        kinds: that are tried.
        metric: the score; with `map`, to which a rule means nothing, mean F1.
    """
    scale, shift = _fit_calibration(truth, raw)
    order = _falling(raw)
    ranked = np.take_along_axis(_calibrated(raw, scale, shift), order, axis=1)
    examples = _Examples.of(metric, truth, order)
    first, *others = (_fit(kind, examples, ranked) for kind in kinds)
    best, most = first, 0.0
    for fit in others:
        gain = fit.mean - first.mean
        if gain > max(most, (fit.each - first.each).std() / math.sqrt(len(truth)) + _EQUAL):
            best, most = fit, gain
    return DecisionRule(best.value, best.kind, scale, shift)


def cross_fitted(truth: Bits, raw: Floats, raw_of_odd: Floats | None = None, *, metric: Metric = "mean_f1") -> Answers:
    """Answers for each half of the examples by the rule fitted on the other half.

    Scoring a rule on the examples that it was fitted on flatters it. Halves are the even and the odd rows: validation
    rows are in no order that would favour one, and every trial is compared on the same halves.

    Args:
        truth: see `fit_rule`.
        raw: the same.
        raw_of_odd: where the network too has something fitted on these examples: of one that was fitted on the even
            rows, for answers to the odd ones. `raw` is then of one that was fitted on the odd rows.
        metric: see `fit_rule`.
    """
    if len(truth) < 2:
        return DecisionRule(0.5).answers(raw)
    all_raw, probabilities, labels = raw.copy(), np.empty_like(raw), np.empty(raw.shape, dtype=bool)
    for half, of_half in enumerate((raw, raw if raw_of_odd is None else raw_of_odd)):
        answers = fit_rule(truth[1 - half :: 2], of_half[1 - half :: 2], metric=metric).answers(of_half[half::2])
        all_raw[half::2], probabilities[half::2], labels[half::2] = answers.raw, answers.probabilities, answers.labels
    return Answers(all_raw, probabilities, labels)


def expected_f1(ranked: Floats) -> NDArray[np.float64]:
    """(n, labels) probabilities, falling in each row, to the expected F1 of giving the first 1, 2, ... 32 labels.

    Labels are taken as independent. Of all sets of k labels the k likeliest have the highest expected F1 then (Lewis,
    1995), so these are all that have to be looked at (Jansche, 2007; Ye et al., 2012). With N the count of the other
    true labels, the expectation of 1 / (k + 1 + N) is the integral of t^k E[t^N] over t from 0 to 1 (Chao and
    Strawderman, 1972): a polynomial, which Gauss-Legendre quadrature integrates exactly with as many nodes as labels.
    Of labels after the 32nd the count is taken as Poisson's.
    """
    p = np.ascontiguousarray(ranked[:, :_CANDIDATES].T, dtype=np.float64)  # sums along the first axis are the fast ones
    others = ranked[:, _CANDIDATES:].sum(axis=1)
    sizes = np.arange(1, len(p) + 1)[:, None]
    expected = np.zeros_like(p)
    for t, weight in zip(*_nodes(len(p)), strict=True):
        absent = 1 - p * (1 - t)  # E[t^y] of each label
        others_absent = absent.prod(axis=0) * np.exp((t - 1) * others)
        expected += (2 * weight * t**sizes) * (p / absent).cumsum(axis=0) * others_absent
    return expected.T


def _nodes(labels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weights by which `expected_f1` integrates from 0 to 1, each (min(labels, 32),)."""
    nodes, weights = np.polynomial.legendre.leggauss(min(labels, _CANDIDATES))
    return (nodes + 1) / 2, weights / 2


def _fit_calibration(truth: Bits, raw: Floats) -> tuple[float, float]:
    """Scale and shift with the highest likelihood of all pairs of example and label.

    A normal prior around 1 and 0 counts as much as a pair or two: where few examples leave no error they stay finite.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    # Of logits rounded to a fiftieth there are a few thousand, however many examples and labels.
    places = np.rint(_logits(raw) * 50).astype(np.int64).ravel()
    logits = np.arange(places.min(), places.max() + 1) / 50
    counts, positives = np.bincount(places - places.min()), np.bincount(places - places.min(), weights=truth.ravel())

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale, shift = numbers
        x = scale * logits + shift
        errors = counts * expit(x) - positives
        value = counts @ np.logaddexp(0, x) - positives @ x + ((scale - 1) ** 2 + shift**2) / 2
        return value, np.array([errors @ logits + scale - 1, errors.sum() + shift])

    # L-BFGS-B ends 1e-4 beside the optimum, and wakes threads of LAPACK for each step: ten times the CPU.
    bounds = [(_LEAST_SCALE, None), (None, None)]
    fitted = minimize(loss, (1.0, 0.0), jac=True, method="TNC", bounds=bounds, options={"gtol": 1e-8, "ftol": 1e-15})
    scale, shift = (float(f"{number:.6g}") for number in fitted.x)
    return scale, shift


def _calibrated(raw: Floats, scale: float, shift: float) -> Floats:
    if (scale, shift) == (1, 0):
        return raw
    from scipy.special import expit

    return expit(scale * _logits(raw) + shift).astype(raw.dtype)


def _logits(probabilities: Floats) -> NDArray[np.float64]:
    p = np.clip(probabilities.astype(np.float64), _LEAST, _MOST)
    return np.log(p) - np.log1p(-p)


@dataclass(frozen=True)
class _Fit:
    """A kind with its best value. mean: score of it and those around it. each: what examples have in it, (n,)."""

    kind: RuleKind
    value: float
    mean: float
    each: NDArray[np.float64]


@dataclass(frozen=True)
class _Examples:
    """What labels given to examples are worth. order: (n, labels) of labels, likeliest first.

    f1: see `_f1_of_first`, where examples have scores of their own; None where only all together have one.
    """

    metric: Metric
    truth: NDArray[np.bool_]
    order: NDArray[np.intp]
    f1: NDArray[np.float64] | None

    @classmethod
    def of(cls, metric: Metric, truth: Bits, order: NDArray[np.intp]) -> _Examples:
        true, own = truth.astype(bool), metric in ("mean_f1", "map")
        return cls(metric, true, order, _f1_of_first(np.take_along_axis(true, order, axis=1)) if own else None)

    def each(self, counts: NDArray[np.intp]) -> NDArray[np.float64]:
        """(n,) of giving each example so many of its likeliest labels, see `contributions`."""
        if self.f1 is not None:
            each: NDArray[np.float64] = self.f1[np.arange(len(counts)), counts - 1]
            return each
        labels = np.zeros(self.truth.shape, dtype=bool)
        np.put_along_axis(labels, self.order, np.arange(self.truth.shape[1]) < counts[:, None], axis=1)
        return contributions(self.metric, self.truth, labels)

    def by_value(self, levels: Floats) -> NDArray[np.float64]:
        """The score at each of VALUES. levels: see `_levels`."""
        if self.f1 is not None:
            return _mean_f1_by_value(self.f1, levels)
        return np.array([self.each(_reaching(levels, value)).mean() for value in VALUES])


def _fit(kind: RuleKind, examples: _Examples, ranked: Floats) -> _Fit:
    """The value with the best score around it; of equal ones the nearest to 0.5.

    The score over values is a plateau with noise on it, and the highest point of the noise is nothing to rely on: each
    value counts with its neighbours up to 0.05 away.

    Args:
        ranked: (n, labels) calibrated probabilities that fall in each row.
    """
    if kind == "expected_f1":
        each = examples.each(_counts(kind, 0.0, ranked))
        return _Fit(kind, 0.0, float(each.mean()), each)
    window = np.full(2 * _NEIGHBOURS + 1, 1 / (2 * _NEIGHBOURS + 1))
    means = examples.by_value(_levels(kind, ranked))
    around = np.convolve(np.pad(means, _NEIGHBOURS, mode="edge"), window, mode="valid")
    best = VALUES[around >= around.max() - _EQUAL]
    value = float(best[np.abs(best - 0.5).argmin()])
    return _Fit(kind, value, float(around.max()), examples.each(_counts(kind, value, ranked)))


def _falling(raw: Floats) -> NDArray[np.intp]:
    """Labels of each row, likeliest first."""
    return np.argsort(-raw, axis=1, kind="stable")


def _levels(kind: RuleKind, ranked: Floats) -> Floats:
    """What of probabilities that fall in each row is held against the rule's value."""
    return ranked if kind == "threshold" else ranked / np.maximum(ranked[:, :1], np.finfo(ranked.dtype).tiny)


def _counts(kind: RuleKind, value: float, ranked: Floats) -> NDArray[np.intp]:
    """How many labels a rule gives to rows whose probabilities fall."""
    if kind == "expected_f1":
        return expected_f1(ranked).argmax(axis=1) + 1
    return _reaching(_levels(kind, ranked), value)


def _reaching(levels: Floats, value: float) -> NDArray[np.intp]:
    """How many labels of each row are at a level or above, one at least."""
    counts: NDArray[np.intp] = np.maximum(1, (levels >= value).sum(axis=1))
    return counts


def _f1_of_first(truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, labels) of labels that are true, likeliest first, to the F1 of giving the first 1, 2, ... of them."""
    hits = truth.cumsum(axis=1, dtype=np.int64)
    return 2 * hits / (np.arange(1, truth.shape[1] + 1) + hits[:, -1:])


def _mean_f1_by_value(f1: NDArray[np.float64], levels: Floats) -> NDArray[np.float64]:
    """Mean F1 at each of VALUES: a label after the first adds its gain at all values up to its level."""
    gains = np.diff(f1, axis=1)
    reached = np.searchsorted(VALUES.astype(levels.dtype), levels[:, 1:], side="right")
    by_count = np.bincount(reached.ravel(), weights=gains.ravel(), minlength=len(VALUES) + 1)
    return (f1[:, 0].sum() + by_count[:0:-1].cumsum()[::-1]) / len(f1)
