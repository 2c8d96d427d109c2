"""Whole searches in seconds: the real gate, sampler, halving and director on recorded curves, nothing is trained.

    python tests/benchmarks/simulate.py [CURVES.parquet [SEARCH_YAML [SECONDS [SEEDS]]]]

CURVES is a table that `curves.py` made; with no arguments it is curves/captions.parquet, and the space the one beside
it. What a configuration learns is what extremely randomised trees say, fitted to the table: mean scores on validation
and test and seconds of an epoch, from its values, its epoch and the share of its schedule. To the scores the residuals
of one recorded training are added, drawn among the ten nearest, for both splits the same one's, as a network that is
better than its like is so on both. A search of SECONDS (300) has two slots, the space of SEARCH_YAML (preset captions)
and SEEDS (30) seeds, and ends with the trial that is best on validation. The table has a line for each way of
searching: interquartile means with 95 % bootstrap intervals of the epochs until a trial had ended whose mean score on
test is within 0.001 of the best of 4,000 even draws (all epochs where none had), of the trials, and of the score on
test of what was chosen, less that of trial 0, the preset.
"""

from __future__ import annotations

import heapq
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from scipy.stats import trim_mean
from sklearn.ensemble import ExtraTreesRegressor

from captune.cluster.nodes.resources import Room
from captune.model.flat import Flat
from captune.model.metrics import Epoch
from captune.model.size import Budget, Contents
from captune.results.optuna_private import quiet_optuna
from captune.tuner.decisions.director import Director
from captune.tuner.decisions.fates import TrialLimits
from captune.tuner.decisions.gate import STARTUP, Gate
from captune.tuner.decisions.halving import Rungs
from captune.tuner.decisions.sampler import SAMPLERS, Sampler, tpe
from captune.tuner.decisions.trial_events import Assignment, Completed, Report, Worker
from captune.tuner.space.config import HalvingConfig, SamplerName, SearchConfig, read_search
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import Space

SLOTS, START, NEAREST, WITHIN = 2, 1.0, 10, 0.001  # seconds that a trial takes before its first epoch
WORKER = Worker("here", "here")
ROWS_ALIKE = ("number", "seed", "epoch", "validation", "test", "seconds", "weights_bytes")


class Curves:
    """What is known of trainings: the trees' means, and residuals of those recorded."""

    def __init__(self, file: str) -> None:
        table = pq.read_table(file).to_pandas().dropna()
        self.names = [name for name in table.columns if name not in ROWS_ALIKE]
        values = self._encoded(table[self.names].to_dict("records"))
        self._scale = values.std(0) + 1e-9
        inputs = self._inputs(values, table.epoch.to_numpy(), table["train.epochs"].to_numpy())
        targets = table[["validation", "test", "seconds"]].to_numpy()
        self._trees = ExtraTreesRegressor(300, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=0)
        self._trees.fit(inputs, targets)
        # Out of bag: a tree knows its own rows too well.
        table[["validation", "test"]] = (targets - self._trees.oob_prediction_)[:, :2]
        self._trees.n_jobs = 1
        groups = [rows for _, rows in table.groupby(["number", "seed"])]
        self._residuals = [rows[["validation", "test"]].to_numpy() for rows in groups]
        self._at = self._encoded([rows[self.names].iloc[0].to_dict() for rows in groups]) / self._scale

    def _encoded(self, rows: list[Any]) -> NDArray[np.float64]:
        columns = [
            [np.log(float(row[name])) if "rate" in name else float(row[name] or 0) for row in rows]
            for name in self.names
        ]
        return np.array(columns).T

    @staticmethod
    def _inputs(values: NDArray[np.float64], epoch: Any, epochs: Any) -> NDArray[np.float64]:
        return np.column_stack([values, epoch, epoch / epochs])

    def means(self, rows: list[Flat], epochs: list[int]) -> NDArray[np.float64]:
        """Validation, test and seconds of each configuration after its last epoch."""
        return np.asarray(self._trees.predict(self._inputs(self._encoded(rows), np.array(epochs), np.array(epochs))))

    def training(self, values: Flat, epochs: int, random: Random) -> tuple[NDArray[np.float64], float]:
        """Of each epoch its scores on validation and test and its seconds; the mean score on test after the last."""
        own, each = self._encoded([values]), np.arange(1, epochs + 1)
        means = self._trees.predict(self._inputs(np.repeat(own, epochs, 0), each, epochs))
        distance = ((self._at - own / self._scale) ** 2).sum(1)
        residual = self._residuals[random.choice(np.argsort(distance)[:NEAREST].tolist())]
        places = np.minimum(np.ceil(each / epochs * len(residual)).astype(int), len(residual)) - 1
        scored = means[:, :2] + residual[places]
        return np.column_stack([scored, means[:, 2]]), float(means[-1, 1])


