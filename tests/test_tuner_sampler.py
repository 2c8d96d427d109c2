"""TPE as it is set finds what even draws do not, and leaves the caller's warnings as they were."""

import warnings

import optuna
from optuna.trial import Trial

from captune.tuner.decisions.sampler import tpe


def draw(study: optuna.Study) -> Trial:
    trial = study.ask()
    if trial.suggest_categorical("kind", ["plain", "deep"]) == "deep":
        trial.suggest_int("layers", 2, 8, step=2)
    trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    trial.suggest_float("share", 0, 1, step=0.25)
    trial.suggest_int("only", 3, 3)
    return trial


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
