"""What a run is of: how it was asked for, on which data, as whoever reads it elsewhere is told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captune.model.config import Metric
from captune.model.size import Budget


@dataclass(frozen=True)
class RunFacts:
    """Of one run.

    name: the last part of its path or address. data: path or address of the prepared data set; fingerprint: of its
    content. objectives: what the sampler looks for, the metric first. settings: of the search, flat by dotted name,
    dimensions under `space.`, as people write them. created: ISO 8601. metric: that trials are judged by.
    """

    name: str
    data: str
    fingerprint: str
    budget: Budget
    objectives: tuple[str, ...]
    settings: Mapping[str, Any]
    created: str
    metric: Metric = "mean_f1"

    @property
    def identity(self) -> str:
        """Tells the run from others, 12 letters and digits; the same on each machine and after a resume."""
        return hashlib.sha256("\n".join((self.name, self.fingerprint, self.created)).encode()).hexdigest()[:12]

    def attributes(self) -> dict[str, str]:
        """The facts in words, by name."""
        return {
            "preset": str(self.settings["preset"]),
            "budget": str(self.budget),
            "data": self.data,
            "fingerprint": self.fingerprint,
            "created": self.created,
        }
