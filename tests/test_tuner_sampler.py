"""TPE over a window: what it sees is bounded, true and public, and the caller's warnings stay as they were."""

import warnings
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from captune.tuner.decisions.sampler import WINDOW, WindowedTPE, tpe

BOTH = (["maximize"], ["maximize", "minimize"])


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[FrozenTrial]]:
    """What TPE was shown at each proposal."""
    shown: list[list[FrozenTrial]] = []
    sample = TPESampler.infer_relative_search_space

    def noted(self: TPESampler, study: optuna.Study, trial: FrozenTrial) -> Any:
        shown.append([t for t in study.get_trials() if t.state != TrialState.FAIL and t.number != trial.number])
        return sample(self, study, trial)

    monkeypatch.setattr(TPESampler, "infer_relative_search_space", noted)
    return shown


def draw(study: optuna.Study) -> Trial:
    trial = study.ask()
    if trial.suggest_categorical("kind", ["plain", "deep"]) == "deep":
        trial.suggest_int("layers", 2, 8, step=2)
    trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    trial.suggest_float("share", 0, 1, step=0.25)
    trial.suggest_int("only", 3, 3)
    return trial


def add(study: optuna.Study, value: float) -> None:
    rate = optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    values = [value, -value][: len(study.directions)]
    study.add_trial(optuna.trial.create_trial(params={"rate": 1e-2}, distributions={"rate": rate}, values=values))


@pytest.mark.parametrize("directions", BOTH, ids=["one", "two"])
def test_window_is_bounded_and_never_forgets_the_best(directions: list[str], seen: list[list[FrozenTrial]]) -> None:
    study = optuna.create_study(directions=directions, sampler=WindowedTPE(0))
    add(study, 9.0)
    for _ in range(5):
        for _ in range(WINDOW):
            add(study, 0.5)
        study.tell(draw(study), [0.1, -0.1][: len(directions)])
    draw(study)
    sizes = [len(trials) for trials in seen]
    assert sizes[0] == WINDOW + 1 and max(sizes) <= 3 * WINDOW + 2
    assert sizes[-1] < len(study.trials) / 2
    assert all(9.0 in {trial.values[0] for trial in trials if trial.values} for trials in seen)
    assert seen[-1][-1].params == study.trials[-2].params, "the last is there"


def test_window_holds_each_trial_as_the_study_has_it(seen: list[list[FrozenTrial]]) -> None:
    study = optuna.create_study(direction="maximize", sampler=WindowedTPE(0))
    study.enqueue_trial({"kind": "deep", "layers": 8})
    complete, stopped, refused, failed, running = (draw(study) for _ in range(5))
    study.tell(complete, 0.5)
    stopped.report(0.25, 3)
    study.tell(stopped, state=TrialState.PRUNED)
    refused.set_constraint("bytes", 0.75)
    study.tell(refused, state=TrialState.PRUNED)
    study.tell(failed, state=TrialState.FAIL)
    waiting = {"kind": "plain"}
    draw(study)
    study.enqueue_trial(waiting)
    draw(study)

    def facts(trial: FrozenTrial) -> Any:
        return trial.params, trial.state, trial.values, trial.intermediate_values, trial.constraints

    expected = [facts(trial) for trial in study.trials[:-1] if trial.number != failed.number]
    assert sorted(map(repr, map(facts, seen[-1]))) == sorted(map(repr, expected))
    assert running.number in {trial.number for trial in study.trials if trial.state == TrialState.RUNNING}


def test_what_runs_stays_in_the_window_when_it_is_cut(seen: list[list[FrozenTrial]]) -> None:
    study = optuna.create_study(direction="maximize", sampler=WindowedTPE(0))
    running = draw(study)
    for _ in range(2 * WINDOW + 1):
        add(study, 0.5)
    draw(study)
    ended = draw(study)
    for trials in (seen[-1], seen[-2]):
        assert running.params in [trial.params for trial in trials if trial.state == TrialState.RUNNING]
    study.tell(running, 0.75)
    study.tell(ended, state=TrialState.FAIL)
    draw(study)
    shown = [trial for trial in seen[-1] if trial.params == running.params]
    assert [trial.value for trial in shown] == [0.75]
    assert ended.params not in [trial.params for trial in seen[-1]]


def test_while_the_window_holds_all_proposals_are_those_of_optunas_own_tpe() -> None:
    def proposals(sampler: optuna.samplers.BaseSampler) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for place in range(40):
            trial = draw(study)
            if place % 3 == 0:
                trial.set_constraint("bytes", trial.params["share"])
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, trial.params["rate"] + trial.params.get("layers", 0))
        return [trial.params for trial in study.trials]

    assert proposals(WindowedTPE(3)) == proposals(tpe(3))


def test_sampler_finds_the_best_of_a_conditional_space() -> None:
    """Against even draws of as many trials, in each of five seeds."""

    def best(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(60):
            trial = draw(study)
            layers = trial.params.get("layers", 0)
            study.tell(trial, layers - abs(trial.params["share"] - 0.5) - 1000 * abs(trial.params["rate"] - 3e-3))
        return study.best_value

    ours = [best(WindowedTPE(seed)) for seed in range(5)]
    even = [best(optuna.samplers.RandomSampler(seed)) for seed in range(5)]
    assert all(mine > other for mine, other in zip(ours, even, strict=True)), (ours, even)


def test_callers_warning_filters_stay_as_they_were() -> None:
    before = list(warnings.filters)
    WindowedTPE(0)
    assert warnings.filters == before
