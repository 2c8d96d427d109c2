"""What an earlier run has found out, told to the sampler of a new one."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from captune.model.size import Budget
from captune.results.attributes import SCORED, VOID
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.space.config import SearchConfig

_SAME = ("preset", "modality", "fixed", "space", "objectives")


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


def take_over(study: optuna.Study, old: RunFolder, budget: Budget) -> int:
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
    known = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(old)).get_trials(deepcopy=False)
    here = {trial.user_attrs[VOID] for trial in study.get_trials(deepcopy=False) if VOID in trial.user_attrs}
    finished = [t for t in known if t.user_attrs.get("fate") in SCORED]
    complete = [t for t in finished if t.state == TrialState.COMPLETE]
    told = [t for t in known if t.user_attrs.get("fate") in (*SCORED, "over_budget", "diverged")]
    names = {trial.number: f"trial {trial.number} of {old}" for trial in told}
    if complete and not here & set(names.values()):
        study.enqueue_trial(max(complete, key=lambda trial: trial.values[0]).params)
    for trial in told:
        if names[trial.number] in here or not trial.state.is_finished():
            continue
        copy = create_trial(
            state=trial.state,
            values=trial.values if trial.state == TrialState.COMPLETE else None,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={VOID: names[trial.number]},
            # Of the new budget: what was within the old one may be over it.
            constraints={
                **trial.constraints,
                "bytes": trial.user_attrs["size"][f"{budget.measure}_bytes"] / budget.limit - 1,
            },
        )
        study.add_trial(copy)
    return len(finished)
