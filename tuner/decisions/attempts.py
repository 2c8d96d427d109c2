"""An attempt at a trial while it runs, and what is written of it into the study."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import optuna

from captune.model.frozen_features import needed
from captune.model.metrics import Epoch
from captune.model.part_of_epoch import PartOfEpoch
from captune.results.attributes import TrialAttributes, epoch_attribute, epochs_of, origin_of
from captune.tuner.decisions.fates import Course
from captune.tuner.decisions.gate import Admitted
from captune.tuner.decisions.progress import Phase, RunningTrial


@dataclass
class Attempt:
    """One attempt, with its trial in the study.

    gpus: that it runs on. started: second of the clock. node: of its worker, as in the record. scores: after each
    epoch, of earlier attempts too. stopped_at, overdue, dropped: see Course. pinned: see TrialAttributes.
    """

    study: optuna.Study
    admitted: Admitted
    gpus: float
    started: float
    best: float | None = None
    last: Epoch | None = None
    stopped_at: int | None = None
    overdue: bool = False
    dropped: bool = False
    pinned: bool = False
    node: str | None = None
    scores: list[float] = field(default_factory=list)

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
        tries = TrialAttributes.of(self.trial).tries or 1
        return Course(self.last, self.best, self.gpus, tries, self.stopped_at, self.overdue, self.dropped)

    def running(self, *, placed: bool, ready: bool, part: PartOfEpoch | None = None) -> RunningTrial:
        """How it stands, for whoever watches.

        placed: a node has room for its worker. ready: the worker has begun. part: what it told last of an epoch.
        """
        phase: Phase = "starting a worker" if placed else "waiting for room"
        if self.last is not None:
            phase = "training"
        elif ready:
            phase = "features, first epoch" if part is None and needed(self.admitted.config) else "first epoch"
        under_way = part if part is not None and part.epoch == len(self.scores) + 1 else None
        return RunningTrial(self.trial.number, self.epochs, tuple(self.scores), self.node, phase, under_way)

    def write(self, epoch: Epoch, order: int) -> None:
        """Writes a report. order: its place among all of the run."""
        self.last = epoch
        self._write(epoch, order)

    def take_over(self, before: float = math.inf) -> None:
        """Writes the reports of earlier attempts of the trial, of epochs before `before`, as its own."""
        for epoch, order in reports_of(self.study, self.origin).items():
            if epoch.epoch < before:
                self._write(epoch, order)

    def _write(self, epoch: Epoch, order: int) -> None:
        self.trial.set_user_attr(*epoch_attribute(epoch, order))
        self.scores.append(epoch.score)
        if math.isfinite(epoch.score):
            if len(self.study.directions) == 1:  # Optuna takes no intermediate values of several objectives
                self.trial.report(epoch.score, epoch.epoch)
            self.best = max(self.best or 0.0, epoch.score)


def reports_of(study: optuna.Study, origin: int) -> dict[Epoch, int]:
    """Reports of all attempts of a trial, as far as none is missing, see `epochs_of`. origin: of the first attempt."""
    attempts = (trial for trial in study.get_trials(deepcopy=False) if origin_of(trial) == origin)
    reports = epochs_of({name: value for trial in attempts for name, value in trial.user_attrs.items()})
    return {epoch: order for place, (epoch, order) in enumerate(reports.items(), 1) if epoch.epoch == place}
