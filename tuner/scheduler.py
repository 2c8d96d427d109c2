"""Halving as Ray Tune asks for it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tuner.halving import Rungs, is_finite


class HalvingScheduler(FIFOScheduler):
    """The decision as Ray Tune asks for it.

    `stopped` tells the searcher at which epoch a trial was cut, `errors` why its worker failed; `ray_trials` are Ray's
    own objects, by Ray's id.
    """

    def __init__(self, rungs: Rungs) -> None:
        super().__init__()
        self._rungs = rungs
        self.stopped: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self.ray_trials: dict[str, Any] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Remembers Ray's object, the way to the worker."""
        self.ray_trials[trial.trial_id] = trial

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
