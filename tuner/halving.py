"""Asynchronous successive halving: at each rung only the best share of the trials seen there goes on.

After Li et al., 2020 (arXiv 1810.05934), in the stopping form: a trial below the cut stops and is not taken up again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tuner.config import HalvingConfig


@dataclass
class Rungs:
    """The decision itself, pure: epochs at which trials are compared, and the scores seen at each.

    Rungs stand at `grace`, `grace * reduction`, `grace * reduction**2`, ... epochs.
    """

    config: HalvingConfig
    _scores: dict[int, list[float]] = field(default_factory=dict)

    def goes_on(self, epoch: int, score: float) -> bool:
        """Whether a trial with this score after this epoch (from 1) goes on.

        A score that is not finite never does. Between rungs every trial does. At a rung a trial goes on while it is
        among the best 1/reduction of those seen there so far, itself included, rounded up: the first always does.
        """
        if not math.isfinite(score):
            return False
        if not self._is_rung(epoch):
            return True
        seen = self._scores.setdefault(epoch, [])
        seen.append(score)
        keep = math.ceil(len(seen) / self.config.reduction)
        return score >= sorted(seen, reverse=True)[keep - 1]

    def _is_rung(self, epoch: int) -> bool:
        rung = self.config.grace
        while rung < epoch:
            rung *= self.config.reduction
        return rung == epoch


class HalvingScheduler(FIFOScheduler):
    """The decision as Ray Tune asks for it. `stopped` tells the gate at which epoch a trial was cut."""

    def __init__(self, config: HalvingConfig) -> None:
        super().__init__()
        self._rungs = Rungs(config)
        self.stopped: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stops a trial that a rung cuts. A trial that ends by itself is never asked about."""
        if self._rungs.goes_on(result["training_iteration"], result["mean_f1"]):
            return str(TrialScheduler.CONTINUE)
        self.stopped[trial.trial_id] = result["training_iteration"]
        return str(TrialScheduler.STOP)
