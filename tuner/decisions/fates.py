"""What the end of a trial means: its fate, whether it is handed out again, and when a search has to give up. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from captune.model.metrics import Epoch
from captune.results.attributes import BY_HAND, HALVED, NO_EPOCH, Fate
from captune.tuner.decisions.trial_events import (
    CodeMissing,
    Completed,
    End,
    Failed,
    NodeBroken,
    Preempted,
    TurnedAway,
    WorkerDied,
)

MAX_FAILURES = 5
"""In a row before the first score: then the search is at fault, not its configurations."""
MAX_FAILURES_LATER = 20
"""In a row after it."""
MAX_LOSSES = 10
"""In a row without one epoch; and three for each trial at once, as a machine takes all of its own along."""


@dataclass(frozen=True)
class TrialLimits:
    """What trials may cost.

    retries: of a trial that the machine lost. timeout: seconds that a trial may take, None for any. min_free: bytes
    that must be free on the run's disk for a trial to start.
    """

    retries: int
    timeout: float | None
    min_free: int


@dataclass(frozen=True)
class Course:
    """How far an attempt at a trial has come when it ends.

    last: its last report. best: the best score, of earlier attempts too. tries: attempts so far, this one included.
    stopped_at: the epoch after which halving said stop. overdue: its worker was ended as it took too long. dropped: a
    person ended it.
    """

    last: Epoch | None = None
    best: float | None = None
    gpus: float = 0.0
    tries: int = 1
    stopped_at: int | None = None
    overdue: bool = False
    dropped: bool = False


@dataclass(frozen=True)
class Again:
    """A trial is to be handed out once more. tries: attempts, that one included. gpus: None for as many as before."""

    tries: int
    gpus: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a trial. fate: None where nothing of it was begun, so that it is no record."""

    fate: Fate | None
    reason: str | None = None
    again: Again | None = None
    traceback: str | None = None


def judge(end: End, course: Course, limits: TrialLimits) -> Verdict:
    """The fate of a trial that ended so after this course."""
    match end:
        case _ if course.dropped:
            return Verdict("stopped", BY_HAND)
        case TurnedAway(worker):
            return Verdict(None, f"node {worker.node} rests", Again(course.tries))
        case Preempted(worker):
            return Verdict("lost", f"node {worker.node} is taken away; it goes on elsewhere", Again(course.tries))
        case Failed(out_of_memory=True) if 0 < course.gpus < 1:
            gpus = min(1.0, 2 * course.gpus)
            reason = f"out of memory in {course.gpus:g} of a GPU; again in {gpus:g}"
            return Verdict("lost", reason, Again(course.tries, gpus))
        case Failed(reason, traceback):
            return Verdict("failed", reason, traceback=traceback)
        case Completed():
            return _completed(course)
        case WorkerDied() if course.overdue:
            reason = f"not done after {limits.timeout:.0f} s (--trial-timeout)"
            return Verdict("failed", reason, traceback=reason) if course.best is None else Verdict("stopped", reason)
        case CodeMissing(reason):
            return Verdict("lost", reason, Again(course.tries))
        case NodeBroken(_, reason) | WorkerDied(reason):
            return Verdict("lost", reason, Again(course.tries + 1) if course.tries <= limits.retries else None)


def _completed(course: Course) -> Verdict:
    last = course.last
    if last is None or not (math.isfinite(last.score) and math.isfinite(last.loss)):
        epoch = None if last is None else last.epoch
        return Verdict("diverged", f"no finite score after epoch {epoch}")
    if course.stopped_at is not None:
        return Verdict("stopped", halving_reason(course.stopped_at))
    return Verdict("complete")


def cut_off(course: Course, reason: str, *, resumable: bool) -> Verdict:
    """The fate of a trial that runs when the search ends.

    Lost trials are handed out again by a resume, and so is what has no score: it was tried no more than one that waits.

    Args:
        resumable: whether it is to go on, or was given what time there was.
    """
    if course.dropped:
        return Verdict("stopped", BY_HAND)
    if resumable:
        return Verdict("lost", reason)
    return Verdict("stopped", reason) if course.best is not None else Verdict("lost", f"{reason} {NO_EPOCH}")


def halving_reason(epoch: int) -> str:
    """Why halving stopped a trial, as records say it."""
    return f"{HALVED} at epoch {epoch}"


@dataclass(frozen=True)
class Streak:
    """Trials that went wrong in a row, as `after` counts them. scored: whether any trial has a score."""

    failures: int = 0
    losses: int = 0
    scored: bool = False

    def epoch(self, scored: bool) -> Streak:
        """An epoch was reported."""
        return replace(self, losses=0, scored=self.scored or scored)

    def after(self, end: End, verdict: Verdict) -> Streak:
        """A trial ended. One that was turned away or taken with its node says nothing of the search."""
        match verdict.fate:
            case "failed":
                return replace(self, failures=self.failures + 1, losses=0)
            case "lost":
                counts = isinstance(end, NodeBroken | WorkerDied)
                return replace(self, losses=self.losses + counts)
            case None:
                return self
            case _:
                return replace(self, failures=0, losses=0)

    def complaint(self, end: End, verdict: Verdict, most_at_once: int) -> str | None:
        """Why the search cannot go on after this end; None where it can.

        Args:
            most_at_once: trials that ran side by side at most.
        """
        match end, verdict.fate:
            case CodeMissing(reason), _:
                return f"workers cannot load captune: {reason}; install it whole for the Python that runs the workers"
            case Failed(fatal=True), "failed":
                return f"the trials cannot work: {verdict.reason}"
            case _, "failed" if self.failures >= (MAX_FAILURES_LATER if self.scored else MAX_FAILURES):
                return f"the trials cannot work: {verdict.reason}"
            case _, "lost" if self.losses >= max(MAX_LOSSES, 3 * most_at_once):
                return f"{self.losses} trials in a row were lost before an epoch was trained: {verdict.reason}"
        return None
