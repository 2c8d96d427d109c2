"""A trial trained again with its configuration, seed and data, and held against what the record says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from captune.data_prep.store import PreparedData
from captune.model.config import unflatten
from captune.results.records import Record, load_records
from captune.results.report import without_nan
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import open_data
from captune.tuner.run.settings import read_config, settings_of, versions


@dataclass(frozen=True)
class Plan:
    """What is to be trained again. differences: of data and versions, as lines."""

    record: Record
    data: PreparedData
    threads: int
    backend: str
    differences: tuple[str, ...]


def prepare(run: RunFolder, number: int, *, force: bool) -> Plan:
    """Finds the trial and checks that it would be the same.

    Raises:
        RunError: no such trial, it trained no epoch, or data or versions differ and `force` is not given.
    """
    record = next((r for r in load_records(run) if r.number == number), None)
    if record is None:
        raise RunError(f"the run has no trial {number}; `captune trials {run}` lists them")
    if record.seed is None or not record.curve:
        raise RunError(f"trial {number} ({record.fate}) trained no epoch that could be trained again; choose another")
    settings = settings_of(run)
    data = open_data(settings["data"])
    backend = read_config(run).backend
    now = versions(backend)
    differences = [
        f"{name} was {old}, now it is {now.get(name, 'absent')}"
        for name, old in settings["versions"].items()
        if now.get(name) != old
    ]
    if data.manifest.fingerprint != settings["fingerprint"]:
        differences.append(f"{settings['data']} does not hold the data of the run")
    if differences and not force:
        raise RunError(f"trial {number} would not be the same: {'; '.join(differences)}; --force replays it anyway")
    return Plan(record, data, record.threads or 1, backend, tuple(differences))


def replay_trial(plan: Plan, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains as many epochs as the record has, and returns old and new mean F1 of each, and their differences."""
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    record = plan.record
    assert record.seed is not None
    epochs = train_trial(Job(unflatten(record.config), record.seed, record.origin), plan.data)
    rows = []
    for old, new in zip(record.curve, epochs, strict=False):
        say(f"epoch {new.epoch} of {record.epochs}")
        same = old.mean_f1 == new.mean_f1 or (math.isnan(old.mean_f1) and math.isnan(new.mean_f1))
        rows.append(
            {
                "epoch": new.epoch,
                "old": old.mean_f1,
                "new": new.mean_f1,
                "difference": 0.0 if same else abs(new.mean_f1 - old.mean_f1),
            }
        )
    found = {
        "trial": record.number,
        "epochs": rows,
        "largest_difference": max(row["difference"] for row in rows),
        "differences": list(plan.differences),
    }
    return dict(without_nan(found))
