"""One trial as whoever trains it gets it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from captune.model.config import TrialConfig, flatten


@dataclass(frozen=True)
class Job:
    """A configuration to be trained, or to be trained on.

    config: bound to the data. seed: of weights, dropout, augmentation, order. origin: number of the trial's first
    attempt. best: score of the best epoch of earlier attempts. reported: epochs of these that the record has, from the
    first on.
    """

    config: TrialConfig
    seed: int
    origin: int
    best: float = -math.inf
    reported: int = 0

    def identity(self, fingerprint: str) -> str:
        """The same for two jobs only if they take the same course on the data with this fingerprint."""
        text = json.dumps([flatten(self.config), self.seed, fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
