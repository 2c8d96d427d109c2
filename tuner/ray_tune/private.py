"""All that is private of Ray Tune, and what it prints and keeps beside what it is asked for.

tests/test_private_ray_tune.py names every attribute that is met here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.progress_reporter import ProgressReporter, TrialProgressCallback

from captune.environment import environment

# Read by Ray Tune when a run begins.
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # not minutes for a stopped trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # results are messages of ours, not metrics
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # of Ray's own state, which nothing reads
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # each is in the table, with its reason
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # the director says how many, as the cluster grows and shrinks
    "RAY_AIR_NEW_OUTPUT": "0",
}

_END_SECONDS = 1.0  # waited for an idle worker to end, before another look at the search


class WorkerError(RayActorError):
    """A worker's end that Ray tells by an error of another kind, `cause`: out of memory, its node gone."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(error_msg=str(cause))
        self.cause = cause


class NoReporter(ProgressReporter):
    """In place of the one that Ray Tune has in a notebook, which clears what the cell has shown."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
        """Nothing."""


class Silence(TrialProgressCallback):
    """In place of the callback of Ray Tune that prints trials, and keeps all of them for it."""

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Nothing."""

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        """Nothing."""


@contextmanager
def mended_tune() -> Iterator[None]:
    """Ray Tune with its settings, and two of its answers, changed while inside.

    It ends the whole run by an error of Ray's that is neither an actor's nor a task's, such as that of a worker which
    the memory monitor has killed: here that ends its trial. And it keeps every worker for the next trial: here not one
    that says in its last result that it is `worn`.
    """
    task_failed, cache_actor = RayActorManager._actor_task_failed, TuneController._maybe_cache_trial_actor
    log = logging.getLogger("ray.tune")
    level = log.level

    def end_trial(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        ends_run = isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError)
        task_failed(self, tracked_actor_task, WorkerError(exception) if ends_run else exception)

    def cache_unless_worn(self: TuneController, trial: Any) -> bool:
        return not trial.last_result.get("worn") and bool(cache_actor(self, trial))

    RayActorManager._actor_task_failed, TuneController._maybe_cache_trial_actor = end_trial, cache_unless_worn
    log.setLevel(logging.CRITICAL)  # it would list trials that did not end well: each is in the table, with its reason
    try:
        with environment(_ENVIRONMENT):
            yield
    finally:
        RayActorManager._actor_task_failed, TuneController._maybe_cache_trial_actor = task_failed, cache_actor
        log.setLevel(level)


def forget_ended(controller: TuneController) -> None:
    """Takes ended trials out of Ray's own lists, which it goes through at each step and writes down at the end.

    The study has what counts; the lists would keep every trial, with its configuration and results, for good.
    """
    ended = controller._stopped_trials | controller._failed_trials
    controller._trials[:] = [trial for trial in controller._trials if trial not in ended]
    for trials in (controller._stopped_trials, controller._failed_trials, controller._trials_to_cache):
        trials.difference_update(ended)


def end_idle_workers(controller: TuneController, *, all_are: bool) -> None:
    """Ends the worker without a trial that Ray Tune keeps for one that may come: what it holds is free for others.

    Args:
        all_are: while Ray Tune asks for a trial because it has none, it does not look after the ends of workers.
    """
    if controller._pending_trials:  # for which it is kept
        return
    controller._cleanup_cached_actors(force_all=True)
    workers = controller._actor_manager
    while all_are and workers.num_total_actors and workers.next(timeout=_END_SECONDS):
        pass


def error_of(trial: Any) -> Exception | None:
    """The error that ended a trial's worker, as soon as Ray tells of it; None where it left none.

    Ray's own getter looks where the file comes only when the trial has ended.
    """
    with suppress(OSError, TypeError):
        error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return error
    return None


def actor_of(trial: Any) -> Any:
    """The worker that a trial runs in; None before it has one."""
    return trial.temporary_state.ray_actor


def is_placed(controller: TuneController, trial: Any) -> bool:
    """Whether a node has taken in the worker of a trial, which starts there until `actor_of` has it."""
    worker = controller._trial_to_actor.get(trial)
    return worker is not None and bool(controller._actor_manager.is_actor_started(worker))
