"""One trial as whoever trains it gets it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from captune.model.config import Metric, TrialConfig
from captune.model.flat import flatten


@dataclass(frozen=True)
class Job:
    """A configuration to be trained, or to be trained on.

    config: bound to the data. seed: of weights, dropout, augmentation, order. origin: number of the trial's first
    attempt. best: score of the best epoch of earlier attempts. reported: epochs of these that the record has, from the
    first on. metric: that epochs are judged by.
    """

    config: TrialConfig
    seed: int
    origin: int
    best: float = -math.inf
    reported: int = 0
    metric: Metric = "mean_f1"

    def identity(self, fingerprint: str) -> str:
        """The same for two jobs only if they take the same course on the data with this fingerprint."""
        metric = [] if self.metric == "mean_f1" else [self.metric]  # which checkpoints of before have not
        text = json.dumps([flatten(self.config), self.seed, fingerprint, *metric], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
