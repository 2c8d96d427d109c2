"""What an earlier run has found out, told to the sampler of a new one."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from model.size import Budget
from results.study import SCORED, STUDY_NAME, VOID, RunError, RunFolder, open_storage

_SAME = ("preset", "modality", "fixed", "space", "objectives")


def take_over(study: optuna.Study, old: RunFolder, new: RunFolder, budget: Budget) -> int:
    """Adds the finished and refused trials of `old` to a new study, as what is known and no trial of its own.

    The best of them is also handed out first, to run under the new seed.

    Returns:
        How many finished trials were taken over.

    Raises:
        RunError: the old run searched another space or other data: its scores would mean something else.
    """
    before, now = old.read_settings(), new.read_settings()
    differing = [name for name in _SAME if before["search"][name] != now["search"][name]]
    if before["fingerprint"] != now["fingerprint"]:
        differing.append("data")
    if differing:
        raise RunError(
            f"{old.path} cannot inform this search: its {', '.join(differing)} differ; "
            "search the same space on the same data, or leave --warm-start out"
        )
    known = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(old)).get_trials(deepcopy=False)
    finished = [t for t in known if t.user_attrs.get("fate") in SCORED]
    complete = [t for t in finished if t.state == TrialState.COMPLETE]
    if complete:
        study.enqueue_trial(max(complete, key=lambda trial: trial.values[0]).params)
    for trial in known:
        if trial in finished or trial.user_attrs.get("fate") in ("over_budget", "diverged"):
            copy = create_trial(
                state=trial.state,
                values=trial.values if trial.state == TrialState.COMPLETE else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={VOID: f"trial {trial.number} of {old.path}"},
                # Of the new budget: what was within the old one may be over it.
                constraints={"bytes": trial.user_attrs["size"][f"{budget.measure}_bytes"] / budget.limit - 1},
            )
            study.add_trial(copy)
    return len(finished)
