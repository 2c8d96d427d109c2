"""What crosses between the driver and its workers: trials handed out, epochs reported, and how trials end.

Frozen values. Ray Tune carries them and does not look inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from captune.model.metrics import Epoch
from captune.tuner.training.job import Job

# What to do with a free slot


@dataclass(frozen=True)
class Assignment:
    """A trial to run.

    gpus: that it runs on, a share of one or whole ones. resting: seconds that nodes, by id, are to be left alone yet.
    """

    job: Job
    gpus: float = 0.0
    resting: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wait:
    """Nothing to run now; a trial may follow. trouble: what keeps trials from starting, None where that is as usual."""

    trouble: str | None = None


@dataclass(frozen=True)
class Done:
    """Nothing runs and nothing follows."""


# What a worker says


@dataclass(frozen=True)
class Worker:
    """Who speaks. node: host name of its machine. node_id: Ray's."""

    node: str
    node_id: str


@dataclass(frozen=True)
class Report:
    """An epoch was trained and scored. complaint: why the last checkpoint came to nothing."""

    worker: Worker
    epoch: Epoch
    complaint: str | None = None


# How a trial ends


@dataclass(frozen=True)
class Completed:
    """After the report before: it was the last, or halving said stop."""


@dataclass(frozen=True)
class Failed:
    """The trial raised. fatal: every trial would. out_of_memory: of the GPU or the machine."""

    reason: str
    traceback: str
    fatal: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True)
class NodeBroken:
    """The worker could not be made ready on its node."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Preempted:
    """Its node is about to be taken away; the checkpoint is written."""

    worker: Worker


@dataclass(frozen=True)
class TurnedAway:
    """Its node rests; nothing was begun."""

    worker: Worker


@dataclass(frozen=True)
class WorkerDied:
    """Whatever took the process along: a killed worker, a lost node."""

    reason: str


@dataclass(frozen=True)
class CodeMissing:
    """The worker cannot import captune: no worker of this search can."""

    reason: str


End = Completed | Failed | NodeBroken | Preempted | TurnedAway | WorkerDied | CodeMissing
Message = Report | Failed | NodeBroken | Preempted | TurnedAway
"""What a step of a worker gives."""
