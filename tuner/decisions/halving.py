"""Asynchronous successive halving: at each rung only the best share of the trials seen there goes on.

After Li et al., 2020 (arXiv 1810.05934), in the stopping form: a trial below the cut stops and is not taken up again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from captune.results.records import Record
from captune.tuner.space.config import HalvingConfig


@dataclass
class Rungs:
    """The decision itself: epochs at which trials are compared, the scores seen at each, and what was decided.

    Rungs stand at `grace`, `grace * reduction`, `grace * reduction**2`, ... epochs of trial 0. A trial of more or fewer
    epochs comes to each at the same share of its own, rounded up: half-way, a rate that falls to zero by the last
    epoch is as far down in either, and after the same epoch the longer trial would look the worse. Where a short trial
    comes to several rungs at once, it is compared at the last. A decision is taken once: a trial that comes to an
    epoch again, after a retry or a resume, hears the same and counts once.

    Args:
        schedule: epochs of trial 0.
    """

    config: HalvingConfig
    schedule: int
    _scores: dict[int, list[float]] = field(default_factory=dict)
    _decided: dict[tuple[int, int], bool] = field(default_factory=dict)

    def goes_on(self, trial: int, epoch: int, score: Any, *, epochs: int) -> bool:
        """Whether a trial with this score after this epoch (from 1) goes on.

        A score that is no finite number never does. Between rungs every trial does. At a rung a trial goes on while
        it is among the best 1/reduction of those seen there so far, itself included, rounded up: the first always does.

        Args:
            trial: its number; of a repeated one that of the first attempt.
            epoch: epochs trained since the very start.
            score: higher is better.
            epochs: that the trial trains if it is not stopped.
        """
        if not is_finite(score):
            return False
        if (trial, epoch) not in self._decided:
            rung = self._rung(epoch, epochs)
            self._decided[trial, epoch] = rung is None or self._among_the_best(rung, score)
        return self._decided[trial, epoch]

    @classmethod
    def of(cls, config: HalvingConfig, records: Iterable[Record], *, schedule: int) -> Rungs:
        """The rungs as they stood after all reports of these records, taken up in the order in which they came."""
        rungs = cls(config, schedule)
        reports = [(record.order[epoch.epoch], epoch, record) for record in records for epoch in record.curve]
        for _, epoch, record in sorted(reports, key=lambda report: report[0]):
            rungs.goes_on(record.origin, epoch.epoch, epoch.score, epochs=record.config["train.epochs"])
        return rungs

    def _among_the_best(self, rung: int, score: float) -> bool:
        seen = self._scores.setdefault(rung, [])
        seen.append(score)
        keep = math.ceil(len(seen) / self.config.reduction)
        return score >= sorted(seen, reverse=True)[keep - 1]

    def _rung(self, epoch: int, epochs: int) -> int | None:
        """The last rung, in epochs of trial 0, that a trial of so many epochs comes to with this one; None for none."""
        last, rung = None, self.config.grace
        while (own := -(-rung * epochs // self.schedule)) <= epoch:
            last = rung if own == epoch else None
            rung *= self.config.reduction
        return last


def is_finite(value: Any) -> bool:
    """Whether a reported metric is a number that can be compared: not None, text, NaN or infinity."""
    return isinstance(value, int | float) and math.isfinite(value)
