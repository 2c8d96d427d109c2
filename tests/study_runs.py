"""Runs with a study and no data, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import optuna
from builders import epoch

from captune.results.attributes import TrialAttributes, TrialSize, epoch_attribute
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.optuna_private import quiet_optuna
from captune.results.run_folder import RunFolder
from captune.tuner.run.settings import RunSettings
from captune.tuner.space.config import SearchConfig

BUDGET = 2_000_000


def new_run(folder: Path, objectives: tuple[str, ...] = ("mean_f1",), **settings: str) -> RunFolder:
    """A run that was begun, without a study."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    search = SearchConfig(preset="captions", modality="caption", trials=9, budget=BUDGET, objectives=objectives)
    plain = {"data": "/data", "fingerprint": "f" * 64, "created": "2026-01-02T03:04:05+00:00"}
    RunSettings(search=search, versions={}, git_commit=None, **(plain | settings)).write(run.settings)  # type: ignore[arg-type]
    return run


def study_of(run: RunFolder) -> optuna.Study:
    """Its study as the driver writes it, made where there is none."""
    objectives = RunSettings.of(run).search.objectives
    directions: list[Literal["minimize", "maximize"]] = [
        "minimize" if name == "bytes" else "maximize" for name in objectives
    ]
    with quiet_optuna():
        return optuna.create_study(
            study_name=STUDY_NAME, storage=open_storage(run), directions=directions, load_if_exists=True
        )


def begin(study: optuna.Study, rate: float, weights: int = 1_000_000) -> optuna.Trial:
    """A trial that was let through the gate."""
    trial = study.ask()
    trial.suggest_float("train.learning_rate", 1e-4, 1e-1, log=True)
    sizes = TrialSize(weights, weights + 1000, BUDGET - weights)
    TrialAttributes(config={"train.learning_rate": rate, "train.epochs": 3, "image.side": None}, size=sizes).write(
        trial
    )
    trial.set_constraint("bytes", weights / BUDGET - 1)
    TrialAttributes(seed=trial.number, node="machine-1").write(trial)
    return trial


def report(study: optuna.Study, trial: optuna.Trial, number: int, score: float) -> None:
    """An epoch of it."""
    trial.set_user_attr(*epoch_attribute(epoch(number, score), number))
    if len(study.directions) == 1 and score == score:
        trial.report(score, number)


def fill(run: RunFolder) -> RunFolder:
    """One trial of each kind: 0 complete, 1 stopped, 2 refused, 3 a draw that is none, 4 diverged, 5 running."""
    study = study_of(run)
    complete = begin(study, 0.01)
    for number, score in enumerate((0.5, 0.8, 0.7), 1):
        report(study, complete, number, score)
    TrialAttributes(fate="complete").write(complete)
    study.tell(complete, [0.8, 1_000_000][: len(study.directions)])
    stopped = begin(study, 0.02, 500_000)
    report(study, stopped, 1, 0.4)
    TrialAttributes(reason="halving at epoch 1: 0.4 < 0.5", fate="stopped").write(stopped)
    study.tell(stopped, state=optuna.trial.TrialState.PRUNED)
    refused = begin(study, 0.03, 3_000_000)
    TrialAttributes(reason="over", fate="over_budget").write(refused)
    study.tell(refused, state=optuna.trial.TrialState.PRUNED)
    draw = study.ask()
    TrialAttributes(void="repeats an earlier trial").write(draw)
    study.tell(draw, state=optuna.trial.TrialState.FAIL)
    diverged = begin(study, 0.09)
    report(study, diverged, 1, float("nan"))
    diverged.set_constraint("diverged", 1.0)
    TrialAttributes(fate="diverged").write(diverged)
    study.tell(diverged, state=optuna.trial.TrialState.PRUNED)
    report(study, begin(study, 0.04), 1, 0.6)
    return run
