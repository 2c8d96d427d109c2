"""What proposes configurations: TPE against even draws, every sampler through the gate, one that is missing."""

import warnings
from importlib.util import find_spec
from typing import get_args

import optuna
import pytest
from optuna.trial import Trial

from captune.data_prep.store import PreparedData
from captune.model.size import Budget, Contents
from captune.tuner.decisions.gate import STARTUP, Gate
from captune.tuner.decisions.sampler import SAMPLERS, tpe
from captune.tuner.run.settings import check
from captune.tuner.space.config import SamplerName, read_search
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.yaml_file import ConfigError


def draw(study: optuna.Study) -> Trial:
    trial = study.ask()
    if trial.suggest_categorical("kind", ["plain", "deep"]) == "deep":
        trial.suggest_int("layers", 2, 8, step=2)
    trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    trial.suggest_float("share", 0, 1, step=0.25)
    trial.suggest_int("only", 3, 3)
    return trial


@pytest.mark.slow
def test_sampler_finds_the_best_of_a_conditional_space() -> None:
    """Against even draws of as many trials, in each of five seeds."""

    def best(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(60):
            trial = draw(study)
            layers = trial.params.get("layers", 0)
            study.tell(trial, layers - abs(trial.params["share"] - 0.5) - 1000 * abs(trial.params["rate"] - 3e-3))
        return study.best_value

    ours = [best(tpe(seed)) for seed in range(5)]
    even = [best(optuna.samplers.RandomSampler(seed)) for seed in range(5)]
    assert all(mine > other for mine, other in zip(ours, even, strict=True)), (ours, even)


def test_callers_warning_filters_stay_as_they_were() -> None:
    before = list(warnings.filters)
    tpe(0)
    assert warnings.filters == before


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_every_sampler_proposes_other_configurations_that_fit_and_the_same_ones_again(name: SamplerName) -> None:
    if name == "gp" and find_spec("torch") is None:
        pytest.skip("pip install 'captune[gp]'")
    config = read_search(None, preset="captions", default_preset="captions", overrides={"trials": "1"})

    def proposals() -> list[object]:
        study = optuna.create_study(direction="maximize")
        reach = FeasibleSpace(config.build_space(), lambda drawn: drawn, Budget(8 * 2**20), Contents.typical(18))
        gate = Gate(study, reach, seed=3, sampler=SAMPLERS[name])
        admitted = []
        for _ in range(STARTUP + 6):
            one = gate.admit()
            gate.tell(one.trial, "complete", best=-abs(one.config.train.learning_rate - 4e-3))
            admitted.append(one.config)
        return admitted

    first = proposals()
    assert proposals() == first
    assert len({repr(one) for one in first}) == STARTUP + 6


@pytest.mark.parametrize(("name", "package"), [("gp", "torch"), ("cmaes", "cmaes")])
def test_sampler_whose_package_is_missing_is_refused_with_the_command(
    name: str, package: str, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captune.tuner.run.settings.find_spec", lambda one: None if one == package else object())
    overrides = {"trials": "1", "sampler": name}
    with pytest.raises(ConfigError, match=rf"sampler {name} needs {package}; pip install 'captune\[{name}\]'"):
        check(read_search(None, preset="compact", default_preset="compact", overrides=overrides), data)


def test_cmaes_with_two_objectives_is_refused(data: PreparedData) -> None:
    overrides = {"trials": "1", "sampler": "cmaes", "objectives": "mean_f1,bytes"}
    with pytest.raises(ConfigError, match="set objectives: mean_f1, or sampler: tpe"):
        check(read_search(None, preset="compact", default_preset="compact", overrides=overrides), data)
