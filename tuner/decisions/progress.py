"""Where a running search stands, as frozen values for whoever watches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from captune.model.config import Metric
from captune.model.part_of_epoch import PartOfEpoch
from captune.tuner.decisions.features_pace import Features

Phase = Literal["waiting for room", "starting a worker", "features, first epoch", "first epoch", "training"]


@dataclass(frozen=True)
class RunningTrial:
    """A trial that holds a slot.

    epochs: that its configuration trains. scores: after each epoch so far, NaN among them where it diverged.
    node: host name of its machine, None before its first report. part: of the epoch after these, None where nothing was
    told of it.
    """

    number: int
    epochs: int
    scores: tuple[float, ...]
    node: str | None
    phase: Phase
    part: PartOfEpoch | None = None

    @property
    def epochs_done(self) -> float:
        """With the part of the next one."""
        return len(self.scores) + (0.0 if self.part is None else self.part.share)


@dataclass(frozen=True)
class Best:
    """The best score so far of a trial that may win."""

    trial: int
    score: float
    weights_bytes: int


def best_of(scores: Iterable[Best | None]) -> Best | None:
    """The highest, of equal ones the first."""
    return max((each for each in scores if each is not None), key=lambda best: best.score, default=None)


@dataclass(frozen=True)
class Progress:
    """How a search stands. The defaults are those of one that has not opened its study.

    Args:
        seconds: since it was called.
        waits: what is waited for, and what is wrong with checkpoints, a sentence each.
        features: that trials wait for, where they can be seen.
        fates: trials that ended by fate, those of earlier searches of the run included.
        impossible: draws whose values are impossible together: no trials.
        counted: trials that count towards `wanted`, of which `counted_before` are of earlier searches.
        wanted: trials, None for no limit.
        seconds_left: of the time limit, None without one.
        running: trials in slots, in the order in which they took them.
        seconds_at_work: since the first epoch began to train of which anything was heard in this search.
        epochs: that were reported in this search.
        slots, nodes: that there are.
        metric: of which all scores are.
        slot_hours: for which trials held a slot, in earlier searches of the run, too. price: of one, None where it is
            not known.
    """

    seconds: float
    waits: tuple[str, ...] = ()
    fates: Mapping[str, int] = field(default_factory=dict)
    impossible: int = 0
    counted: int = 0
    counted_before: int = 0
    wanted: int | None = None
    seconds_left: float | None = None
    running: tuple[RunningTrial, ...] = ()
    seconds_at_work: float = 0.0
    epochs: int = 0
    slots: int = 0
    nodes: int = 0
    best: Best | None = None
    metric: Metric = "mean_f1"
    slot_hours: float = 0.0
    price: float | None = None
    features: Features | None = None

    @property
    def trials_done(self) -> float:
        """Those that count, and of each that runs the share of its epochs that it has."""
        return self.counted + sum(min(1.0, trial.epochs_done / trial.epochs) for trial in self.running)

    @property
    def estimate(self) -> float | None:
        """Seconds until the trials are done if they go on as in this search; None before anything can be said."""
        done = self.trials_done - self.counted_before
        if self.wanted is None or done <= 0 or self.seconds_at_work <= 0:
            return None
        return max(0.0, self.wanted - self.trials_done) * self.seconds_at_work / done

    @property
    def first_epoch_left(self) -> float | None:
        """Seconds of training until the first epoch of this search is done.

        None after it, and as long as of a trial that has a node nobody can say: it may come before all others.
        """
        at_work = [trial for trial in self.running if trial.phase != "waiting for room"]
        left = [None if trial.part is None else trial.part.seconds_left for trial in at_work]
        known = [seconds for seconds in left if seconds is not None]
        return min(known) if known and len(known) == len(left) and not self.epochs else None

    @property
    def notes(self) -> tuple[str, ...]:
        """`waits`, features, and whether the time will be up before anything is scored, a sentence each."""
        notes = self.waits if self.features is None else (*self.waits, str(self.features))
        left, limit = self.first_epoch_left, self.seconds_left
        way_out = "its first epoch is done, without a score: give it more time, smaller pictures or smaller networks"
        if self.features is not None and not any(trial.phase in ("first epoch", "training") for trial in self.running):
            left = self.features.seconds_left
            way_out = "they are, without a score: give it more time; what is computed stays for the next search"
        if left is None or limit is None or left <= limit or self.epochs or self.best is not None:
            return notes
        return (*notes, f"the time limit ends the search before {way_out}")

    @property
    def share(self) -> float | None:
        """From 0 to 1, of trials or time, whichever has come further; None where neither is limited."""
        shares = []
        if self.wanted:
            shares.append(self.trials_done / self.wanted)
        if self.seconds_left is not None:
            shares.append(self.seconds / max(1e-9, self.seconds + self.seconds_left))
        return min(1.0, max(shares)) if shares else None

    def later(self, seconds: float) -> Progress:
        """The same after so many seconds in which nothing was heard."""
        left = None if self.seconds_left is None else max(0.0, self.seconds_left - seconds)
        at_work = self.seconds_at_work and self.seconds_at_work + seconds
        return replace(self, seconds=self.seconds + seconds, seconds_left=left, seconds_at_work=at_work)
