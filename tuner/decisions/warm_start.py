"""What an earlier run has found out, told to the sampler of a new one."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from captune.model.config import unflatten
from captune.model.latency import Latency
from captune.model.size import Budget
from captune.results.attributes import SCORED, Fate, TrialAttributes
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.space.config import SearchConfig

_REFUSED: tuple[Fate, ...] = ("over_budget", "diverged")
_SAME = ("preset", "modality", "fixed", "space", "metric", "objectives")


def check(old: RunFolder, before: SearchConfig, config: SearchConfig, *, same_data: bool) -> None:
    """Raises RunError where `old` searched another space or other data: its scores would mean something else.

    Args:
        before: what it was asked to do.
        same_data: whether it was on the data of the new search.
    """
    differing = [name for name in _SAME if getattr(before, name) != getattr(config, name)]
    if not same_data:
        differing.append("data")
    if differing:
        raise RunError(
            f"{old} cannot inform this search: its {', '.join(differing)} differ; "
            "search the same space on the same data, or leave --warm-start out"
        )


def take_over(study: optuna.Study, old: RunFolder, budget: Budget, latency: Latency | None = None) -> int:
    """Adds the finished and refused trials of `old` to a new study, as what is known and no trial of its own.

    The best of them is also handed out early, to run under the new seed. What was added before is not added again.

    Returns:
        How many finished trials of `old` are known now.

    Raises:
        RunError: `old` is gone.
    """
    old.read_settings()
    if not old.journal.is_file():
        return 0
    trials = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(old)).get_trials(deepcopy=False)
    attributes = {trial.number: TrialAttributes.of(trial) for trial in trials}
    here = {TrialAttributes.of(trial).void for trial in study.get_trials(deepcopy=False)}
    finished = [trial for trial in trials if attributes[trial.number].fate in SCORED]
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    names = {number: f"trial {number} of {old}" for number, a in attributes.items() if a.fate in (*SCORED, *_REFUSED)}
    if complete and not here & set(names.values()):
        study.enqueue_trial(max(complete, key=lambda trial: trial.values[0]).params)
    for number, name in names.items():
        trial, size, config = trials[number], attributes[number].size, attributes[number].config
        if name in here or not trial.state.is_finished() or size is None:
            continue
        # Of the new limits: what was within the old ones may be over them.
        constraints = {**trial.constraints, "bytes": budget.bytes_of(size) / budget.limit - 1}
        constraints.pop("latency", None)
        if latency is not None and config is not None:
            constraints["latency"] = latency.share(unflatten(config).model) - 1
        copy = create_trial(
            state=trial.state,
            values=trial.values if trial.state == TrialState.COMPLETE else None,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs=TrialAttributes(void=name).values(),
            constraints=constraints,
        )
        study.add_trial(copy)
    return len(finished)
