"""Halving as Ray Tune asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from captune.tuner.decisions.halving import Rungs, is_finite


class HalvingScheduler(FIFOScheduler):
    """The decision as Ray Tune asks for it.

    `stopped` tells the searcher at which epoch a trial was cut, `errors` why its worker failed; `ray_trials` are Ray's
    own objects of unfinished trials, by Ray's id.
    """

    def __init__(self, rungs: Rungs) -> None:
        super().__init__()
        self._rungs = rungs
        self.stopped: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self.ray_trials: dict[str, Any] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Has Ray forget the trials that ended, and remembers the others, the way to their workers."""
        _forget(tune_controller)
        self.ray_trials = {known.trial_id: known for known in tune_controller.get_trials()}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stops a trial that a rung cuts."""
        if self._judge(trial, result):
            return str(TrialScheduler.CONTINUE)
        self.stopped[trial.trial_id] = result.get("epoch", 0)
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last epoch of a trial is seen by its rung too: others are compared with it."""
        self._judge(trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Keeps the exception for the searcher, which Ray does not tell."""
        # Ray's own getter looks where the file comes only when the trial has ended.
        with suppress(OSError, TypeError):
            self.errors[trial.trial_id] = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())

    def _judge(self, trial: Any, result: dict[str, Any]) -> bool:
        if "epoch" not in result:
            return True  # a failure: not for halving to judge
        goes_on = self._rungs.goes_on(trial.config["origin"], result["epoch"], result.get("mean_f1"))
        return goes_on and is_finite(result.get("loss"))


def _forget(controller: TuneController) -> None:
    """Takes ended trials out of Ray's own lists, which it goes through at each step and writes down at the end.

    The study has what counts; the lists would keep every trial, and all that it was told and has told, for good.
    """
    ended = controller._stopped_trials | controller._failed_trials
    controller._trials[:] = [trial for trial in controller._trials if trial not in ended]
    for kept in (controller._stopped_trials, controller._failed_trials, controller._trials_to_cache):
        kept.difference_update(ended)


class Silence(TrialProgressCallback):
    """In place of the callback of Ray Tune that prints trials, and keeps all of them for it."""

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Nothing."""

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        """Nothing."""


class WorkerError(RayActorError):
    """A worker's end that Ray tells by an error of another kind, `cause`: out of memory, its node gone."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(error_msg=str(cause))
        self.cause = cause


@contextmanager
def mended_tune() -> Iterator[None]:
    """Ray Tune with two of its answers changed while inside.

    It ends the whole run by an error of Ray's that is neither an actor's nor a task's, such as that of a worker which
    the memory monitor has killed: here that ends its trial. And it keeps every worker for the next trial: here not one
    that says in its last result that it is `worn`.
    """
    answer, keep = RayActorManager._actor_task_failed, TuneController._maybe_cache_trial_actor

    def answered(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        known = isinstance(exception, RayActorError | RayTaskError) or not isinstance(exception, RayError)
        answer(self, tracked_actor_task, exception if known else WorkerError(exception))

    def kept(self: TuneController, trial: Any) -> bool:
        return not trial.last_result.get("worn") and bool(keep(self, trial))

    RayActorManager._actor_task_failed, TuneController._maybe_cache_trial_actor = answered, kept
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, TuneController._maybe_cache_trial_actor = answer, keep
