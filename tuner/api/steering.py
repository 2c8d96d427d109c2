"""What a search is asked for while it runs: checked at once, and left for its driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from captune.errors import ArgumentError
from captune.model.effects import key_of
from captune.model.flat import Flat, unflatten
from captune.reading import UnreadableError
from captune.results.attributes import COUNTED
from captune.results.journal import study_reader
from captune.results.optuna_private import enqueued_parameters
from captune.results.records import Record, load_records, record_of
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import open_data, reading
from captune.tuner.run.requests import Request, Requests
from captune.tuner.run.settings import RunSettings, check
from captune.tuner.space.config import read_configurations
from captune.tuner.space.dimensions import SpaceError
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.meaning import chosen_as_declared


def enqueue(location: str, configurations: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """See `Run.enqueue`."""
    file = None
    if isinstance(configurations, str | Path):
        file, chosen = read_configurations(Path(configurations))
    else:
        chosen = [dict(each) for each in ([configurations] if isinstance(configurations, Mapping) else configurations)]
    with reading(location) as run:
        settings = RunSettings.of(run)
        feasible = check(settings.search, open_data(settings.data, verify=False), settings.speed)
        known = _known(run, feasible)
        try:
            chosen = chosen_as_declared(chosen)
            feasible.new(chosen, known)
        except SpaceError as error:
            if file is not None:
                raise file.error(str(error), *error.location) from None
            raise ArgumentError("configurations", ": ".join((*error.location, str(error)))) from None
        Requests(run).add(Request(configurations=tuple(chosen)))
    return len(chosen)


def _known(run: RunFolder, feasible: FeasibleSpace) -> dict[bytes, str]:
    """What is tried or waits to be, by `key_of`, in words."""
    waiting: list[Flat] = []
    requests = Requests(run)
    for name in requests.names():  # before the study, into which the driver takes them
        with suppress(UnreadableError, RunError, SpaceError):  # it leaves one, or has taken it by now
            waiting += feasible.chosen(requests.read(name).configurations)
    tried = dict[bytes, str]()
    for trial in study_reader(run)():
        record = record_of(trial)
        if record is not None and record.seed is not None:
            tried[key_of(unflatten(record.config))] = f"trial {record.number}"
        elif record is not None and (parameters := enqueued_parameters(trial)):
            waiting.append(parameters)
    waits = dict[bytes, str]()
    for parameters in waiting:
        with suppress(KeyError, ValidationError):  # of an earlier captune, whose sampler drew what was not named
            waits[key_of(feasible.bind(feasible.space.at(parameters)))] = "one that waits to be tried"
    return waits | tried


def trials_needed(location: str) -> int | None:
    """See `Run.trials_needed`."""
    with reading(location) as run:
        most, requests = RunSettings.of(run).search.trials, Requests(run)
        needed = sum(record.fate in (*COUNTED, "running", "waiting") for record in load_records(run))
        for name in requests.names():
            with suppress(UnreadableError, RunError):  # the driver leaves it, or has taken it up by now
                needed += len(requests.read(name).configurations)
    return needed if most is not None and needed > most else None


def stop(location: str, record: Record) -> None:
    """See `Run.stop`."""
    _ask(location, record, "stop")


def pin(location: str, record: Record) -> None:
    """See `Run.pin`."""
    _ask(location, record, "pin")


def _ask(location: str, record: Record, what: Literal["stop", "pin"]) -> None:
    if record.fate != "running":
        raise RunError(f"trial {record.number} does not run, it is {record.fate}: there is nothing to {what}")
    with reading(location) as run:
        Requests(run).add(Request(**{what: record.number}))
