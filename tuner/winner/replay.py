"""A trial trained again with its configuration, seed and data, and held against what the record says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from captune.data_prep.store import PreparedData
from captune.errors import shell_word
from captune.model.flat import unflatten
from captune.results.records import Record, load_records
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import open_data, reading
from captune.tuner.run.settings import RunSettings, versions
from captune.tuner.training import runtime
from captune.tuner.training.job import Job
from captune.tuner.winner.step import Message, Step


@dataclass(frozen=True)
class ReplayedEpoch:
    """Mean F1 after an epoch as the record has it, and again; NaN where it was no number."""

    epoch: int
    old: float
    new: float

    @property
    def difference(self) -> float:
        """0 where nothing differs; NaN where one of the two is no number."""
        same = self.old == self.new or (math.isnan(self.old) and math.isnan(self.new))
        return 0.0 if same else abs(self.new - self.old)


@dataclass(frozen=True)
class Replay:
    """What a replay found. differences: of data and versions, as lines."""

    trial: int
    epochs: tuple[ReplayedEpoch, ...]
    differences: tuple[str, ...]

    @property
    def largest_difference(self) -> float:
        """Of mean F1, over all epochs."""
        return max((epoch.difference for epoch in self.epochs), default=0.0)


def replay(location: str, number: int, force: bool, *, say: Callable[[Message], None]) -> Replay:
    """Trains as many epochs of a trial as the record has, in this process, which is settled for it.

    Args:
        location: path or address of the run.
        force: also where data or versions are not the same.

    Raises:
        RunError: no such trial, it trained no epoch, or it would not be the same.
    """
    with reading(location) as run:
        record = _record(run, number)
        settings = RunSettings.of(run)
    data = open_data(settings.data, verify=True)
    differences = differences_of(settings, data)
    if differences and not force:
        raise RunError(f"trial {number} would not be the same: {'; '.join(differences)}; --force replays it anyway")
    for difference in differences:
        say(f"note: {difference}")
    runtime.settle(record.threads or 1, settings.search.backend)
    from captune.tuner.training.trial import train_trial

    assert record.seed is not None
    epochs = []
    for old, new in zip(
        record.curve,
        train_trial(Job(unflatten(record.config), record.seed, record.origin, metric=record.metric), data),
        strict=False,
    ):
        say(Step(f"replay of trial {number}", new.epoch, record.epochs))
        epochs.append(ReplayedEpoch(new.epoch, old.mean_f1, new.mean_f1))
    return Replay(number, tuple(epochs), differences)


def _record(run: RunFolder, number: int) -> Record:
    record = next((r for r in load_records(run) if r.number == number), None)
    if record is None:
        raise RunError(f"the run has no trial {number}; `captune trials {shell_word(run)}` lists them")
    if record.seed is None or not record.curve:
        raise RunError(f"trial {number} ({record.fate}) trained no epoch that could be trained again; choose another")
    return record


def differences_of(settings: RunSettings, data: PreparedData) -> tuple[str, ...]:
    """What of versions and data is not as it was, a line each."""
    now = versions(settings.search.backend)
    differences = [
        f"{name} was {old}, now it is {now.get(name, 'absent')}"
        for name, old in settings.versions.items()
        if now.get(name) != old
    ]
    if data.manifest.fingerprint != settings.fingerprint:
        differences.append(f"{settings.data} does not hold the data of the run")
    return (*differences, *settings.changed_files())
