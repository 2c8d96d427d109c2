"""Proposes configurations: Optuna's samplers by name, as they are set for spaces of which much is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from captune.tuner.space.config import SamplerName

Sampler = Callable[[int], BaseSampler]
"""A sampler of a seed."""

# Among which TPE chooses what it proposes. With Optuna's 24 it proposes half as much again that is refused.
_CANDIDATES = 100


def _quietly(sampler: Callable[..., BaseSampler], seed: int, **arguments: Any) -> BaseSampler:
    """Without a warning that an argument of it, or all of it, is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sampler(seed=seed, **arguments)


# TPE (Bergstra et al., 2011) over all dimensions together, each group of conditional ones by itself.
tpe: Sampler = partial(
    _quietly,
    TPESampler,
    n_startup_trials=0,
    n_ei_candidates=_CANDIDATES,
    multivariate=True,
    group=True,
    constant_liar=True,
)
# Dimensions that only some trials have are drawn evenly by the others, for which each has a warning.
SAMPLERS: dict[SamplerName, Sampler] = {
    "tpe": tpe,
    "gp": partial(_quietly, GPSampler, n_startup_trials=0, warn_independent_sampling=False),
    "cmaes": partial(
        _quietly, CmaEsSampler, n_startup_trials=0, consider_pruned_trials=True, warn_independent_sampling=False
    ),
    "qmc": partial(
        _quietly, QMCSampler, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False
    ),
    "random": partial(_quietly, RandomSampler),
}
