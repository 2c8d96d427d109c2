"""The networks that a winner averages, chosen among the trials of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from captune.model.average import Average, Member, Network
from captune.model.config import TITLES, Metric
from captune.model.flat import unflatten
from captune.model.size import Budget, size
from captune.results.records import Record
from captune.tuner.decisions.averaging import Addition, Candidate, Choice, choose_members
from captune.tuner.run.settings import contents_of
from captune.tuner.winner.candidates import Validation
from captune.tuner.winner.choose import Count, candidates, epoch_to_keep

_AUTO, _BEYOND = 6, 3  # candidates: of auto, and beyond a number of members


@dataclass(frozen=True)
class Members:
    """records: of the trials that are averaged, the best first. choice: how validation chose them."""

    records: tuple[Record, ...]
    choice: Choice


def average_of(records: Sequence[Record]) -> Network:
    """What is shipped of some trials: each calibrated as its epoch that is kept was in the search."""
    if len(records) == 1:
        return unflatten(records[0].config).model
    members = []
    for record in records:
        rule = epoch_to_keep(record).rule
        assert rule is not None
        members.append(Member(model=unflatten(record.config).model, scale=rule.scale, shift=rule.shift))
    return Average(members=tuple(members))


def members_for(
    first: Record, records: Sequence[Record], validation: Validation, budget: Budget, count: Count
) -> Members | None:
    """`first` and others that are averaged with it, what was weighed told; None where it stays alone.

    Args:
        records: all trials of the run.
        count: at least 2, if it is a number.
    """
    say, contents = validation.say, contents_of(validation.data)
    if _reads_pieces(first):
        say(f"note: trial {first.number} reads word pieces, which no average does, so it is shipped alone")
        return None
    most, metric = None if count == "auto" else count, first.metric
    pool = {
        record.number: record
        for record in candidates(records, budget, first, _AUTO if most is None else most + _BEYOND)
        if not _reads_pieces(record)
    }

    def fits(trials: Sequence[int]) -> bool:
        return budget.holds(size(average_of([pool[trial] for trial in trials]), contents))

    say(f"candidates of the average: trials {_listed(pool)}")
    answers = {number: validation.probabilities(record) for number, record in pool.items()}
    usable = [Candidate(number, each) for number, each in answers.items() if each is not None]
    if not usable or usable[0].trial != first.number:
        say(f"note: trial {first.number} comes to no number when it is trained again, so nothing is averaged")
        return None
    choice = choose_members(validation.truth, usable, fits, most, metric)
    for added in choice.additions:
        say(f"trial {added.trial} added: {_gain(added, metric)} on validation")
    if choice.declined is not None:
        best = choice.declined
        say(f"trial {best.trial} not added: {_gain(best, metric)} on validation may be chance")
    elif choice.full:
        say(f"no further network fits into {budget}")
    if len(choice.trials) == 1:
        say(f"no average: trial {first.number} is shipped alone")
        return None
    if most is not None and len(choice.trials) < most:
        say(f"note: {len(choice.trials)} networks are averaged, not {most}")
    say(f"average of trials {_listed(choice.trials)}: {TITLES[metric]} {choice.score:.4f} on validation")
    if round(choice.gain, 4) < 0:
        say(
            f"note: trial {first.number} alone has {-choice.gain:.4f} more; --average auto adds none that does not gain"
        )
    return Members(tuple(pool[trial] for trial in choice.trials), choice)


def _reads_pieces(record: Record) -> bool:
    text = unflatten(record.config).model.text
    return text is not None and text.encoder == "transformer"


def _listed(trials: Sequence[int] | dict[int, Record]) -> str:
    return ", ".join(map(str, trials))


def _gain(addition: Addition, metric: Metric) -> str:
    return f"{TITLES[metric]} {addition.gain:+.4f} (standard error {addition.standard_error:.4f})"
