"""How much the logits of picture, caption and both count in their sum, fitted when they are trained. No framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captune.model.f1 import Bits, Floats


@dataclass(frozen=True)
class Stack:
    """weights: of the three logits. shifts: added to the sum, of each label."""

    weights: tuple[float, ...]
    shifts: tuple[float, ...]

    @classmethod
    def of(cls, weights: Sequence[float], shifts: Sequence[float]) -> Stack:
        """From any numbers. Raises TypeError or ValueError for others."""
        return cls(tuple(map(float, weights)), tuple(map(float, shifts)))

    def probabilities(self, parts: Floats) -> NDArray[np.float32]:
        """What a network with this stack gives for its parts' logits (n, 3, num_labels): (n, num_labels)."""
        from scipy.special import expit

        logits = np.einsum("npl,p->nl", parts, self.weights) + self.shifts
        return expit(np.where(_has_caption(parts)[:, None], logits, parts[:, 0])).astype(np.float32)


def fit_stack(truth: Bits, parts: Floats) -> Stack:
    """Weights and shifts with the highest likelihood of all pairs of example and label: a logistic regression.

    A normal prior around the plain sum counts as a few pairs: on few examples they stay near to it.

    Args:
        truth: (n, num_labels) of 0 and 1.
        parts: their logits, (n, 3, num_labels); those of rows without a caption are not looked at.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    there = _has_caption(parts)
    parts, positive = parts[there].astype(np.float64), truth[there].astype(np.float64)
    count, labels = parts.shape[1:]
    start = np.concatenate([np.ones(count), np.zeros(labels)])

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = np.einsum("npl,p->nl", parts, values[:count]) + values[count:]
        wrong, off = expit(logits) - positive, values - start
        slopes = np.concatenate([np.einsum("npl,nl->p", parts, wrong), wrong.sum(axis=0)])
        return float((np.logaddexp(0, logits) - positive * logits).sum() + (off**2).sum()), slopes + 2 * off

    values = minimize(loss, start, jac=True, method="TNC").x  # for L-BFGS-B see `fit_rule`
    return Stack.of(values[:count], values[count:])


def cross_stacked(truth: Bits, parts: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (n, num_labels) of all examples by the stack fitted on the odd rows, and on the even ones."""
    of_odd, of_even = (fit_stack(truth[first::2], parts[first::2]).probabilities(parts) for first in (1, 0))
    return of_odd, of_even


def _has_caption(parts: Floats) -> NDArray[np.bool_]:
    """Where the caption, and both together, have logits at all."""
    return np.any(parts[:, 1:] != 0, axis=(1, 2))
