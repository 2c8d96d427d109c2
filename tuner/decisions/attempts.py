"""An attempt at a trial while it runs, and what is written of it into the study."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import Any

import optuna

from captune.model.metrics import Epoch
from captune.results.records import epoch_attribute
from captune.tuner.decisions.fates import Course
from captune.tuner.decisions.gate import Admitted


@dataclass
class Attempt:
    """One attempt, with its trial in the study.

    gpus: that it was given. started: second of the clock. stopped_at: see Course.
    """

    study: optuna.Study
    admitted: Admitted
    gpus: float
    started: float
    best: float | None = None
    last: Epoch | None = None
    stopped_at: int | None = None
    overdue: bool = False

    @property
    def trial(self) -> optuna.Trial:
        """Of the study."""
        return self.admitted.trial

    @property
    def origin(self) -> int:
        """Number of the trial's first attempt."""
        return self.admitted.origin

    @property
    def epochs(self) -> int:
        """That the configuration trains."""
        return self.admitted.config.train.epochs

    @property
    def course(self) -> Course:
        """How far it has come."""
        tries = self.trial.user_attrs.get("tries", 1)
        return Course(self.last, self.best, self.gpus, tries, self.stopped_at, self.overdue)

    def keep(self, epoch: Epoch, order: int) -> None:
        """Writes a report. order: its place among all of the run."""
        self.last = epoch
        self._write(*epoch_attribute(epoch, order), epoch.epoch, epoch.mean_f1)

    def take_over(self, before: float = math.inf) -> None:
        """Writes the reports of earlier attempts of the trial, of epochs before `before`, as its own."""
        for epoch, report in reports_of(self.study, self.origin).items():
            if epoch < before:
                self._write(f"epoch:{epoch}", report, epoch, report.get("mean_f1", math.nan))

    def _write(self, name: str, report: dict[str, Any], epoch: int, score: float) -> None:
        self.trial.set_user_attr(name, report)
        if math.isfinite(score):
            if len(self.study.directions) == 1:  # Optuna takes no intermediate values of several objectives
                self.trial.report(score, epoch)
            self.best = max(self.best or 0.0, score)


def reports_of(study: optuna.Study, origin: int) -> dict[int, dict[str, Any]]:
    """Reports of all attempts of a trial by epoch, as far as none is missing. origin: number of the first attempt."""
    attempts = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("replaces", t.number) == origin]
    attributes = {name: value for trial in attempts for name, value in trial.user_attrs.items()}
    last = next(epoch for epoch in count(0) if f"epoch:{epoch + 1}" not in attributes)
    return {epoch: attributes[f"epoch:{epoch}"] for epoch in range(1, last + 1)}
