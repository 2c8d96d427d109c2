"""What happened in a run, one thing after another, as its journal has it in the order of its lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from captune.results.attributes import epochs_of
from captune.results.optuna_private import Operation

_WAITING = 4  # Optuna's number of the state


@dataclass(frozen=True)
class Began:
    """A search, or a resume: another process writes from here on."""


@dataclass(frozen=True)
class Enqueued:
    """A person's configuration, by its request."""

    request: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Pinned:
    """A person lets a trial train to its end."""

    trial: int


@dataclass(frozen=True)
class Admitted:
    """A trial was handed out."""

    trial: int


@dataclass(frozen=True)
class Reported:
    """An epoch of its own, not one that it took over."""

    trial: int
    epoch: int


@dataclass(frozen=True)
class Ended:
    """A trial that was handed out has its fate, None where nothing of it was begun. tries: of the attempt that it is
    enqueued for once more, None where it is not; gpus: of that."""

    trial: int
    fate: str | None
    reason: str | None
    tries: int | None = None
    gpus: float | None = None


Event = Began | Enqueued | Pinned | Admitted | Reported | Ended


def history_of(logs: Iterable[Mapping[str, Any]]) -> list[Event]:
    """The events of a journal.

    Args:
        logs: its lines, as `captune.results.journal.logs` reads them.
    """
    events: list[Event] = []
    writer, order = None, 0
    reasons: dict[int, str] = {}
    admitted: set[int] = set()
    requests: set[str] = set()
    for log in logs:
        if log["worker_id"] != writer:
            writer = log["worker_id"]
            events.append(Began())
        if log["op_code"] == Operation.CREATE_TRIAL:
            attributes = log.get("user_attrs", {})
            request, last = attributes.get("request"), events[-1]
            if log.get("state") == _WAITING and request is not None and request not in requests:
                requests.add(request)
                events.append(Enqueued(request, log["system_attrs"]["fixed_params"]))
            if "replaces" in attributes and isinstance(last, Ended):
                events[-1] = replace(last, tries=attributes["tries"], gpus=attributes.get("gpus"))
        if log["op_code"] != Operation.SET_TRIAL_USER_ATTR:
            continue
        trial = log["trial_id"]
        for name, value in log["user_attr"].items():
            if name == "seed":
                admitted.add(trial)
                events.append(Admitted(trial))
            elif name == "pinned":
                events.append(Pinned(trial))
            elif name == "reason":
                reasons[trial] = value
            elif name in ("fate", "void") and trial in admitted:
                reason = reasons.get(trial) if name == "fate" else value
                events.append(Ended(trial, value if name == "fate" else None, reason))
            for epoch, place in epochs_of({name: value}).items():
                if place > order:
                    order = place
                    events.append(Reported(trial, epoch.epoch))
    return events
