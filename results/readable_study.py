"""A run's study as tools for Optuna's studies read it: by names, with scalar attributes, and nothing can be written.

The journal stays as it is: each trial is translated when it is read, so old runs and running searches are read alike.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from captune.results.journal import study_reader
from captune.results.optuna_private import quiet_optuna
from captune.results.records import Record, left_behind, record_of
from captune.results.run_facts import RunFacts
from captune.results.run_folder import RunError, RunFolder

_LEFT_OUT = ("number", "config", "weights_bytes", "bundle_bytes", "margin_bytes")


def readable_study(run: RunFolder, facts: RunFacts, *, snapshot: bool = False) -> optuna.Study:
    """The study of a run for Optuna's plots and its dashboard, named after the run.

    Args:
        snapshot: whether it stays as it is now, for a folder that goes away; else it follows a running search.
    """
    storage = ReadableStorage(run, facts, snapshot=snapshot)
    return optuna.load_study(study_name=facts.name, storage=storage)


class ReadableStorage(BaseStorage):
    """Holds one study, of which names and attributes are fixed, and whose trials are read anew each time.

    A trial has its number for its id. Its user attributes are fate, MiB, node and the other scalars of its record; its
    constraints are a list of numbers, which are met at 0 and below, as Optuna's dashboard reads them. Draws that are no
    trials are left out. Whatever would write raises RunError.
    """

    def __init__(self, run: RunFolder, facts: RunFacts, *, snapshot: bool) -> None:
        self._run, self._read = run, study_reader(run)
        self._ended: dict[int, FrozenTrial] = {}
        self._study = InMemoryStorage()
        directions = [
            StudyDirection.MINIMIZE if name == "bytes" else StudyDirection.MAXIMIZE for name in facts.objectives
        ]
        with quiet_optuna():
            study = optuna.create_study(study_name=facts.name, storage=self._study, directions=directions)
            study.set_metric_names(list(facts.objectives))
        for name, value in facts.attributes().items():
            study.set_user_attr(name, value)
        self._snapshot = self._now() if snapshot else None

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._study.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._study.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._study.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        return self._study.get_all_studies()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        for trial in self.get_all_trials(0, deepcopy=False):
            if trial.number == trial_id:
                return trial
        raise KeyError(f"the study has no trial {trial_id}")

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        self._study.get_study_name_from_id(study_id)  # raises KeyError for another study
        trials = self._now() if self._snapshot is None else self._snapshot
        return [trial for trial in trials if states is None or trial.state in states]

    def _now(self) -> list[FrozenTrial]:
        is_written = self._run.is_written  # before reading: what ends in between has its fate
        trials = [self._readable(trial, is_written) for trial in self._read()]
        return [trial for trial in trials if trial is not None]

    def _readable(self, trial: FrozenTrial, is_written: bool) -> FrozenTrial | None:
        if trial.number in self._ended:
            return self._ended[trial.number]
        record = record_of(trial)
        if record is None:
            return None
        readable = _translated(trial, record if is_written else left_behind(record))
        if trial.state.is_finished():
            self._ended[trial.number] = readable
        return readable

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        raise RunError("the study of a run is read here and not written; `captune resume` goes on with it")

    create_new_study = _refuse
    delete_study = _refuse
    set_study_user_attr = _refuse
    set_study_system_attr = _refuse
    create_new_trial = _refuse
    set_trial_param = _refuse
    set_trial_state_values = _refuse
    set_trial_intermediate_value = _refuse
    set_trial_user_attr = _refuse
    set_trial_system_attr = _refuse


def _translated(trial: FrozenTrial, record: Record) -> FrozenTrial:
    row = {name: value for name, value in record.row().items() if name not in _LEFT_OUT and value is not None}
    size = {"MiB": round(record.weights_bytes / 2**20, 3)} if record.weights_bytes else {}
    distributions: dict[str, BaseDistribution] = trial.distributions
    state = TrialState.FAIL if record.fate == "lost" else trial.state  # also of what a killed search left running
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete or (trial.datetime_start if state.is_finished() else None),
        params=trial.params,
        distributions=distributions,
        user_attrs={"fate": record.fate, **size, **row},
        system_attrs={"constraints": list(trial.constraints.values())} if trial.constraints else {},
        intermediate_values={e.epoch: e.score for e in record.curve if math.isfinite(e.score)},
    )
