"""What a bundle says of examples, as people read it: labels with names and probabilities, likeliest first."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from captune.errors import ArgumentError
from captune.model.bundle import Bundle


@dataclass(frozen=True)
class Answer:
    """A label of an example. probability: calibrated, 0 to 1. decided: whether the bundle's rule gives the label."""

    id: int
    name: str
    probability: float
    decided: bool


def answers(bundle: Bundle, raw: NDArray[np.float32], top: int | None = None) -> list[tuple[Answer, ...]]:
    """The labels of each row, likeliest first.

    Args:
        raw: (n, labels), the network's own probabilities.
        top: how many of each row, decided or not; None for those that the rule gives, at least one.

    Raises:
        ArgumentError: `top` is not from 1 to the number of labels.
    """
    check_top(bundle, top)
    by_rule = bundle.rule.answers(raw)
    rows = []
    for order, probabilities, decided in zip(likeliest(raw), by_rule.probabilities, by_rule.labels, strict=True):
        columns = order[decided[order]] if top is None else order[:top]
        rows.append(
            tuple(
                Answer(bundle.label_ids[i], bundle.label_names[i], float(probabilities[i]), bool(decided[i]))
                for i in columns
            )
        )
    return rows


def check_top(bundle: Bundle, top: int | None) -> None:
    """Raises ArgumentError unless it is a whole number from one to the labels of the bundle."""
    count = len(bundle.label_ids)
    if top is not None and not (isinstance(top, Integral) and 1 <= top <= count):
        raise ArgumentError("top", f"from 1 to {count}, as many as there are labels, got {top}")


def likeliest(raw: NDArray[np.float32]) -> NDArray[np.intp]:
    """(n, labels) of columns by falling probability, which calibration does not change; of equal ones the first."""
    return np.argsort(-raw, axis=1, kind="stable")
