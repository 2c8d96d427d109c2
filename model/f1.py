"""F1 of label sets: of each example, of all pairs of example and label, of each label. No framework."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Metric

Floats = NDArray[np.floating]
Bits = NDArray[np.integer] | NDArray[np.bool_]


def f1(hits: NDArray[np.integer], sizes: NDArray[np.integer], *, empty: float) -> NDArray[np.float64]:
    """2 hits / sizes. hits: labels that are true and given. sizes: those that are true and those that are given."""
    return np.where(sizes == 0, empty, 2 * hits / np.maximum(sizes, 1))


def f1_per_example(truth: Bits, labels: Bits) -> NDArray[np.float64]:
    """(n, labels) twice to (n,): 2 |truth & labels| / (|truth| + |labels|); 1 where both sets are empty."""
    truth, labels = truth.astype(bool), labels.astype(bool)
    return f1((truth & labels).sum(axis=1), truth.sum(axis=1) + labels.sum(axis=1), empty=1.0)


def contributions(metric: Metric, truth: Bits, labels: Bits) -> NDArray[np.float64]:
    """(n, labels) twice to (n,) whose mean is the F1 and whose spread is that of the F1, by the delta method.

    Of `mean_f1`, and of `map`, to which labels mean nothing, they are the F1 of the examples. `micro_f1` is a ratio of
    sums, `macro_f1` a mean of such: each example has the score, and what it moves the sums.
    """
    if metric in ("mean_f1", "map"):
        return f1_per_example(truth, labels)
    hits, sizes = truth.astype(bool) & labels.astype(bool), truth.astype(int) + labels.astype(int)
    if metric == "micro_f1":
        hits, sizes = hits.sum(axis=1, keepdims=True), sizes.sum(axis=1, keepdims=True)
    scores = f1(hits.sum(axis=0), sizes.sum(axis=0), empty=0.0)
    means = sizes.mean(axis=0)
    moves = np.divide(2 * hits - scores * sizes, means, out=np.zeros(sizes.shape), where=means > 0)
    each: NDArray[np.float64] = (scores + moves).mean(axis=1)
    return each
