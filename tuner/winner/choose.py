"""Chooses the winner, and how long it is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from captune.model.config import TITLES
from captune.model.metrics import Epoch
from captune.model.size import Budget, show_bytes
from captune.results.attributes import NO_EPOCH
from captune.results.frontier import qualifies
from captune.results.records import Record
from captune.results.run_folder import RunError, RunFolder

Count = int | Literal["auto"]
"""Of networks that are averaged: so many, or as many as validation clearly gains by."""


def choose(records: Sequence[Record], budget: Budget, *, number: int | None = None) -> Record:
    """The first of `ranked`."""
    return ranked(records, budget, number=number)[0]


def ranked(records: Sequence[Record], budget: Budget, *, number: int | None = None) -> list[Record]:
    """The scored trials inside the budget, the best score first; of equal ones the smaller, then the earlier.

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
                f"trial {number} cannot win: fate {record.fate}, {TITLES[record.metric]} {record.score}, "
                f"{show_bytes(budget.bytes_of(record))}; "
                f"choose a complete or stopped one within {budget}"
            )
        return [record]
    qualified = [r for r in records if qualifies(r, budget)]
    if not qualified:
        raise RunError(
            f"no trial of this run has a score within {budget} ({len(records)} trials); {why_no_score(records)}"
        )
    return sorted(qualified, key=lambda r: (r.score, -budget.bytes_of(r), -r.number), reverse=True)


def why_no_score(records: Sequence[Record]) -> str:
    """What is known of why none of some trials has a score, and otherwise what to do."""
    first = next((record for record in records if record.score is None and record.reason), None)
    if first is None:
        return "search longer"
    way_out = "; give `captune resume` a longer --time-limit" if (first.reason or "").endswith(NO_EPOCH) else ""
    return f"trial {first.number} is {first.fate}: {first.reason}{way_out}"


_KIND = ("image.backbone", "image.cut", "image.head", "fusion", "text.encoder", "text.wide", "train.loss")
_TOGETHER = ("storage", "num_labels", "image.side")


def candidates(records: Sequence[Record], budget: Budget, first: Record, most: int) -> list[Record]:
    """Trials whose networks may be averaged with that of `first`, which comes first.

    Networks that differ gain more together than those that are alike: the best of each other kind of network comes
    before the best of the rest, unless it is more than two standard errors behind.

    Args:
        records: all trials of a run.
        budget: that each keeps by itself.
        most: of them.
    """
    config = first.config
    able = [
        record
        for record in records
        if qualifies(record, budget)
        and record.seed is not None
        and record.number != first.number
        and epoch_to_keep(record).rule is not None
        and all(record.config.get(name) == config.get(name) for name in _TOGETHER)
        and ("text.units" in record.config) == ("text.units" in config)
    ]
    able.sort(key=lambda record: (-(record.score or 0.0), budget.bytes_of(record), record.number))
    best, kinds = first.best, {_kind(first)}
    near = (first.score or 0.0) - 2 * (best.standard_error if best is not None else 0.0)
    others: list[Record] = []
    for record in able:
        if (record.score or 0.0) >= near and _kind(record) not in kinds:
            kinds.add(_kind(record))
            others.append(record)
    others += [record for record in able if record not in others]
    return [first, *others[: most - 1]]


def _kind(record: Record) -> tuple[object, ...]:
    return tuple(record.config.get(name) for name in _KIND)


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
    within = best.score - best.standard_error if math.isfinite(best.standard_error) else best.score
    return [epoch for epoch in record.curve if epoch.score >= within][-1]


def epochs_of_refit(record: Record, epoch: Epoch) -> int:
    """How many epochs a trial is trained again whose `epoch` is kept: up to that one.

    All of its schedule where the search ended it there, by halving or its time limit, before its rate had fallen.
    """
    ended_early = epoch.epoch == record.curve[-1].epoch and record.config["train.schedule"] == "cosine"
    return int(record.config["train.epochs"]) if ended_early else epoch.epoch
