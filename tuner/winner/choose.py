"""Chooses the winner, and how long it is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from captune.model.metrics import Epoch
from captune.model.size import Budget, show_bytes
from captune.results.frontier import qualifies
from captune.results.records import Record
from captune.results.run_folder import RunError, RunFolder


def choose(records: Sequence[Record], budget: Budget, *, number: int | None = None) -> Record:
    """The first of `candidates`."""
    return candidates(records, budget, number=number)[0]


def candidates(records: Sequence[Record], budget: Budget, *, number: int | None = None) -> list[Record]:
    """The scored trials inside the budget, the best mean F1 first; of equal ones the smaller, then the earlier.

    Args:
        records: all trials of a run.
        budget: bytes allowed.
        number: this trial alone.

    Raises:
        RunError: no trial qualifies, or trial `number` does not.
    """
    if number is not None:
        record = next((r for r in records if r.number == number), None)
        if record is None:
            raise RunError(f"the run has no trial {number}; `captune trials` lists the {len(records)} it has")
        if not qualifies(record, budget):
            raise RunError(
                f"trial {number} cannot win: fate {record.fate}, mean F1 {record.mean_f1}, "
                f"{show_bytes(budget.bytes_of(record))}; "
                f"choose a complete or stopped one within {budget}"
            )
        return [record]
    qualified = [r for r in records if qualifies(r, budget)]
    if not qualified:
        raise RunError(
            f"no trial of this run has a score yet within {budget} ({len(records)} trials); "
            "search longer or with other settings"
        )
    return sorted(qualified, key=lambda r: (r.mean_f1, -budget.bytes_of(r), -r.number), reverse=True)


def refuse_another(run: RunFolder) -> None:
    """Raises RunError where the run has its winner already."""
    if run.winner.exists():
        raise RunError(f"{run}/winner exists; move it away to refit again: test is to be read once for one choice")


def epoch_to_keep(record: Record) -> Epoch:
    """The last epoch whose score is within one standard error of the trial's best.

    Between those the scores do not tell, and a later one has come further down the rate's schedule.

    Raises:
        RunError: the trial has no scored epoch.
    """
    best = record.best
    if best is None:
        raise RunError(f"trial {record.number} has no scored epoch; choose another with --trial")
    within = best.mean_f1 - best.standard_error if math.isfinite(best.standard_error) else best.mean_f1
    return [epoch for epoch in record.curve if epoch.mean_f1 >= within][-1]


def epochs_of_refit(record: Record, epoch: Epoch) -> int:
    """How many epochs a trial is trained again whose `epoch` is kept: up to that one.

    All of its schedule where the search ended it there, by halving or its time limit, before its rate had fallen.
    """
    ended_early = epoch.epoch == record.curve[-1].epoch and record.config["train.schedule"] == "cosine"
    return int(record.config["train.epochs"]) if ended_early else epoch.epoch
