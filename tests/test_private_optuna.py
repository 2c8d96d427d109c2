"""What captune uses that Optuna does not promise: an upgrade that takes one away fails here, by its name."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import _storage as journal

from captune.results.journal import STUDY_NAME, open_storage
from captune.results.optuna_private import (
    enqueued_parameters,
    quiet_optuna,
    reopened,
)
from captune.results.run_folder import RunFolder

PRIVATE: list[tuple[Any, str]] = [
    (journal, "JournalOperation"),
    (journal, "JournalStorageReplayResult"),
    (journal.JournalOperation, "CREATE_TRIAL"),
    (journal.JournalOperation, "SET_TRIAL_STATE_VALUES"),
    (journal.JournalStorage, "_sync_with_backend"),
    (journal.JournalStorageReplayResult, "_apply_create_trial"),
    (journal.JournalStorageReplayResult, "_apply_set_trial_param"),
    (journal.JournalStorageReplayResult, "_trial_exists_and_updatable"),
    (journal.JournalStorageReplayResult("x"), "_trials"),
    (optuna.create_study(), "_storage"),
    (optuna.trial.FrozenTrial, "system_attrs"),
    (optuna.trial.create_trial(value=0.0), "_trial_id"),
]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run.json").write_text("{}")
    return RunFolder(tmp_path)


def study_of(run: RunFolder) -> optuna.Study:
    return optuna.create_study(study_name=STUDY_NAME, storage=open_storage(run), load_if_exists=True)


def fill(study: optuna.Study, count: int = 3) -> None:
    for number in range(count):
        trial = study.ask()
        trial.suggest_float("rate", 0.1, 1.0)
        trial.suggest_categorical("kind", ("a", "b"))
        study.tell(trial, number)


@pytest.mark.parametrize(("owner", "name"), PRIVATE, ids=[name for _, name in PRIVATE])
def test_private_attribute_is_there(owner: Any, name: str) -> None:
    assert hasattr(owner, name), f"optuna {optuna.__version__} has no {name}: see results/optuna_private.py"


def test_storage_has_the_private_attributes_of_its_instances(run: RunFolder) -> None:
    assert {"_replay_result", "_worker_id_prefix"} <= set(vars(study_of(run)._storage))


def test_the_callers_own_optuna_is_as_it_was(run: RunFolder) -> None:
    """In a process of its own: imports of other tests would hide what an import changes."""
    study_of(run)
    code = (
        "import optuna, pathlib, sys; from optuna.storages.journal import _storage as s\n"
        "def state(): return (s.json_to_distribution, s.JournalStorage._sync_with_backend,"
        " s.JournalStorageReplayResult._apply_set_trial_param, optuna.logging.get_verbosity())\n"
        "before = state()\n"
        "from captune.results.records import load_records; from captune.results.run_folder import RunFolder\n"
        "from captune.results.journal import open_storage\n"
        "run = RunFolder(pathlib.Path(sys.argv[1])); open_storage(run); load_records(run)\n"
        "assert state() == before, state()"
    )
    subprocess.run([sys.executable, "-c", code, run.path], check=True)


def test_journal_says_the_same_as_optunas_own_reader(run: RunFolder) -> None:
    study = study_of(run)
    fill(study)
    study.enqueue_trial({"rate": 0.5})
    study.add_trial(
        optuna.trial.create_trial(
            value=1.0,
            params={"rate": 0.2, "units": 4},
            distributions={
                "rate": optuna.distributions.FloatDistribution(0.1, 1.0),
                "units": optuna.distributions.IntDistribution(1, 9),
            },
        )
    )
    backend = optuna.storages.journal.JournalFileBackend(str(run.journal))
    plain = optuna.load_study(study_name=STUDY_NAME, storage=optuna.storages.JournalStorage(backend))
    assert study.trials == plain.trials
    assert study_of(run).trials == plain.trials


def test_distribution_that_trials_share_is_kept_once(run: RunFolder) -> None:
    fill(study_of(run))
    trials = study_of(run).get_trials(deepcopy=False)
    assert len({id(trial.distributions["kind"]) for trial in trials}) == 1


def test_parameter_of_another_kind_is_refused_as_optuna_does(run: RunFolder) -> None:
    study = study_of(run)
    fill(study, 1)
    with pytest.raises(ValueError, match="does not support dynamic value space"):
        study.ask().suggest_categorical("kind", ("a", "c"))


def test_reopened_trial_goes_on_where_it_was(run: RunFolder) -> None:
    study_of(run).ask().suggest_float("rate", 0.1, 1.0)
    study = study_of(run)
    (half,) = study.get_trials(deepcopy=False)
    trial = reopened(study, half)
    trial.set_user_attr("node", "machine-1")
    study.tell(trial, 0.5)
    assert (study.trials[0].value, study.trials[0].user_attrs) == (0.5, {"node": "machine-1"})


def test_parameters_of_an_enqueued_trial_are_known_and_of_others_there_are_none(run: RunFolder) -> None:
    study = study_of(run)
    study.enqueue_trial({"rate": 0.5})
    study.ask()
    study.ask()
    assert [enqueued_parameters(trial) for trial in study.get_trials()] == [{"rate": 0.5}, {}]


def test_quiet_optuna_leaves_what_the_caller_had_set(capfd: pytest.CaptureFixture[str]) -> None:
    filters = list(warnings.filters)
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        with pytest.raises(KeyboardInterrupt), quiet_optuna():
            optuna.create_study()
            raise KeyboardInterrupt
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
        assert list(warnings.filters) == filters
        assert capfd.readouterr().err == ""
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
