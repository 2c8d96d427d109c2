"""Proposes configurations: TPE over the best trials and those that finished last, by Optuna's public parts alone."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

# Among which TPE chooses what it proposes. With Optuna's 24 it proposes half as much again that is refused.
_CANDIDATES = 100
# Finished trials in TPE's window after it was cut; at twice as many it is cut again. Of 250 or more TPE takes the same
# 25 for good, and gives the oldest of the others the least weight.
WINDOW = 250
_TAUGHT = (TrialState.COMPLETE, TrialState.PRUNED)


def tpe(seed: int) -> TPESampler:
    """Optuna's TPE for conditional spaces of which much is refused; without even draws at the start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
        return TPESampler(
            seed=seed,
            n_startup_trials=0,
            n_ei_candidates=_CANDIDATES,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


class WindowedTPE(BaseSampler):
    """TPE whose time for a proposal does not grow with the study.

    Optuna's TPESampler goes through all trials for each proposal: 2,000 of them cost 60 to 130 ms, 4,000 twice that,
    a window 15 to 30. So it is asked in a study of its own, in memory, which holds the best trials, the 250 to 500 that
    finished last, and what runs.

    Args:
        seed: of TPE; two samplers of one seed that see the same trials propose the same.
    """

    def __init__(self, seed: int) -> None:
        self._tpe = tpe(seed)
        self._window: optuna.Study | None = None
        self._finished = 0  # in the window
        self._seen = 0  # trials of the study that were looked at
        self._open: list[int] = []  # numbers of those without an end
        self._running: dict[int, int] = {}  # numbers in the window of trials that it shows as running
        self._number = -1  # of the trial that is drawn, and its proposal
        self._proposal: Trial | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: dimensions depend on each other, and each is asked for when its turn comes."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, as of no dimensions."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of TPE's proposal for this trial."""
        if trial.number != self._number or self._proposal is None:
            self._number, self._proposal = trial.number, self._follow(study, trial.number).ask()
        return _suggest(self._proposal, param_name, param_distribution)

    def _follow(self, study: optuna.Study, drawn: int) -> optuna.Study:
        """The window, with all that the study holds but the trial that is drawn."""
        window = self._window
        if window is not None and self._proposal is not None:
            window.tell(self._proposal, state=TrialState.FAIL)  # the trial itself takes its place
        if window is None or self._finished > 2 * WINDOW:
            window = self._window = self._cut(study, window)
        trials = study.get_trials(deepcopy=False)
        numbers = [*self._open, *range(self._seen, len(trials))]
        self._seen = len(trials)
        self._open = [number for number in numbers if not trials[number].state.is_finished()]
        for trial in (trials[number] for number in numbers if number != drawn):
            if trial.state.is_finished() and trial.number in self._running:
                window.tell(self._running.pop(trial.number), state=TrialState.FAIL)
            if trial.state in _TAUGHT:
                window.add_trial(_bare(trial))
                self._finished += 1
            elif trial.state == TrialState.RUNNING and trial.number not in self._running:
                self._running[trial.number] = len(window.get_trials(deepcopy=False))
                window.add_trial(_bare(trial))
        return window

    def _cut(self, study: optuna.Study, window: optuna.Study | None) -> optuna.Study:
        """A new window with the best trials and the last of another."""
        cut = optuna.create_study(directions=study.directions, sampler=self._tpe)
        if window is not None:
            finished = window.get_trials(deepcopy=False, states=_TAUGHT)
            last = finished[-WINDOW:]
            cut.add_trials([*(trial for trial in window.best_trials if trial.number < last[0].number), *last])
        self._finished = len(cut.get_trials(deepcopy=False))
        self._running = {}
        return cut


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """What TPE looks at: of each trial that it is given Optuna makes a deep copy."""
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        constraints=trial.constraints,
    )


def _suggest(proposal: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return proposal.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return proposal.suggest_int(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return proposal.suggest_categorical(name, choices)
    raise TypeError(f"no such distribution: {distribution}")
