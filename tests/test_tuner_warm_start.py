"""What an earlier run found out, told to the sampler of a new one."""

from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from captune.data_prep.store import PreparedData
from captune.model.config import unflatten
from captune.model.latency import Latency, Speed
from captune.model.operations import Operations
from captune.model.size import Budget, Contents
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import load_records
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.decisions.gate import STARTUP, Gate
from captune.tuner.decisions.warm_start import check, take_over
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import bind

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
CONFIG = SearchConfig.model_validate(
    {
        "preset": "captions",
        "modality": "caption",
        "trials": 9,
        "space": {
            "text.embedding": {"low": 8, "high": 256},
            "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
    }
)


def run_of(folder: Path) -> RunFolder:
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return RunFolder(folder)


def study_of(run: RunFolder) -> optuna.Study:
    storage = open_storage(run, wait=pytest.fail)
    return optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize", load_if_exists=True)


def gate_of(study: optuna.Study, data: PreparedData, budget: int, seed: int = 0) -> Gate:
    reach = FeasibleSpace(
        CONFIG.build_space(), partial(bind, manifest=data.manifest), Budget(budget), Contents.typical(6)
    )
    return Gate(study, reach, seed=seed)


@pytest.fixture
def old(tmp_path: Path, captions_data: PreparedData) -> RunFolder:
    """Eight trials: wide embeddings score best. One stopped, one diverged, one failed, one lost."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run = run_of(tmp_path / "old")
    gate = gate_of(study_of(run), captions_data, 600_000)
    for number in range(12):
        admitted = gate.admit()
        text = admitted.config.model.text
        assert text is not None
        score = text.embedding / 300
        if number in (1, 2, 3, 4):
            fate: Any = ("stopped", "diverged", "failed", "lost")[number - 1]
            if fate == "stopped":
                admitted.trial.report(score, 1)
            gate.tell(admitted.trial, fate, best=score if fate == "stopped" else None)
        else:
            gate.tell(admitted.trial, "complete", best=score)
    return run


def test_finished_and_refused_trials_are_known_and_no_records(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    new = run_of(tmp_path / "new")
    study = study_of(new)
    assert take_over(study, old, Budget(600_000)) == 9
    taken = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    before = {r.number: r for r in load_records(old) if r.fate in ("complete", "stopped", "diverged", "over_budget")}
    assert len(taken) == len(before)
    assert [r.fate for r in load_records(new)] == ["waiting"]  # the best of the old run, to be trained anew
    best = max(
        (r for r in before.values() if r.mean_f1 or r.fate == "complete"), key=lambda r: r.config["text.embedding"]
    )
    admitted = gate_of(study, captions_data, 600_000, seed=5).admit()
    assert admitted.config.model.text is not None
    assert admitted.config.model.text.embedding == best.config["text.embedding"]


def test_sampler_that_was_told_draws_no_even_start(tmp_path: Path, old: RunFolder, captions_data: PreparedData) -> None:
    """Of six draws without knowledge all being in the best third has a chance of one in 700 a seed."""
    new = run_of(tmp_path / "new")
    study = study_of(new)
    take_over(study, old, Budget(10**9))
    gate = gate_of(study, captions_data, 10**9, seed=1)
    drawn = []
    for _ in range(STARTUP + 1):
        admitted = gate.admit()
        assert admitted.config.model.text is not None
        drawn.append(admitted.config.model.text.embedding)
        gate.tell(admitted.trial, "complete", best=drawn[-1] / 300)
    known = [r.config["text.embedding"] for r in load_records(old) if r.fate == "complete"]
    assert sum(drawn) / len(drawn) > sum(known) / len(known)


def test_what_was_within_the_old_budget_is_known_to_be_over_a_smaller_one(tmp_path: Path, old: RunFolder) -> None:
    new = run_of(tmp_path / "new")
    study = study_of(new)
    take_over(study, old, Budget(100_000))
    sizes = {record.weights_bytes for record in load_records(old)}
    taken = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert {trial.constraints["bytes"] for trial in taken} <= {size / 100_000 - 1 for size in sizes}


def test_latencies_are_those_of_the_new_limit(tmp_path: Path, old: RunFolder) -> None:
    prices = dict.fromkeys(Operations._fields, 1.0)
    latency = Latency(0.001, Speed(runtime="onnx", machine="m", nanoseconds=prices, error=1.2))
    study = study_of(run_of(tmp_path / "new"))
    take_over(study, old, Budget(600_000), latency)
    taken = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    shares = {latency.share(unflatten(record.config).model) - 1 for record in load_records(old)}
    assert taken and {trial.constraints["latency"] for trial in taken} <= shares


@pytest.mark.parametrize(
    ("changes", "same_data", "word"),
    [
        ({}, False, "data"),
        ({"modality": "both", "preset": "compact"}, True, "preset, modality"),
        ({"fixed": {"text.dense": 16}}, True, "fixed"),
        ({"space": {"text.embedding": {"low": 8, "high": 128}}}, True, "space"),
        ({"objectives": ("mean_f1", "bytes")}, True, "objectives"),
    ],
)
def test_run_of_another_space_or_data_is_refused(
    old: RunFolder, changes: dict[str, Any], same_data: bool, word: str
) -> None:
    with pytest.raises(RunError, match=f"its {word} differ"):
        check(old, CONFIG, SearchConfig.model_validate({**CONFIG.model_dump(), **changes}), same_data=same_data)


def test_other_seed_budget_and_number_of_trials_are_no_hindrance(old: RunFolder) -> None:
    other = {"seed": 7, "budget": 10**6, "trials": 50, "keep": 1}
    check(old, CONFIG, SearchConfig.model_validate({**CONFIG.model_dump(), **other}), same_data=True)


def test_what_was_taken_over_before_is_not_taken_again_and_what_is_new_is(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    study = study_of(run_of(tmp_path / "new"))
    take_over(study, old, Budget(600_000))
    before = len(study.trials)
    assert take_over(study, old, Budget(600_000)) == 9
    assert len(study.trials) == before
    gate = gate_of(study_of(old), captions_data, 600_000, seed=3)
    admitted = gate.admit()
    gate.tell(admitted.trial, "complete", best=0.5)
    assert take_over(study, old, Budget(600_000)) == 10
    assert len([trial for trial in study.trials if trial.state == TrialState.WAITING]) == 1


def test_run_that_is_gone_is_told_and_one_without_trials_says_nothing(tmp_path: Path, old: RunFolder) -> None:
    study = study_of(run_of(tmp_path / "new"))
    old.journal.unlink()
    assert take_over(study, old, Budget()) == 0
    old.settings.unlink()
    with pytest.raises(RunError, match="holds no run"):
        take_over(study, old, Budget())
