"""A search decided again: the same events in the same order must come to the same proposals, stops, scores and winner.

How many slots there were does not matter: what a director decides hangs on the order of what it was told alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import optuna

from captune.model.flat import flatten
from captune.model.metrics import METRICS, Epoch
from captune.model.size import Budget
from captune.results.attributes import HALVED
from captune.results.frontier import frontier
from captune.results.history import Admitted, Began, Ended, Enqueued, Event, Pinned, Reported
from captune.results.records import Record, records_of
from captune.tuner.decisions.director import Director
from captune.tuner.decisions.fates import Again, Verdict
from captune.tuner.decisions.steering import enqueue
from captune.tuner.decisions.trial_events import Assignment, Completed, Report, Worker

_HERE = Worker("replay", "replay")


@dataclass(frozen=True)
class Difference:
    """What came out otherwise. trial, epoch: None where it is about all of them."""

    trial: int | None
    epoch: int | None
    what: str

    def __str__(self) -> str:
        place = [f"trial {self.trial}"] * (self.trial is not None) + [f"epoch {self.epoch}"] * (self.epoch is not None)
        return f"{', '.join(place) or 'the run'}: {self.what}"


def repeat(
    events: Sequence[Event],
    records: Sequence[Record],
    epochs: Mapping[tuple[int, int], Epoch],
    study: optuna.Study,
    begin: Callable[[], Director],
    budget: Budget,
) -> Iterator[Difference]:
    """Decides a search again in an empty study, and yields what differs. It ends with the first other proposal.

    Args:
        events, records: of the run.
        epochs: trained again, by first attempt and epoch.
        begin: opens `study` as each process that searched in the run did.
    """
    by_number = {record.number: record for record in records}
    director: Director | None = None
    for event in events:
        if isinstance(event, Began):
            director = begin()
            continue
        assert director is not None
        match event:
            case Enqueued(request, parameters):
                name, _, place = request.rpartition(":")
                if all(trial.user_attrs.get("request") != request for trial in study.get_trials(deepcopy=False)):
                    enqueue(study, [dict(parameters)], name, begin=int(place))
            case Admitted(number):
                differences = list(_proposal(director, by_number[number]))
                yield from differences
                if differences:
                    return
            case Pinned(number):
                director.pin(number)
            case Reported(number, place):
                yield from _report(director, by_number[number], epochs, place)
            case Ended(number):
                yield from _end(director, event)
    yield from _winner(records, records_of(study), budget)


def _proposal(director: Director, record: Record) -> Iterator[Difference]:
    step = director.next(str(record.number), now=0.0, free_bytes=2**62)
    if not isinstance(step, Assignment):
        yield Difference(record.number, None, "no trial is proposed in its place")
        return
    trial, config = director.running[str(record.number)].trial.number, flatten(step.job.config)
    if trial != record.number:
        yield Difference(record.number, None, f"trial {trial} is proposed in its place")
    for name, value in record.config.items():
        if config.get(name) != value:
            yield Difference(record.number, None, f"{name} was proposed as {value}, and now as {config.get(name)}")
    if step.job.seed != record.seed:
        yield Difference(record.number, None, f"its seed was {record.seed}, and is {step.job.seed}")


def _report(
    director: Director, record: Record, epochs: Mapping[tuple[int, int], Epoch], place: int
) -> Iterator[Difference]:
    attempt = director.running[str(record.number)]
    if attempt.stopped_at is not None:
        yield Difference(record.number, attempt.stopped_at, "halving stops it here, and let it go on")
        attempt.stopped_at = None
    old = next(epoch for epoch in record.curve if epoch.epoch == place)
    new = epochs.get((record.origin, place))
    if new is None:
        yield Difference(record.number, place, "it is not trained, as the trial ends before")
        new = old
    for name in ("loss", *METRICS):
        before, now = asdict(old)[name], asdict(new)[name]
        if before != now and not (before != before and now != now):
            yield Difference(record.number, place, f"{name} was {before!r}, and is {now!r}")
    director.report(str(record.number), Report(_HERE, new))


def _end(director: Director, event: Ended) -> Iterator[Difference]:
    key = str(event.trial)
    if key not in director.running:
        return  # what a killed search left running, which its resume has ended
    decided = event.fate in ("complete", "diverged") or (event.reason or "").startswith(HALVED)
    if not decided:  # by people, machines and clocks
        again = None if event.tries is None else Again(event.tries, event.gpus)
        director.settle(key, Verdict(event.fate, event.reason, again))  # type: ignore[arg-type]
        return
    ended = director.end(key, Completed(), now=0.0)
    assert ended is not None
    if ended.verdict.fate != event.fate:
        yield Difference(event.trial, None, f"it was {event.fate}, and is {ended.verdict.fate}")


def _winner(old: Sequence[Record], new: Sequence[Record], budget: Budget) -> Iterator[Difference]:
    winners = [next(reversed(frontier(records, budget)), None) for records in (old, new)]
    numbers = [None if winner is None else winner.number for winner in winners]
    if numbers[0] != numbers[1]:
        yield Difference(None, None, f"the best was trial {numbers[0]}, and is trial {numbers[1]}")
    if len(old) != len(new):
        yield Difference(None, None, f"it had {len(old)} trials, and has {len(new)}")
