"""How much of the score each setting explains, as Optuna reckons it: a share of all that the settings explain."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 8
"""Fewer scores say nothing of settings."""
_MOST_TRIALS = 1000  # a forest of 1,000 takes a fifth of a second, and more change nothing
_TREES = 64


@dataclass(frozen=True)
class Importance:
    """shares: by setting, falling, together 1; empty where nothing can be said. trials: that it is of.

    conditional: settings that only some trials have, and that therefore stand beside the comparison.
    missing: why there are no shares, as a sentence; None where there are.
    """

    shares: Mapping[str, float]
    trials: int
    conditional: tuple[str, ...] = ()
    missing: str | None = None


def importance(trials: Sequence[FrozenTrial], scores: Mapping[int, float]) -> Importance:
    """Mean decrease of impurity in a forest (Breiman, 2001) that is fitted to the scores.

    fANOVA, Optuna's default, tells much the same and takes minutes for 1,000 trials.

    Args:
        trials: of a study.
        scores: by the number of each trial that counts, those that halving stopped too.
    """
    scored = [trial for trial in trials if trial.number in scores and trial.params]
    if len(scored) < LEAST_TRIALS:
        few = f"{len(scored)} trials that ended with a score are too few: it takes {LEAST_TRIALS}."
        return Importance({}, len(scored), missing=few)
    if len(scored) > _MOST_TRIALS:
        scored = random.Random(0).sample(scored, _MOST_TRIALS)
    names = dict.fromkeys(name for trial in scored for name in trial.params)
    common = [name for name in names if all(name in trial.params for trial in scored)]
    conditional = tuple(name for name in names if name not in common)
    # A range may have changed with a resume; a value or a range of one value says nothing.
    varying = [
        name
        for name in common
        if len({repr(trial.params[name]) for trial in scored}) > 1
        and len({trial.distributions[name] for trial in scored}) == 1
    ]
    if not varying:
        return Importance({}, len(scored), conditional, "No setting differs between all scored trials.")
    if len({scores[trial.number] for trial in scored}) == 1:
        return Importance({}, len(scored), conditional, "All scored trials have the same score.")
    return Importance(_shares(scored, scores, varying), len(scored), conditional)


def _shares(trials: Sequence[FrozenTrial], scores: Mapping[int, float], names: list[str]) -> dict[str, float]:
    import optuna

    from captune.results.optuna_private import quiet_optuna

    with quiet_optuna():
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: trial.params[name] for name in names},
                    distributions={name: trial.distributions[name] for name in names},
                    value=scores[trial.number],
                )
                for trial in trials
            ]
        )
        evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=_TREES, seed=0)
        # Not `params=names`: Optuna 5.0 gives the shares of names in their alphabetic order to those in this order.
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
