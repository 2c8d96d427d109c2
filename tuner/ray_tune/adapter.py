"""Between Ray Tune and the director: passes on what each asks and says, and does what follows from a trial's end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from captune.errors import one_line
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.director import Director, Ended
from captune.tuner.decisions.progress import RunningTrial
from captune.tuner.decisions.trial_events import (
    Assignment,
    CodeMissing,
    Completed,
    Done,
    End,
    Failed,
    Message,
    Report,
    WorkerDied,
)
from captune.tuner.ray_tune.parts_of_epochs import PartsOfEpochs
from captune.tuner.ray_tune.private import WorkerError, actor_of, end_idle_workers, error_of, forget_ended, is_placed
from captune.tuner.training.checkpoints import CheckpointCleaner

ASSIGNMENT, MESSAGE = "assignment", "message"
"""Keys of the one value in what Ray Tune carries to a worker, and from it."""


class Over(BaseException):
    """Leaves Ray Tune at once, past all that it catches: it would wait ten seconds for epochs that nobody wants."""


class _NotSaved:
    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles what it is given to restore it one day, and we never restore from Ray."""
        return {}


class Adapter(_NotSaved, FIFOScheduler):
    """Ray Tune's scheduler, told of all that happens to trials; `searcher` and `stopper` are its other two faces.

    Args:
        director: decides.
        run: takes tracebacks.
        cleaner: told of every trial that is finished.
        over: whether the run is to end, whatever runs; asked about once a second.
        parts: how far the epochs are that train.
    """

    def __init__(
        self,
        director: Director,
        run: RunFolder,
        cleaner: CheckpointCleaner,
        over: Callable[[], bool],
        parts: PartsOfEpochs,
    ) -> None:
        super().__init__()
        self._director = director
        self._run = run
        self._cleaner = cleaner
        self._over = over
        self._trials: dict[str, Any] = {}  # Ray's own objects of unfinished trials, by Ray's id
        self._controller: Any = None  # Ray's own, as soon as there is a trial
        self._parts = parts
        self.done = False  # nothing runs and nothing follows
        self.searcher = _Searcher(self)
        self.stopper = _Stopper(over)

    def hand_out(self, trial_id: str) -> Assignment | None:
        """A trial to run; None for none now. Sets `done` where none follows."""
        free = shutil.disk_usage(self._run.path).free
        step = self._director.next(trial_id, now=time.monotonic(), free_bytes=free)
        if isinstance(step, Assignment):
            return step
        if self._controller is not None:
            end_idle_workers(self._controller, all_are=not self._director.running)
        # While nothing runs Ray asks for trials alone, and not whether the run is over.
        self.done = isinstance(step, Done) or (not self._director.running and self._over())
        return None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Has Ray forget the trials that ended, and remembers the others, the way to their workers."""
        self._controller = tune_controller
        forget_ended(tune_controller)
        self._trials = {other.trial_id: other for other in tune_controller.get_trials()}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Of the trials that wait the first whose worker does not start yet: a worker that is free goes to this one.

        The first of all, as Ray has it, would leave the worker that starts for it, which Ray then ends: where trials
        are shorter than a start, no worker would ever come to be. It is given a free one where no other trial is left.
        """
        waiting = [trial for trial in tune_controller.get_trials() if trial.status == "PENDING"]
        return min(waiting, key=lambda trial: is_placed(tune_controller, trial), default=None)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """An epoch that is not the last."""
        goes_on = self._report(trial.trial_id, result[MESSAGE])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last message of a trial, or the report after which it was stopped."""
        message: Message = result[MESSAGE]
        if isinstance(message, Report):
            self._report(trial.trial_id, message)
            self._end(trial.trial_id, Completed())
        else:
            self._end(trial.trial_id, message)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Its worker ended."""
        self._end(trial.trial_id, end_of_worker(error_of(trial)))

    def _report(self, trial_id: str, report: Report) -> bool:
        """Passes on a report. A worker's start took longer than it can tell: since its slot was given to the trial."""
        epoch, attempt = report.epoch, self._director.running.get(trial_id)
        if attempt is not None and epoch.start_seconds > 0:
            work = sum(epoch.seconds().values()) - epoch.start_seconds
            start = max(epoch.start_seconds, time.monotonic() - attempt.started - work)
            report = replace(report, epoch=replace(epoch, start_seconds=start))
        return self._director.report(trial_id, report)

    def _end(self, trial_id: str, end: End) -> None:
        self._parts.forget(trial_id)
        ended = self._director.end(trial_id, end, now=time.monotonic())
        if ended is not None:
            self._follow(ended)

    def _follow(self, ended: Ended) -> None:
        verdict = ended.verdict
        if verdict.traceback is not None:
            with suppress(OSError):  # the reason is in the study; a full disk must not end the search
                self._run.tracebacks.mkdir(exist_ok=True)
                (self._run.tracebacks / f"trial-{ended.number}.txt").write_text(verdict.traceback)
        if verdict.fate not in ("lost", None):
            self._cleaner.settle(ended.origin, ended.score)

    def end_overdue(self) -> None:
        """Ends workers whose trial takes too long; Ray then tells of them as of any that died."""
        for trial_id in self._director.overdue(time.monotonic()):
            self._end_worker(trial_id)

    def drop(self, number: int) -> bool:
        """Ends a trial for a person; whether it ran. One whose worker does not run yet ends with its first report."""
        if (trial_id := self._director.drop(number)) is None:
            return False
        self._end_worker(trial_id)
        return True

    def _end_worker(self, trial_id: str) -> None:
        if (actor := actor_of(self._trials[trial_id])) is not None:
            ray.kill(actor)

    def unplaced(self, seconds: float) -> int:
        """Trials that have waited so long for a node with room for their worker."""
        now = time.monotonic()
        return sum(
            now - attempt.started > seconds and not is_placed(self._controller, self._trials[trial_id])
            for trial_id, attempt in self._director.running.items()
        )

    def running(self) -> tuple[RunningTrial, ...]:
        """How each trial in a slot stands, in the order in which they took them."""
        running = self._director.running
        parts = self._parts.of(running)
        trials = ((self._trials[trial_id], attempt, parts.get(trial_id)) for trial_id, attempt in running.items())
        return tuple(
            attempt.running(placed=is_placed(self._controller, trial), ready=actor_of(trial) is not None, part=part)
            for trial, attempt, part in trials
        )

    def close(self, reason: str, *, resumable: bool) -> None:
        """See `Director.close`. Workers are ended first, as they write checkpoints."""
        for trial_id, trial in self._trials.items():
            if (actor := actor_of(trial)) is not None:
                ray.kill(actor)
            self._parts.forget(trial_id)
        for ended in self._director.close(reason, resumable=resumable):
            self._follow(ended)


class _Searcher(_NotSaved, Searcher):
    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def suggest(self, trial_id: str) -> Any:
        """The configuration of a trial as Ray Tune carries it."""
        assignment = self._adapter.hand_out(trial_id)
        if assignment is not None:
            return {ASSIGNMENT: assignment}
        return Searcher.FINISHED if self._adapter.done else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler is told the same."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the state, Ray's copy would only be a second truth."""


class _Stopper(_NotSaved, Stopper):
    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Raises Over as soon as the run is."""
        if self._over():
            raise Over
        return False


def end_of_worker(error: Exception | None) -> End:
    """What the error means that Ray tells of a worker.

    An error of a task is one that was raised in the worker, outside of what it catches itself.
    """
    if isinstance(error, WorkerError):
        error = error.cause
    text = str(error)
    if isinstance(error, OutOfMemoryError):
        return Failed("out of memory: Ray ended the worker to protect its node", text)
    if "failed to import on the worker" in text or isinstance(getattr(error, "cause", None), ImportError):
        return CodeMissing(one_line(text.strip().rpartition("\n")[2]))
    if isinstance(error, RayTaskError):
        return Failed(one_line(error.cause, 500), text)
    return WorkerDied(f"its worker died: {one_line(error or 'no reason given', 280)}")