@dataclass(frozen=True)
class Way:
    """A way of searching. sampler, startup: see Gate."""

    halving: HalvingConfig
    sampler: Sampler = tpe
    startup: int = STARTUP
    preset_first: bool = True


def ways(config: SearchConfig) -> dict[str, Way]:
    """All that are compared, by name."""
    own = Way(config.halving)
    never = HalvingConfig(grace=1000)

    def by(name: SamplerName, startup: int = STARTUP) -> Way:
        return replace(own, sampler=SAMPLERS[name], startup=startup)

    theirs = Way(never, _optunas_own, startup=0, preset_first=False)
    found = {
        "captune": own,
        "no halving": replace(own, halving=never),
        "grace 1": replace(own, halving=config.halving.model_copy(update={"grace": 1})),
        "grace 3": replace(own, halving=config.halving.model_copy(update={"grace": 3})),
        "reduction 2": replace(own, halving=config.halving.model_copy(update={"reduction": 2})),
        "reduction 4": replace(own, halving=config.halving.model_copy(update={"reduction": 4})),
        "12 even draws": replace(own, startup=12),
        "20 even draws": replace(own, startup=20),
        "24 candidates": replace(own, sampler=partial(_tpe_of, 24)),
        "QMC start": replace(own, sampler=_QMCThenTPE, startup=0),
        "QMC alone": by("qmc", 0),
        "random search": replace(theirs, sampler=SAMPLERS["random"]),
        "Optuna alone": theirs,
        "ASHA + OptunaSearch": replace(theirs, halving=HalvingConfig(grace=1, reduction=4)),
    }
    compared = ("cmaes", "cmaes"), ("gp", "torch")  # where the package is installed
    return found | {name: by(name) for name, package in compared if find_spec(package) is not None}


