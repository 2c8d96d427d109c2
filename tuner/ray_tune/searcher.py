"""Ray Tune's view of the study: hands out what the gate admits, keeps what trials report, and gives each its fate."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import optuna
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import Stopper
from ray.tune.search import Searcher

from captune.cluster.nodes.health import NodeHealth
from captune.cluster.nodes.resources import Room
from captune.errors import WorkError
from captune.model.config import flatten
from captune.model.metrics import Epoch
from captune.model.size import show_bytes
from captune.results.attributes import SCORED, Fate, epoch_attribute
from captune.results.records import Record
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.gate import Admitted, Gate, UsedUp
from captune.tuner.decisions.recovery import enqueue_again, halving_reason
from captune.tuner.ray_tune.scheduler import HalvingScheduler, WorkerError
from captune.tuner.space.feasibility import BudgetError
from captune.tuner.training.checkpoints import CheckpointCleaner

MAX_FAILURES = 5  # in a row before the first score: then the search is at fault, not its configurations
MAX_FAILURES_LATER = 20  # in a row after it
MAX_LOSSES = 10  # in a row without one epoch; and three for each trial at once, as a machine takes all of its own along


class Ending(Stopper):
    """Ends the whole run when `ended` says so; Ray asks about once a second, and after every result."""

    def __init__(self, ended: Callable[[], bool]) -> None:
        self._ended = ended

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether the run is over."""
        return self._ended()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles what it is given to restore it one day, and we never restore from Ray."""
        return {}


class SearchError(WorkError):
    """The search itself cannot go on."""


@dataclass(frozen=True)
class TrialLimits:
    """What becomes of trials that go wrong.

    retries: of a trial that the machine lost. timeout: seconds that a trial may take, None for any. floor: bytes that
    must be free on the run's disk for a trial to start.
    """

    retries: int
    timeout: float | None
    floor: int


@dataclass
class _Running:
    trial: optuna.Trial
    origin: int
    gpus: float
    started: float
    best: float | None = None
    last: Epoch | None = None  # of this attempt
    timed_out: bool = False


class StudySearcher(Searcher):
    """Trials for Ray Tune, from a study.

    Args:
        study: where trials are told; its only writers are this object and the gate.
        gate: says what may run.
        trials: feasible trials wanted, those that the study already holds included; None for no limit.
        halving: asked why a trial was stopped, and for Ray's own trials.
        run: takes tracebacks.
        cleaner: told of every trial that is finished.
        care: limits.
        records: of earlier searches of the run.
        threads: of each worker, for the record: sums of floats depend on them.
        gpus: that a trial is given.
        room: how many trials may run at once, and on how many nodes; it may change while the search runs.
    """

    def __init__(
        self,
        study: optuna.Study,
        gate: Gate,
        *,
        trials: int | None,
        halving: HalvingScheduler,
        run: RunFolder,
        cleaner: CheckpointCleaner,
        care: TrialLimits,
        records: Sequence[Record],
        threads: int,
        gpus: float,
        room: Room,
    ) -> None:
        super().__init__(metric="mean_f1", mode="max")
        self._study = study
        self._gate = gate
        self._trials = trials
        self._halving = halving
        self._run = run
        self._cleaner = cleaner
        self._threads = threads
        self._gpus = gpus
        self._too_narrow: list[tuple[int, int, float]] = []  # bytes, batch and share that memory was short in
        self.room = room
        self._care = care
        self._running: dict[str, _Running] = {}
        self._reports = sum(record.epochs for record in records)
        self._failures = 0  # in a row
        self._losses = 0  # in a row
        self._most_at_once = 1
        self._given_up = 0  # lost too often: counted as trials wanted, since a search must end
        self._health = NodeHealth()
        self.best: float | None = max((r.mean_f1 for r in records if r.mean_f1 is not None), default=None)
        self.done = False  # nothing runs and nothing follows
        self.fault: Exception | None = None
        self.waiting: str | None = None  # for what no trial starts
        self.complaint: str | None = None  # of the trial that reported last, about its checkpoints
        self.ended: Callable[[], bool] = lambda: False  # asked while nothing runs and Ray only asks for trials

    @property
    def fates(self) -> Counter[str]:
        """Trials by fate, those of earlier searches of the run included."""
        return self._gate.fates

    @property
    def running(self) -> int:
        """Trials that are with Ray now."""
        return len(self._running)

    def suggest(self, trial_id: str) -> Any:
        """A trial's settings for its worker; None where one may follow later; FINISHED after all."""
        given = self._next(trial_id)
        self.done = given == Searcher.FINISHED and not self._running
        return given

    def _next(self, trial_id: str) -> Any:
        self.waiting = None
        if self.running >= self.room.slots:
            if self._running:
                return None
            self.waiting = "no trial starts: no node is left with room for one"
            return Searcher.FINISHED if self.ended() else None
        launched = sum(self.fates[fate] for fate in ("complete", "stopped", "diverged", "failed")) + self.running
        if self._trials is not None and launched + self._given_up >= self._trials:
            return None if self._running else Searcher.FINISHED
        free = shutil.disk_usage(self._run.path).free
        if free < self._care.floor:
            self.waiting = (
                f"no trial starts: {show_bytes(free)} free on the disk of {self._run.path}, "
                f"{show_bytes(self._care.floor)} are to stay free (--min-free)"
            )
            return Searcher.FINISHED if self.ended() else None
        try:
            admitted = self._gate.admit()
        except UsedUp:
            return None if self._running else Searcher.FINISHED
        except BudgetError as error:
            self.fault = error  # an exception here would reach the user as Ray's traceback
            return Searcher.FINISHED
        trial, origin = admitted.trial, admitted.origin
        trial.set_user_attr("threads", self._threads)
        gpus = self._gpus_for(admitted)
        known = self._known(origin) if origin != trial.number else {}
        self._running[trial_id] = _Running(trial, origin, gpus, time.monotonic())
        self._most_at_once = max(self._most_at_once, len(self._running))
        return {
            "config": flatten(admitted.config),
            "seed": admitted.seed,
            "origin": origin,
            "gpus": gpus,
            "best": max((value.get("mean_f1", -math.inf) for value in known.values()), default=-math.inf),
            "reported": len(known),
            "resting": self._health.resting(time.monotonic()),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps one epoch."""
        running = self._running.get(trial_id)
        if running is None or "epoch" not in result:
            return
        epoch = Epoch(**{name: _number(result.get(name)) for name in Epoch.__dataclass_fields__})
        if running.last is None:
            running.trial.set_user_attr("node", result["node"])
            if epoch.epoch > 1:  # else there is nothing to look for among all trials
                self._take_over(running, before=epoch.epoch)
        self._health.well(result.get("node_id"))
        self._losses = 0
        self.complaint = result.get("complaint")
        running.last = epoch
        self._reports += 1
        self._keep(running, epoch.epoch, *epoch_attribute(epoch, self._reports), epoch.mean_f1)

    def _gpus_for(self, admitted: Admitted) -> float:
        """More than the usual share for a trial that ran out of memory in it, and for those at least as large."""
        size, batch = admitted.size.weights_bytes, admitted.config.train.batch_size
        wider = [2 * gpus for least, rows, gpus in self._too_narrow if size >= least and batch >= rows]
        asked: float = admitted.trial.user_attrs.get("gpus", self._gpus)
        return min(1.0, max(self._gpus, asked, *wider)) if 0 < self._gpus < 1 else self._gpus

    def _widen(self, trial_id: str, running: _Running) -> None:
        """Out of memory in a share of a GPU: the trial is handed out again with twice of it."""
        attributes = running.trial.user_attrs
        batch = attributes["config"]["train.batch_size"]
        self._too_narrow.append((attributes["size"]["weights_bytes"], batch, running.gpus))
        wider = min(1.0, 2 * running.gpus)
        self._tell(trial_id, "lost", f"out of memory in {running.gpus:g} of a GPU; again in {wider:g}")
        enqueue_again(self._study, self._frozen(running), gpus=wider)

    def _frozen(self, running: _Running) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[running.trial.number]

    def _known(self, origin: int) -> dict[int, dict[str, Any]]:
        """Reports of all attempts of a trial, by epoch, as far as none is missing."""
        attempts = [
            t for t in self._study.get_trials(deepcopy=False) if t.user_attrs.get("replaces", t.number) == origin
        ]
        found = {name: value for trial in attempts for name, value in trial.user_attrs.items()}
        last = next(epoch for epoch in count(0) if f"epoch:{epoch + 1}" not in found)
        return {epoch: found[f"epoch:{epoch}"] for epoch in range(1, last + 1)}

    def _take_over(self, running: _Running, before: float = math.inf) -> None:
        """Gives a trial that goes on the epochs that earlier attempts trained for it."""
        for epoch, value in self._known(running.origin).items():
            if epoch < before:
                self._keep(running, epoch, f"epoch:{epoch}", value, value.get("mean_f1", math.nan))

    def _keep(self, running: _Running, epoch: int, name: str, value: dict[str, Any], score: float) -> None:
        running.trial.set_user_attr(name, value)
        if math.isfinite(score):
            if len(self._study.directions) == 1:  # Optuna takes no intermediate values of several objectives
                running.trial.report(score, epoch)
            running.best = max(running.best or 0.0, score)
            self.best = max(self.best or 0.0, score)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended."""
        running = self._running.get(trial_id)
        if running is None:
            return
        if error or result is None:
            self._end_without_result(trial_id, running)
        elif "turned_away" in result:
            self._running.pop(trial_id)
            self._gate.set_aside(running.trial, f"node {result['node']} rests")
            enqueue_again(self._study, self._frozen(running))
        elif "preempted" in result:
            self._tell(trial_id, "lost", f"node {result['node']} is taken away; it goes on elsewhere")
            enqueue_again(self._study, self._frozen(running))
        elif "lost" in result:
            self._health.failed(result["node_id"], time.monotonic())
            self._lose(trial_id, result["lost"])
            if len(self._health.resting(time.monotonic())) >= self.room.nodes:
                self.fault = SearchError(f"no node can run trials: {result['lost']}")
        elif "failure" in result and result["memory"] and 0 < running.gpus < 1:
            self._widen(trial_id, running)
        elif "failure" in result:
            self._fail(trial_id, result["failure"], result["traceback"], fatal=result["fatal"])
        else:
            self.on_trial_result(trial_id, result)
            last = running.last
            if last is None or not math.isfinite(last.mean_f1) or not math.isfinite(last.loss):
                told = {name: result.get(name) for name in ("mean_f1", "loss")}
                self._tell(trial_id, "diverged", f"{told} after epoch {result.get('epoch')}")
            elif trial_id in self._halving.stopped:
                self._tell(trial_id, "stopped", halving_reason(self._halving.stopped[trial_id]))
            else:
                self._tell(trial_id, "complete", None)

    def _end_without_result(self, trial_id: str, running: _Running) -> None:
        error = self._halving.errors.pop(trial_id, None)
        if isinstance(error, WorkerError):
            error = error.cause
        if running.timed_out:
            reason = f"not done after {self._care.timeout:.0f} s (--trial-timeout)"
            if running.last is None:
                self._take_over(running)
            if running.best is None:
                self._fail(trial_id, reason, reason)
            else:
                self._tell(trial_id, "stopped", reason)
        elif isinstance(error, OutOfMemoryError):
            self._fail(trial_id, "out of memory: Ray ended the worker to protect its node", str(error))
        elif isinstance(error, RayTaskError):  # raised in the worker, outside of what it catches itself
            self._fail(trial_id, " ".join(str(error.cause).split())[:500], str(error))
        else:
            self._lose(trial_id, " ".join(f"its worker died: {error or 'no reason given'}".split())[:300])

    def _fail(self, trial_id: str, reason: str, traceback: str, *, fatal: bool = False) -> None:
        with suppress(OSError):  # the reason is in the study; a full disk must not end the search
            self._run.tracebacks.mkdir(exist_ok=True)
            number = self._running[trial_id].trial.number
            (self._run.tracebacks / f"trial-{number}.txt").write_text(traceback)
        self._tell(trial_id, "failed", reason)
        if fatal or self._failures >= (MAX_FAILURES if self.best is None else MAX_FAILURES_LATER):
            self.fault = SearchError(f"the trials cannot work: {reason}")

    def kill_overdue(self) -> None:
        """Ends workers whose trial takes too long; Ray then reports them as errors."""
        if self._care.timeout is None:
            return
        import ray

        for trial_id, running in self._running.items():
            actor = self._halving.ray_trials[trial_id].temporary_state.ray_actor
            late = time.monotonic() - running.started > self._care.timeout
            if late and actor is not None and not running.timed_out:
                running.timed_out = True
                ray.kill(actor)

    def unplaced(self, seconds: float) -> int:
        """Trials that have waited so long for a worker."""
        now = time.monotonic()
        return sum(
            now - running.started > seconds and self._halving.ray_trials[trial_id].status == "PENDING"
            for trial_id, running in self._running.items()
        )

    def close(self, *, reason: str, resumable: bool) -> None:
        """Gives every trial that is still running its fate, after Ray has stopped it.

        Args:
            reason: why they ended.
            resumable: whether they are to be handed out again by a resume, or are done (the time limit).
        """
        for trial_id, running in list(self._running.items()):
            if running.last is None and not resumable:
                self._take_over(running)  # its earlier attempts' scores may win
            self._tell(trial_id, "lost" if resumable else "stopped", reason)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the state, Ray's copy would only be a second truth."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for the same reason."""
        return {}

    def _lose(self, trial_id: str, reason: str) -> None:
        """The machine's fault: recorded, and the same configuration handed out again, a few times at most."""
        running = self._running[trial_id]
        tries = running.trial.user_attrs.get("tries", 1)
        self._tell(trial_id, "lost", reason)
        self._losses += 1
        if self._losses >= max(MAX_LOSSES, 3 * self._most_at_once):
            self.fault = SearchError(f"{self._losses} trials in a row were lost before an epoch was trained: {reason}")
        if tries <= self._care.retries:
            enqueue_again(self._study, self._frozen(running), tries=tries + 1)
        else:
            self._given_up += 1

    def _tell(self, trial_id: str, fate: Fate, reason: str | None) -> None:
        running = self._running.pop(trial_id)
        self._failures = self._failures + 1 if fate == "failed" else self._failures if fate == "lost" else 0
        self._gate.tell(running.trial, fate, best=running.best, reason=reason)
        if fate != "lost":
            self._losses = 0
            self._cleaner.settle(running.origin, running.best if fate in SCORED else None)


def _number(value: Any) -> Any:
    """A reported metric as it is kept: NaN for what is no number."""
    return value if isinstance(value, int | float) else math.nan
