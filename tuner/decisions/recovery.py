"""Puts right what a search left behind in its study, however it ended, and hands the unfinished trials out again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState

from captune.results.records import VOID, Record
from captune.tuner.decisions.fates import halving_reason
from captune.tuner.decisions.gate import Gate
from captune.tuner.decisions.halving import Rungs

LOST = "the search ended without it"


def recover(study: optuna.Study, gate: Gate, rungs: Rungs, records: Sequence[Record]) -> None:
    """Gives trials that a search left running when it ended their fate, and hands the unfinished out again first.

    A trial which had trained all its epochs, or whose last report halving had cut, is done: only the telling was
    missing. Others are lost. A search can be ended here too: what is done twice does no harm.
    """
    scores = {record.number: record.mean_f1 for record in records}
    for half in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial, attributes = optuna.Trial(study, half._trial_id), half.user_attrs
        if VOID in attributes:
            gate.set_aside(trial, attributes[VOID])
        elif "fate" in attributes:
            gate.finish(trial, attributes["fate"], best=scores[half.number])
    known = study.get_trials(deepcopy=False)
    for record in records:
        if record.fate != "running":
            continue
        frozen = known[record.number]
        trial = optuna.Trial(study, frozen._trial_id)
        last = record.curve[-1] if record.curve else None
        if len(study.directions) == 1:  # the report itself may be what was missing
            told = frozen.intermediate_values
            for epoch in record.curve:
                if epoch.epoch not in told and math.isfinite(epoch.mean_f1):
                    trial.report(epoch.mean_f1, epoch.epoch)
        if record.seed is None:
            given = frozen.system_attrs.get("fixed_params")
            if given and record.origin == record.number:
                study.enqueue_trial(given)  # the preset, say; first, as one too many is only set aside
            gate.set_aside(trial, "the search ended before it was handed out")
        elif last is None:
            gate.tell(trial, "lost", reason=LOST)
        elif not (math.isfinite(last.mean_f1) and math.isfinite(last.loss)):
            gate.tell(trial, "diverged", reason=f"no finite score after epoch {last.epoch}")
        elif last.epoch == record.config["train.epochs"]:
            gate.tell(trial, "complete", best=record.mean_f1)
        elif not rungs.goes_on(record.origin, last.epoch, last.mean_f1):
            gate.tell(trial, "stopped", best=record.mean_f1, reason=halving_reason(last.epoch))
        else:
            gate.tell(trial, "lost", reason=LOST)
    # The last that came of each trial: where that one was lost too, or waits already, no earlier one counts.
    known = study.get_trials(deepcopy=False)
    latest = {one.user_attrs.get("replaces", one.number): one for one in known}
    for one in latest.values():
        if one.user_attrs.get("fate") == "lost" or _turned_away(one):
            enqueue_again(study, one, tries=1)


def _turned_away(trial: optuna.trial.FrozenTrial) -> bool:
    return "replaces" in trial.user_attrs and VOID in trial.user_attrs


def enqueue_again(
    study: optuna.Study, trial: optuna.trial.FrozenTrial, *, tries: int | None = None, gpus: float | None = None
) -> None:
    """Hands out a trial once more, with the parameters, the seed and the checkpoint that it had.

    Args:
        tries: attempts, this one included; as many as before if None.
        gpus: that it is to be given; what it was given before, if that was special, if None.
    """
    attributes = trial.user_attrs
    origin = attributes.get("replaces", trial.number)
    given = {"replaces": origin, "tries": attributes.get("tries", 1) if tries is None else tries}
    if (gpus := gpus or attributes.get("gpus")) is not None:
        given["gpus"] = gpus
    # The latest attempt may have been cut off before it had its parameters.
    study.enqueue_trial(study.get_trials(deepcopy=False)[origin].params, user_attrs=given)