def _optunas_own(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _tpe_of(candidates: int, seed: int) -> BaseSampler:
    return TPESampler(
        seed=seed, n_startup_trials=0, n_ei_candidates=candidates, multivariate=True, group=True, constant_liar=True
    )


class _QMCThenTPE(BaseSampler):
    def __init__(self, seed: int) -> None:
        self._first, self._then, self._left = SAMPLERS["qmc"](seed), tpe(seed), 12

    def _sampler(self) -> BaseSampler:
        return self._first if self._left > 0 else self._then

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        self._left -= 1
        return self._sampler().infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self._sampler().sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        return self._sampler().sample_independent(study, trial, name, distribution)


def searched(
    way: Way, space: Space, curves: Curves, goal: float, seconds: float, seed: int
) -> tuple[float, float, float]:
    """One search on a clock of its own: epochs until the goal, trials, and what was chosen less the preset."""
    with quiet_optuna():
        return _searched(way, space, curves, goal, seconds, seed)


def _searched(
    way: Way, space: Space, curves: Curves, goal: float, seconds: float, seed: int
) -> tuple[float, float, float]:
    study = optuna.create_study(direction="maximize")
    feasible = FeasibleSpace(space, lambda drawn: drawn, Budget(100 * 2**20), Contents.typical(18))
    if way.preset_first:
        study.enqueue_trial(feasible.preset())
    gate = Gate(study, feasible, seed=seed, sampler=way.sampler, startup=way.startup)
    director = Director(
        study,
        gate,
        Rungs(way.halving, space.base.train.epochs),
        TrialLimits(0, None, 0),
        None,
        (),
        1,
        0.0,
        Room(SLOTS, 1),
    )
    random, order, events, numbers = Random(seed), count(), list[Any](), count()
    known = dict[str, tuple[Any, float]]()
    reached: int | None = None
    best, trials = (-1.0, 0.0), 0
    preset = curves.training(feasible.preset(), space.base.train.epochs, Random(seed))[0][-1, 1]

    def assign(now: float) -> None:
        nonlocal trials
        key = str(next(numbers))
        step = director.next(key, now=now, free_bytes=2**40)
        if isinstance(step, Assignment):
            trials += 1
            training, mean = curves.training(space.parameters(step.job.config), step.job.config.train.epochs, random)
            known[key] = training, mean
            heapq.heappush(events, (now + START + training[0, 2], next(order), key, 1))

    for _ in range(SLOTS):
        assign(0.0)
    while events:
        now, _, key, epoch = heapq.heappop(events)
        if now > seconds:
            break
        training, mean = known[key]
        validation, test, _ = training[epoch - 1]
        best = max(best, (validation, test))
        goes_on = director.report(key, Report(WORKER, _epoch(epoch, validation, now)))
        if goes_on and epoch < len(training):
            heapq.heappush(events, (now + training[epoch, 2], next(order), key, epoch + 1))
            continue
        if epoch == len(training) and mean >= goal and reached is None:
            reached = director.epochs
        director.end(key, Completed(), now=now)
        assign(now)
    return float(reached or director.epochs), float(trials), float(best[1] - preset)


def _epoch(number: int, score: float, seconds: float) -> Epoch:
    return Epoch.read({"epoch": number, "loss": 1.0, "mean_f1": score, "threshold": 0.5, "train_seconds": seconds})


def main(file: str, config: str | None, seconds: float, seeds: int) -> None:
    search = read_search(
        None if config is None else Path(config),
        preset=None if config else "captions",
        default_preset="captions",
        overrides={"trials": 1},
    )
    space = search.build_space()
    curves = Curves(file)
    random = Random(0)
    draws = [space.draw(random) for _ in range(4000)]
    values = [space.parameters(draw) for draw in draws]
    goal = float(curves.means(values, [draw.train.epochs for draw in draws])[:, 1].max()) - WITHIN
    preset = curves.means([space.parameters(space.base)], [space.base.train.epochs])[0, 1]
    print(f"best of 4,000 even draws {goal + WITHIN:.4f} on test, preset {preset:.4f}; {seconds:.0f} s, {seeds} seeds")
    print(f"{'way':20} {'epochs until within 0.001':>28} {'trials':>8} {'chosen less preset on test':>32}  worst")
    with ProcessPoolExecutor(2) as pool:
        for name, way in ways(search).items():
            runs = np.array(list(pool.map(partial(searched, way, space, curves, goal, seconds), range(seeds))))
            epochs, trials, gain = (_interval(column) for column in runs.T)
            print(f"{name:20} {epochs:>28} {trials.split()[0]:>8} {gain:>32}  {runs[:, 2].min():+.4f}", flush=True)


def _interval(column: NDArray[np.float64]) -> str:
    """Interquartile mean with its bootstrap interval."""
    random = np.random.default_rng(0)
    means = [trim_mean(random.choice(column, len(column)), 0.25) for _ in range(2000)]
    digits = 0 if abs(column).max() > 2 else 4
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{trim_mean(column, 0.25):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    recorded = Path(__file__).parent / "curves"
    arguments = sys.argv[1:] or [str(recorded / "captions.parquet"), str(recorded / "captions.yaml")]
    main(
        arguments[0],
        arguments[1] if len(arguments) > 1 and arguments[1] != "-" else None,
        float(arguments[2]) if len(arguments) > 2 else 300.0,
        int(arguments[3]) if len(arguments) > 3 else 30,
    )
