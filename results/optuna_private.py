"""All that is private of Optuna, each under a name of ours; tests/test_private_optuna.py names every attribute."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility, json_to_distribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.trial import FrozenTrial

Operation = JournalOperation
"""What the number "op_code" of a line of a journal stands for."""


class Journal(JournalStorage):
    """Optuna's journal storage for long studies: a distribution that trials have in common is read and kept once."""

    def _sync_with_backend(self) -> None:
        if not isinstance(self._replay_result, _Replay):  # before the first line
            self._replay_result = _Replay(self._worker_id_prefix)
        super()._sync_with_backend()


class _Replay(JournalStorageReplayResult):
    def __init__(self, worker_id_prefix: str) -> None:
        super().__init__(worker_id_prefix)
        self._first: dict[str, BaseDistribution] = {}  # of each parameter

    def _apply_create_trial(self, log: dict[str, Any]) -> None:
        super()._apply_create_trial(log)
        if log.get("distributions"):  # a trial that came whole
            self._trials[len(self._trials) - 1].distributions = {
                name: self._distribution(name, text) for name, text in log["distributions"].items()
            }

    def _apply_set_trial_param(self, log: dict[str, Any]) -> None:
        if not self._trial_exists_and_updatable(log["trial_id"], log):
            return
        name = log["param_name"]
        distribution = self._distribution(name, log["distribution"])
        trial = copy.copy(self._trials[log["trial_id"]])
        trial.params = trial.params | {name: distribution.to_external_repr(log["param_value_internal"])}
        trial.distributions = trial.distributions | {name: distribution}
        self._trials[trial._trial_id] = trial

    def _distribution(self, name: str, text: str) -> BaseDistribution:
        distribution = _distribution(text)
        first = self._first.setdefault(name, distribution)
        if distribution is not first:
            check_distribution_compatibility(first, distribution)
        return distribution


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def reopened(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """A trial of the study to go on with: to be reported to and told."""
    return optuna.Trial(study, trial._trial_id)


def storage_of(study: optuna.Study) -> BaseStorage:
    """Where a study is kept."""
    return study._storage


def enqueued_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Those that a trial was enqueued with; none for one that was drawn."""
    return dict(trial.system_attrs.get("fixed_params", {}))


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Nothing of Optuna's own on the screen for the while; what the caller had set holds again at the end."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "Constraints have been set, but CmaEsSampler")
            yield
    finally:
        optuna.logging.set_verbosity(before)
