"""The searcher between Optuna and Ray Tune: asks, sizes, refuses or launches, and tells the study the truth.

It runs on the driver. A configuration over the budget is told to Optuna as infeasible and never reaches Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError
from ray.tune import Stopper
from ray.tune.search import Searcher

from model.config import TrialConfig, complaint, flatten
from model.metrics import Epoch
from model.size import refusal, show_bytes, size
from results.study import SCORED, Fate, RunFolder, epoch_attribute
from tuner.halving import HalvingScheduler
from tuner.space import Space

MAX_REFUSALS = 2000  # in a row; a space that feeds none through in so many draws feeds none at all
MAX_FAILURES = 5  # before the first score; then the search is at fault, not its configurations
MAX_RETRIES = 2  # of a trial that the machine lost
_TRIAL_SEED_STRIDE = 1_000_003


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


class SearchError(RuntimeError):
    """The search itself cannot go on."""


@dataclass
class _Running:
    trial: optuna.Trial
    best: float = -math.inf
    last: Epoch | None = None


class Gate(Searcher):
    """Trials for Ray Tune, from a study.

    Args:
        study: where trials are asked for and told; the only writer is this object.
        space: what is drawn from.
        bind: fits a drawn configuration to the data.
        budget: bytes of float32 weights.
        trials: feasible trials wanted, those that the study already holds included; None for no limit.
        seed: trials get seeds of their own from it and their number.
        halving: asked why a trial was stopped.
        run: takes tracebacks.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        bind: Callable[[TrialConfig], TrialConfig],
        budget: int,
        trials: int | None,
        seed: int,
        halving: HalvingScheduler,
        run: RunFolder,
    ) -> None:
        super().__init__(metric="mean_f1", mode="max")
        self._study = study
        self._space = space
        self._bind = bind
        self._budget = budget
        self._trials = trials
        self._seed = seed
        self._halving = halving
        self._run = run
        self._running: dict[str, _Running] = {}
        self.fates: Counter[str] = Counter(t.user_attrs["fate"] for t in study.trials if "fate" in t.user_attrs)
        finished = [t for t in study.trials if t.user_attrs.get("fate") in SCORED and t.value is not None]
        self.best: float | None = max((t.value for t in finished if t.value is not None), default=None)
        self.fault: SearchError | None = None

    @property
    def running(self) -> int:
        """Trials that are with Ray now."""
        return len(self._running)

    def suggest(self, trial_id: str) -> Any:
        """A trial's settings for its worker; None where only lost trials could still follow; FINISHED after all."""
        launched = sum(self.fates[fate] for fate in ("complete", "stopped", "diverged", "failed")) + self.running
        if self._trials is not None and launched >= self._trials:
            return None if self._running else Searcher.FINISHED
        try:
            return self._draw(trial_id)
        except SearchError as error:
            self.fault = error  # an exception here would reach the user as Ray's traceback
            return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps one epoch."""
        running = self._running.get(trial_id)
        if running is None or "epoch" not in result:
            return
        epoch = Epoch(**{name: result[name] for name in Epoch.__dataclass_fields__})
        running.last = epoch
        running.trial.set_user_attr(*epoch_attribute(epoch))
        running.trial.set_user_attr("node", result["node"])
        if math.isfinite(epoch.mean_f1):
            running.trial.report(epoch.mean_f1, epoch.epoch)
            running.best = max(running.best, epoch.mean_f1)
            self.best = max(self.best or 0.0, epoch.mean_f1)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended."""
        if trial_id not in self._running:
            return
        if error or result is None:
            self._lose(trial_id, "its worker died")
            return
        if "failure" in result:
            self._keep_traceback(trial_id, result["traceback"])
            self._tell(trial_id, "failed", result["failure"])
            if result["fatal"] or (self.best is None and self.fates["failed"] >= MAX_FAILURES):
                self.fault = SearchError(f"the trials cannot work: {result['failure']}")
            return
        self.on_trial_result(trial_id, result)
        last = self._running[trial_id].last
        if last is None or not math.isfinite(last.mean_f1) or not math.isfinite(last.loss):
            self._tell(trial_id, "diverged", f"loss {result.get('loss')} in epoch {result.get('epoch')}")
        elif trial_id in self._halving.stopped:
            self._tell(trial_id, "stopped", f"halving at epoch {self._halving.stopped[trial_id]}")
        else:
            self._tell(trial_id, "complete", None)

    def close(self, *, reason: str, resumable: bool) -> None:
        """Gives every trial that is still running its fate, after Ray has stopped it.

        Args:
            reason: why they ended.
            resumable: whether they are to be handed out again by a resume, or are done (the time limit).
        """
        for trial_id in list(self._running):
            self._tell(trial_id, "lost" if resumable else "stopped", reason)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the state, Ray's copy would only be a second truth."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for the same reason."""
        return {}

    def _draw(self, trial_id: str) -> dict[str, Any]:
        smallest: int | None = None
        for _ in range(MAX_REFUSALS):
            trial = self._study.ask()
            try:
                config = self._bind(self._space.suggest(trial))
            except ValidationError as error:
                # Each value is allowed, together they are not: no model, so the sampler is to stay away.
                trial.set_constraint("weights_bytes", 1.0)
                self._record(trial, "over_budget", f"impossible: {complaint(error)}")
                continue
            found = size(config.model)
            trial.set_user_attr("config", flatten(config))
            trial.set_user_attr("weights_bytes", found.weights_bytes)
            # Relative, so that the sampler ranks refusals by how far they are over.
            trial.set_constraint("weights_bytes", found.weights_bytes / self._budget - 1)
            why = refusal(found, self._budget)
            if why is not None:
                smallest = min(smallest or found.weights_bytes, found.weights_bytes)
                self._record(trial, "over_budget", why)
                continue
            seed = (self._seed * _TRIAL_SEED_STRIDE + trial.user_attrs.get("replaces", trial.number)) % 2**31
            trial.set_user_attr("seed", seed)
            self._running[trial_id] = _Running(trial)
            return {"config": flatten(config), "seed": seed, "number": trial.number}
        fit = "no model could be built at all" if smallest is None else f"the smallest needs {show_bytes(smallest)}"
        raise SearchError(
            f"none of {MAX_REFUSALS} configurations fits the budget of {show_bytes(self._budget)}; {fit}; "
            "widen the space to smaller models or raise --budget"
        )

    def _lose(self, trial_id: str, reason: str) -> None:
        """The machine's fault: recorded, and the same configuration handed out again, a few times at most."""
        trial = self._running[trial_id].trial
        tries = trial.user_attrs.get("tries", 1)
        self._tell(trial_id, "lost", reason)
        if tries <= MAX_RETRIES:
            _enqueue_again(self._study, self._study.trials[trial.number], tries=tries + 1)
        else:
            self.fates["failed"] += 1  # counted as one of the trials wanted: a search must end

    def _tell(self, trial_id: str, fate: Fate, reason: str | None) -> None:
        running = self._running.pop(trial_id)
        self._record(running.trial, fate, reason, running.best)

    def _record(self, trial: optuna.Trial, fate: Fate, reason: str | None, best: float = -math.inf) -> None:
        trial.set_user_attr("fate", fate)
        if reason is not None:
            trial.set_user_attr("reason", reason)
        self.fates[fate] += 1
        if fate == "complete":
            self._study.tell(trial, best)
        elif fate in ("failed", "lost") or (fate == "stopped" and best == -math.inf):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            # Pruned trials still teach the sampler: stopped ones by their last value, the others by having none.
            self._study.tell(trial, state=TrialState.PRUNED)

    def _keep_traceback(self, trial_id: str, text: str) -> None:
        self._run.tracebacks.mkdir(exist_ok=True)
        (self._run.tracebacks / f"trial-{self._running[trial_id].trial.number}.txt").write_text(text)


def hand_out_again(study: optuna.Study) -> None:
    """Ties the loose ends of a search that ended early: what was running is lost, what was lost comes first again."""
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        live = optuna.Trial(study, trial._trial_id)
        live.set_user_attr("fate", "lost")
        live.set_user_attr("reason", "the search ended without it")
        study.tell(trial.number, state=TrialState.FAIL)
    # The last that came of each trial: where that one was lost too, or waits already, no earlier one counts.
    latest = {trial.user_attrs.get("replaces", trial.number): trial for trial in study.trials}
    for trial in latest.values():
        if trial.user_attrs.get("fate") == "lost":
            _enqueue_again(study, trial, tries=1)


def _enqueue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial, *, tries: int) -> None:
    """Hands out the parameters of a lost trial once more, with the seed that it had."""
    study.enqueue_trial(
        trial.params,
        user_attrs={"replaces": trial.user_attrs.get("replaces", trial.number), "tries": tries},
    )
