"""Puts right what a search left behind in its study, however it ended, and hands the unfinished trials out again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState

from captune.results.attributes import BY_HAND, LOST, TrialAttributes, origin_of
from captune.results.optuna_private import enqueued_parameters, reopened
from captune.results.records import Record
from captune.tuner.decisions.fates import Again, halving_reason
from captune.tuner.decisions.gate import Gate
from captune.tuner.decisions.halving import Rungs


def recover(study: optuna.Study, gate: Gate, rungs: Rungs, records: Sequence[Record]) -> None:
    """Gives trials that a search left running when it ended their fate, and hands the unfinished out again first.

    A trial which had trained all its epochs, or whose last report halving had cut, is done: only the telling was
    missing. Others are lost. A search can be ended here too: what is done twice does no harm.
    """
    by_number = {record.number: record for record in records}
    for half in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial, attributes = reopened(study, half), TrialAttributes.of(half)
        if attributes.void is not None:
            gate.set_aside(trial, attributes.void)
        elif attributes.fate is not None:
            TrialAttributes(seconds=_reported_seconds(by_number[half.number], records)).write(trial)
            gate.finish(trial, attributes.fate, best=by_number[half.number].score)
    trials = study.get_trials(deepcopy=False)
    for record in records:
        if record.fate != "running":
            continue
        frozen = trials[record.number]
        trial, attributes = reopened(study, frozen), TrialAttributes.of(frozen)
        last = record.curve[-1] if record.curve else None
        if len(study.directions) == 1:  # the report itself may be what was missing
            for epoch in record.curve:
                if epoch.epoch not in frozen.intermediate_values and math.isfinite(epoch.score):
                    trial.report(epoch.score, epoch.epoch)
        if record.seed is None:
            parameters = enqueued_parameters(frozen)
            if parameters and record.origin == record.number:
                # The preset, say; first, as one too many is only set aside.
                request = TrialAttributes(request=attributes.request)
                study.enqueue_trial(parameters, user_attrs=request.values())
            gate.set_aside(trial, "the search ended before it was handed out")
            continue
        TrialAttributes(seconds=_reported_seconds(record, records)).write(trial)
        if record.reason == BY_HAND:
            gate.tell(trial, "stopped", best=record.score, reason=BY_HAND)
        elif last is None:
            gate.tell(trial, "lost", reason=LOST)
        elif not (math.isfinite(last.score) and math.isfinite(last.loss)):
            gate.tell(trial, "diverged", reason=f"no finite score after epoch {last.epoch}")
        elif last.epoch == (epochs := record.config["train.epochs"]):
            gate.tell(trial, "complete", best=record.score)
        elif not (rungs.goes_on(record.origin, last.epoch, last.score, epochs=epochs) or attributes.pinned):
            gate.tell(trial, "stopped", best=record.score, reason=halving_reason(last.epoch))
        else:
            gate.tell(trial, "lost", reason=LOST)
    # The last that came of each trial: where that one was lost too, or waits already, no earlier one counts.
    latest = {origin_of(trial): trial for trial in study.get_trials(deepcopy=False)}
    for one in latest.values():
        attributes = TrialAttributes.of(one)
        turned_away = attributes.replaces is not None and attributes.void is not None
        if attributes.fate == "lost" or turned_away:
            enqueue_again(study, one, Again(tries=1))


def _reported_seconds(record: Record, records: Sequence[Record]) -> float:
    """Of the epochs that a trial reported itself: not of those it took over, nor until somebody asked again."""
    attempts = (other for other in records if other.origin == record.origin and other.number < record.number)
    earlier = {order for attempt in attempts for order in attempt.order.values()}
    return sum(sum(e.seconds().values()) for e in record.curve if record.order[e.epoch] not in earlier)


def enqueue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial, again: Again) -> None:
    """Hands out a trial once more, with the parameters, the seed and the checkpoint that it had."""
    origin = origin_of(trial)
    before = TrialAttributes.of(trial)
    attributes = TrialAttributes(
        replaces=origin, tries=again.tries, gpus=again.gpus or before.gpus, pinned=before.pinned
    )
    # The latest attempt may have been cut off before it had its parameters.
    study.enqueue_trial(study.get_trials(deepcopy=False)[origin].params, user_attrs=attributes.values())
