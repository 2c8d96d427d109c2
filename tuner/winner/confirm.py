"""The best trials of a search trained again with other seeds, until one of them is the best or the time is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from captune.model.config import TITLES, Metric
from captune.model.metrics import shares
from captune.model.rule import cross_fitted
from captune.model.size import Budget
from captune.results.frontier import qualifies
from captune.results.records import Record
from captune.tuner.decisions.race import MOST_SEEDS, Finalist, Verdict, standing, verdict
from captune.tuner.winner.candidates import Validation
from captune.tuner.winner.choose import epoch_to_keep
from captune.tuner.winner.proof import Confirmation, FinalistScores

_FINALISTS, _SHARE = 5, 0.2


@dataclass(frozen=True)
class Confirmed:
    """The record of the trial that won, and what the proof says of the race."""

    record: Record
    confirmation: Confirmation


def confirm(
    records: Sequence[Record], validation: Validation, budget: Budget, seconds: float | Literal["auto"]
) -> Confirmed | None:
    """The best of a run's trials as other seeds have it, told as it goes; None where no time is for any.

    Args:
        records: all trials of the run.
        seconds: no network is begun that would hardly be trained by then; "auto" for a fifth of the search's time.
    """
    say, started, longest = validation.say, time.monotonic(), 0.0
    most = searched_seconds(records) * _SHARE if seconds == "auto" else seconds
    by_trial = {record.number: record for record in finalists(records, budget)}
    if not by_trial:
        say("note: no trial can be trained again, so nothing is confirmed")
        return None
    metric = next(iter(by_trial.values())).metric
    scores: dict[int, list[np.ndarray]] = {trial: [] for trial in by_trial}
    say(f"finalists: trial{'s' * (len(by_trial) > 1)} {', '.join(map(str, by_trial))}")

    def entered() -> list[Finalist]:
        return [
            Finalist(trial, budget.bytes_of(by_trial[trial]), np.array(each)) for trial, each in scores.items() if each
        ]

    left, over = tuple(by_trial), False
    for turn in range(1, MOST_SEEDS + 1):
        for trial in left:
            begun = time.monotonic()
            over = begun - started + longest > most
            if over:
                break
            answers = validation.probabilities(by_trial[trial], turn)
            longest = max(longest, time.monotonic() - begun)
            if answers is None:
                say(f"trial {trial} comes to no number with another seed, and is out")
                scores[trial] = []
                left = tuple(other for other in left if other != trial)
            else:
                fitted = cross_fitted(validation.truth, answers, metric=metric)
                scores[trial].append(shares(metric, validation.truth, fitted))
        racing = [finalist for finalist in entered() if finalist.trial in left]
        if not racing:
            break
        now = standing(racing)
        left = tuple(trial for trial in left if trial in now.left)
        if over or now.is_decided:
            break
    racing = entered()
    if not racing:
        say("note: no finalist came to a score with another seed, so nothing is confirmed")
        return None
    end = verdict(racing)
    say(_told(end, metric, alone=len(racing) == 1))
    told = tuple(
        FinalistScores(trial=finalist.trial, seeds=tuple(map(float, finalist.shares.mean(axis=1))))
        for finalist in racing
    )
    return Confirmed(
        by_trial[end.trial],
        Confirmation(
            metric=metric,
            finalists=told,
            how=end.how,
            probability=end.probability,
            expected=end.expected,
            standard_error=end.standard_error,
        ),
    )


def searched_seconds(records: Sequence[Record]) -> float:
    """From the first trial's beginning to the last one's end; pauses between a search and its resume count, too."""
    spans = [(record.began, record.began + (record.seconds or 0.0)) for record in records if record.began]
    return max(end for _, end in spans) - min(begin for begin, _ in spans) if spans else 0.0


def finalists(records: Sequence[Record], budget: Budget) -> list[Record]:
    """The best few trials within one standard error of the best, best first."""
    able = [
        record
        for record in records
        if qualifies(record, budget) and record.seed is not None and epoch_to_keep(record).rule is not None
    ]
    able.sort(key=lambda record: (-(record.score or 0.0), budget.bytes_of(record), record.number))
    if not able or able[0].best is None:
        return able
    near = (able[0].score or 0.0) - able[0].best.standard_error
    return [record for record in able if (record.score or 0.0) >= near][:_FINALISTS]


def _told(end: Verdict, metric: Metric, *, alone: bool) -> str:
    equal = ", ".join(map(str, end.left))
    if alone:
        why = "the only finalist"
    elif end.how == "best":
        why = f"the best with probability {end.probability:.2f}"
    else:
        why = f"the smallest of trials {equal}, which other seeds do not tell apart"
    return (
        f"trial {end.trial} is {why}; expected on rows that it was not chosen by: {TITLES[metric]} {end.expected:.4f} "
        f"(standard error {end.standard_error:.4f})"
    )
