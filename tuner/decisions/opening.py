"""How a search begins, or goes on: what its study gets first, and who decides from then on."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from captune.cluster.nodes.resources import Room
from captune.results.records import records_of
from captune.tuner.decisions.director import Director
from captune.tuner.decisions.fates import TrialLimits
from captune.tuner.decisions.gate import Gate
from captune.tuner.decisions.halving import Rungs
from captune.tuner.decisions.recovery import recover
from captune.tuner.decisions.sampler import SAMPLERS
from captune.tuner.decisions.steering import FIRST, enqueue
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace


def open_search(
    study: optuna.Study,
    feasible: FeasibleSpace,
    config: SearchConfig,
    learn: Callable[[optuna.Study], None],
    *,
    threads: int,
    gpus: float,
    room: Room,
) -> Director:
    """The director of a study: new with the preset, or what is nearest to it, as trial 0, or as an earlier search left
    it, put right.

    Args:
        learn: adds what is known from an earlier run.
        threads, gpus, room: see Director.
    """
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(feasible.preset())
    enqueue(study, feasible.chosen(config.first), FIRST)
    learn(study)
    records = records_of(study)
    gate = Gate(study, feasible, seed=config.seed, sampler=SAMPLERS[config.sampler])
    begins = feasible.space.base if feasible.trial_0 is None else feasible.trial_0
    rungs = Rungs.of(config.halving, records, schedule=begins.train.epochs)
    recover(study, gate, rungs, records)
    return Director(
        study,
        gate,
        rungs,
        TrialLimits(config.retries, config.trial_timeout, config.min_free),
        trials=config.trials,
        records=records_of(study),
        threads=threads,
        gpus=gpus,
        room=room,
        patience=config.patience,
        metric=config.metric,
    )
