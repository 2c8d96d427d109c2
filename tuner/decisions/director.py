"""Directs a search: what runs next, whether a trial goes on after a report, and what its end means.

Ray is not met here. A director is asked and told by whatever runs the trials (tuner/ray_tune), one call after another;
times are seconds of one clock. All it does is write into the study; what else follows from an end is what it returns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna

from captune.cluster.nodes.health import NodeHealth, NodeNames
from captune.cluster.nodes.resources import Room
from captune.errors import Error, WorkError
from captune.model.config import Metric
from captune.model.size import show_bytes
from captune.results.attributes import BY_HAND, COUNTED, SCORED, TrialAttributes
from captune.results.records import Record
from captune.tuner.decisions.attempts import Attempt, reports_of
from captune.tuner.decisions.fates import Streak, TrialLimits, Verdict, cut_off, judge
from captune.tuner.decisions.gate import Admitted, Gate, UsedUp
from captune.tuner.decisions.halving import Rungs, is_finite
from captune.tuner.decisions.progress import Best, best_of
from captune.tuner.decisions.recovery import enqueue_again
from captune.tuner.decisions.trial_events import (
    Assignment,
    Done,
    End,
    Failed,
    NodeBroken,
    Report,
    Wait,
    WorkerDied,
)
from captune.tuner.space.feasibility import BudgetError
from captune.tuner.training.job import Job


class SearchError(WorkError):
    """The search itself cannot go on."""


@dataclass(frozen=True)
class Ended:
    """A trial whose end is in the study. score: its best, None unless it may win."""

    number: int
    origin: int
    verdict: Verdict
    score: float | None


@dataclass
class Director:
    """Decides for one search.

    Args:
        study: where trials are told; its only writers are this object and the gate.
        gate: says what may run.
        rungs: of halving.
        limits: what trials may cost.
        trials: feasible trials wanted, those that the study already holds included; None for no limit.
        records: of earlier searches of the run.
        threads: of each worker, for the record: sums of floats depend on them.
        gpus: of a trial.
        room: how many trials may run at once, and on how many nodes; it may change while the search runs.
        patience: trials in a row, ended in this search, without a better score, after which none starts; None for any.
        metric: that trials are judged by.
    """

    study: optuna.Study
    gate: Gate
    rungs: Rungs
    limits: TrialLimits
    trials: int | None
    records: Sequence[Record]
    threads: int
    gpus: float
    room: Room
    patience: int | None = None
    metric: Metric = "mean_f1"
    share: int | None = field(default=None, init=False)  # of the room, where other searches use it too
    fault: Error | None = field(default=None, init=False)  # why the search cannot go on
    waiting: str | None = field(default=None, init=False)  # for what no trial starts
    complaint: str | None = field(default=None, init=False)  # of the trial that reported last, about its checkpoints
    running: dict[str, Attempt] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._given_up = 0  # lost too often: counted as trials wanted, since a search must end
        self._best_ended = best_of(
            Best(record.number, record.score, record.weights_bytes)
            for record in self.records
            if record.score is not None and record.fate in SCORED
        )
        self.counted_before = self.counted
        self._reports = self._reports_before = sum(record.epochs for record in self.records)
        self._streak = Streak(scored=any(record.score is not None for record in self.records))
        self._health, self._names = NodeHealth(), NodeNames()
        self._short_of_memory: list[Attempt] = []  # in their share of a GPU: what is as large needs more, too
        self._most_at_once = 1
        self._held = 0.0  # seconds for which trials that have ended held a slot
        self._no_better = 0  # trials in a row, that count
        self._has_more = True  # trials to start, as far as it knows

    @property
    def fates(self) -> Counter[str]:
        """Trials by fate, those of earlier searches of the run included."""
        return self.gate.fates

    @property
    def counted(self) -> int:
        """Trials that have ended and count towards those wanted."""
        return sum(self.fates[fate] for fate in COUNTED) + self._given_up

    @property
    def slots(self) -> int:
        """Trials that may run at once."""
        return self.room.slots if self.share is None else min(self.room.slots, self.share)

    @property
    def wanted(self) -> int:
        """Trials that would run at once if no other search were there."""
        if not self._has_more:
            return len(self.running)
        left = self.room.slots if self.trials is None else self.trials - self.counted
        return max(len(self.running), min(self.room.slots, left))

    @property
    def patience_is_over(self) -> bool:
        """Whether so many trials in a row were no better that the search ends."""
        return self.patience is not None and self._no_better >= self.patience

    @property
    def epochs(self) -> int:
        """That were reported in this search."""
        return self._reports - self._reports_before

    def seconds(self, now: float) -> float:
        """For which trials of this search held a slot so far."""
        return self._held + sum(now - attempt.started for attempt in self.running.values())

    @property
    def best(self) -> Best | None:
        """Of the trials that may win or still run."""
        running = (
            Best(attempt.trial.number, attempt.best, attempt.admitted.size.weights_bytes)
            for attempt in self.running.values()
            if attempt.best is not None
        )
        return best_of([self._best_ended, *running])

    def next(self, key: str, *, now: float, free_bytes: int) -> Assignment | Wait | Done:
        """What is to be done with a free slot.

        Args:
            key: under which the trial, if one is assigned, is told of later.
            free_bytes: on the disk of the run folder.
        """
        step = self._next(key, now, free_bytes)
        self.waiting = step.trouble if isinstance(step, Wait) else None
        return step

    def _next(self, key: str, now: float, free_bytes: int) -> Assignment | Wait | Done:
        self._has_more = False
        if (self.trials is not None and self.counted + len(self.running) >= self.trials) or self.patience_is_over:
            return self._nothing_left()
        if len(self.running) >= self.room.slots:
            self._has_more = True
            return Wait(None if self.running else "no trial starts: no node is left with room for one")
        if free_bytes < self.limits.min_free:
            return Wait(
                f"no trial starts: {show_bytes(free_bytes)} free on the disk of the run, "
                f"{show_bytes(self.limits.min_free)} are to stay free (--min-free)"
            )
        if len(self.running) >= self.slots:
            self._has_more = True
            return Wait(None if self.running else "no trial starts: it is the turn of another search on this cluster")
        try:
            admitted = self.gate.admit()
        except UsedUp:
            return self._nothing_left()
        except BudgetError as error:
            self.fault = error
            return Done()
        self._has_more = True
        return self._assign(key, admitted, now)

    def _nothing_left(self) -> Wait | Done:
        return Wait() if self.running else Done()  # what runs may be lost, and handed out again

    def _assign(self, key: str, admitted: Admitted, now: float) -> Assignment:
        trial, origin = admitted.trial, admitted.origin
        TrialAttributes(threads=self.threads).write(trial)
        gpus = self._gpus_for(admitted)
        earlier = reports_of(self.study, origin) if origin != trial.number else {}
        pinned = TrialAttributes.of(trial).pinned is True  # its attempt before was
        self.running[key] = Attempt(self.study, admitted, gpus, now, pinned=pinned)
        self._most_at_once = max(self._most_at_once, len(self.running))
        best = max((epoch.score for epoch in earlier if is_finite(epoch.score)), default=-math.inf)
        job = Job(admitted.config, admitted.seed, origin, best, len(earlier), self.metric)
        return Assignment(job, gpus, self._health.resting(now))

    def _gpus_for(self, admitted: Admitted) -> float:
        """More than the usual share for a trial that ran out of memory in it, and for those at least as large."""
        if not 0 < self.gpus < 1:
            return self.gpus
        size, batch = admitted.size.weights_bytes, admitted.config.train.batch_size
        wider = [
            2 * short.gpus
            for short in self._short_of_memory
            if size >= short.admitted.size.weights_bytes and batch >= short.admitted.config.train.batch_size
        ]
        return min(1.0, max(self.gpus, TrialAttributes.of(admitted.trial).gpus or 0.0, *wider))

    def report(self, key: str, report: Report) -> bool:
        """Writes a report down, and says whether its trial goes on. The same report again hears the same."""
        attempt = self.running.get(key)
        if attempt is None:
            return True
        epoch = report.epoch
        among_the_best = self.rungs.goes_on(attempt.origin, epoch.epoch, epoch.score, epochs=attempt.epochs)
        by_halving = among_the_best or (attempt.pinned and is_finite(epoch.score))
        goes_on = by_halving and is_finite(epoch.loss) and not attempt.dropped
        if attempt.last is not None and attempt.last.epoch >= epoch.epoch:
            return goes_on
        if attempt.last is None:
            attempt.node = self._names.of(report.worker.node, report.worker.node_id)
            TrialAttributes(node=attempt.node).write(attempt.trial)
            if epoch.epoch > 1:  # else there is nothing to look for among all trials
                attempt.take_over(before=epoch.epoch)
        self._health.well(report.worker.node_id)
        self.complaint = report.complaint
        self._reports += 1
        attempt.write(epoch, self._reports)
        self._streak = self._streak.epoch(scored=attempt.best is not None)
        if not goes_on and epoch.epoch < attempt.epochs:
            attempt.stopped_at = epoch.epoch
        return goes_on

    def end(self, key: str, end: End, *, now: float) -> Ended | None:
        """Gives a trial its fate, and where it is to run again its place in front; None for a key that is not known."""
        attempt = self.running.get(key)
        if attempt is None:
            return None
        if (attempt.overdue or attempt.dropped) and attempt.last is None:
            attempt.take_over()
        verdict = judge(end, attempt.course, self.limits)
        self._streak = self._streak.after(end, verdict)
        if (complaint := self._streak.complaint(end, verdict, self._most_at_once)) is not None:
            self.fault = SearchError(complaint)
        if isinstance(end, NodeBroken):
            self._health.failed(end.worker.node_id, now)
            if len(self._health.resting(now)) >= self.room.nodes:
                self.fault = SearchError(f"no node can run trials: {end.reason}")
        if isinstance(end, Failed) and verdict.again is not None:
            self._short_of_memory.append(attempt)
        if verdict.again is None and isinstance(end, NodeBroken | WorkerDied) and verdict.fate == "lost":
            self._given_up += 1
        self._held += now - attempt.started
        return self.settle(key, verdict)

    def settle(self, key: str, verdict: Verdict) -> Ended:
        """Gives a trial that runs its fate, as the verdict has it."""
        attempt = self.running.pop(key)
        trial = attempt.trial
        if verdict.fate is None:
            self.gate.set_aside(trial, verdict.reason or "")
        else:
            self.gate.tell(trial, verdict.fate, best=attempt.best, reason=verdict.reason)
        if verdict.again is not None:
            frozen = self.study.get_trials(deepcopy=False)[trial.number]
            enqueue_again(self.study, frozen, verdict.again)
        score = attempt.best if verdict.fate in SCORED else None
        before = self._best_ended
        if score is not None:
            size = attempt.admitted.size.weights_bytes
            self._best_ended = best_of([before, Best(trial.number, score, size)])
        if verdict.fate in COUNTED:
            self._no_better = self._no_better + 1 if self._best_ended is before else 0
        return Ended(trial.number, attempt.origin, verdict, score)

    def overdue(self, now: float) -> list[str]:
        """Trials that have just run out of time: their workers are to be ended, which is told by `end` as any death."""
        if self.limits.timeout is None:
            return []
        late = [k for k, a in self.running.items() if not a.overdue and now - a.started > self.limits.timeout]
        for key in late:
            self.running[key].overdue = True
        return late

    def drop(self, number: int) -> str | None:
        """Ends a trial for a person: its worker is to be ended, as that of one which is overdue.

        Returns:
            Its key; None where no such trial runs.
        """
        key = self._key_of(number)
        if key is not None:
            attempt = self.running[key]
            # A driver killed from here on leaves the fate open.
            TrialAttributes(reason=BY_HAND).write(attempt.trial)
            attempt.dropped = True
        return key

    def pin(self, number: int) -> bool:
        """Lets a trial train to its end for a person, whatever halving says; False where it does not run or was cut."""
        key = self._key_of(number)
        if key is None or self.running[key].stopped_at is not None:
            return False
        attempt = self.running[key]
        if not attempt.pinned:
            TrialAttributes(pinned=True).write(attempt.trial)
            attempt.pinned = True
        return True

    def _key_of(self, number: int) -> str | None:
        return next((key for key, attempt in self.running.items() if attempt.trial.number == number), None)

    def close(self, reason: str, *, resumable: bool) -> list[Ended]:
        """Gives every trial that still runs its fate when the search ends.

        Args:
            resumable: whether they are to be handed out again by a resume, or are done (the time limit) if they have
                a score.
        """
        ended = []
        for key, attempt in list(self.running.items()):
            if attempt.last is None and not resumable:
                attempt.take_over()  # its earlier attempts' scores may win
            ended.append(self.settle(key, cut_off(attempt.course, reason, resumable=resumable)))
        return ended
