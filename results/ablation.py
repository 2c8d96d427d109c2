"""What a run's winner scores without each of its parts: RUN/ablation.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from captune.model.config import Metric, Settings
from captune.model.metrics import bootstrap_interval
from captune.results.documents import Document

WHOLE = "nothing"  # is left out


class Variant(Settings):
    """The network without a part, trained once with each seed."""

    without: str
    shares: tuple[float, ...]
    """Of the score on validation, which is their mean, see captune.model.metrics.shares; averaged over the seeds."""
    weights_bytes: int
    seconds: float
    note: str = ""
    """What else is not as in the whole network, where a reader should know."""


@dataclass(frozen=True)
class Row:
    """A variant beside the whole network. low, high: 95 % interval of the difference, over the shares in pairs."""

    without: str
    score: float
    difference: float
    low: float
    high: float
    weights_bytes: int
    seconds: float
    note: str


class Ablation(Document):
    """All variants that are trained so far, the whole network first."""

    trial: int
    config: dict[str, Any]
    """Of the trial, flat."""
    epochs: int
    seeds: int
    data: str
    """Fingerprint of the data."""
    metric: Metric
    """Of the scores: that of the search."""
    variants: tuple[Variant, ...] = ()

    def rows(self) -> Iterator[Row]:
        """Each variant beside the whole network."""
        for variant in self.variants:
            pairs = np.array(variant.shares) - np.array(self.variants[0].shares)
            low, high = bootstrap_interval(pairs, seed=self.trial)
            yield Row(
                variant.without,
                score=float(np.mean(variant.shares)),
                difference=float(pairs.mean()),
                low=low,
                high=high,
                weights_bytes=variant.weights_bytes,
                seconds=variant.seconds,
                note=variant.note,
            )

    def without(self, part: str) -> Variant | None:
        """The variant without a part; None where it is not trained."""
        return next((variant for variant in self.variants if variant.without == part), None)
