"""How many trials run at once: arithmetic on what nodes have and a trial asks for. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from captune.errors import UsageError

_SPARE = 1.2  # of the measured peak: pools of memory have gaps
_ROUNDING = 1e-9  # 1 / 0.1 and 2 / 0.2 come out whole


class ResourceError(UsageError):
    """A request that no node can meet."""


@dataclass(frozen=True)
class Node:
    """What one machine offers: CPUs and GPUs, logical, as Ray counts them; its host name, and its id for Ray."""

    cpus: float
    gpus: float
    name: str = ""
    id: str = ""


@dataclass(frozen=True)
class Request:
    """What one trial asks for. A fraction of a GPU lets several trials share it."""

    cpus: float
    gpus: float

    def __post_init__(self) -> None:
        if not (self.cpus >= 0 and self.gpus >= 0 and 0 < self.cpus + self.gpus < math.inf):
            raise ResourceError(
                f"a trial must ask for CPUs or GPUs, got {self.cpus} and {self.gpus}; try --cpus-per-trial 1"
            )
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ResourceError(f"GPUs per trial must be a whole number above 1, got {self.gpus}")

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Room:
    """Where trials fit. slots: at once, on all nodes. nodes: with room for one at least."""

    slots: int
    nodes: int

    @classmethod
    def of(cls, nodes: Sequence[Node], request: Request) -> Room:
        """A trial never spans nodes."""
        fits = [_on(node, request) for node in nodes]
        return cls(sum(fits), sum(count > 0 for count in fits))


def slots(nodes: Sequence[Node], request: Request) -> int:
    """Trials that fit at once.

    Raises:
        ResourceError: not one fits on any node.
    """
    if (why := shortage(nodes, request)) is not None:
        raise ResourceError(f"{why}; or, where an autoscaler adds nodes, say with --slots how many trials may run")
    return Room.of(nodes, request).slots


def shortage(
    nodes: Sequence[Node],
    request: Request,
    asker: str = "a trial",
    options: str = "--cpus-per-trial or --gpus-per-trial",
) -> str | None:
    """Why not one request fits on any node; None where one does.

    Args:
        asker: who asks, and options: what to lower, for the message.
    """
    if Room.of(nodes, request).slots:
        return None
    largest = max(nodes, key=lambda n: (n.gpus, n.cpus), default=Node(0, 0))
    return (
        f"{asker} asks for {request}, the largest of {len(nodes)} nodes has {largest.cpus:g} CPUs and "
        f"{largest.gpus:g} GPUs; lower {options}"
    )


def limits(nodes: Sequence[Node], request: Request) -> str:
    """How many trials run at once, and what keeps it from being more."""
    room = Room.of(nodes, request)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    with_room = [node for node in nodes if _on(node, request)]
    by_gpu = sum(_on(node, request) == _by_gpu(node, request.gpus) for node in with_room) if request.gpus else 0
    bound = "GPUs" if by_gpu > len(with_room) / 2 else "CPUs"
    return (
        f"{room.slots} trials at once, each with {request}; {len(nodes)} nodes have {cpus:g} CPUs and {gpus:g} GPUs, "
        f"and {bound} are what limits it"
    )


def share_for(peak: int, total: int, overhead: int) -> float:
    """The share of a GPU for trials of which the largest was measured: as many as fit side by side, with room to spare.

    Args:
        peak: bytes of arrays at most. total: of the GPU. overhead: that a process takes beside its arrays.

    Returns:
        1 / n, cut after four digits, as finely as Ray counts; 1.0 where not even two fit.
    """
    together = int(total / (_SPARE * peak + overhead))
    return math.floor(10_000 / max(1, together)) / 10_000


def default_request(nodes: Sequence[Node], *, cpus: float | None, gpus: float | None) -> Request:
    """The request with what the user left open filled in.

    GPUs: 1 where any node has one, else 0. CPUs: an even share of a node among its GPU trials; on CPUs alone 1, as
    several single-threaded trials get more done than one with many threads.
    """
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    if cpus is None:
        shares = [node.cpus // _by_gpu(node, gpus) for node in nodes if 0 < gpus <= node.gpus]
        cpus = max(1.0, min(shares, default=1.0))
    return Request(cpus, gpus)


def _on(node: Node, request: Request) -> int:
    by_cpu = node.cpus / request.cpus + _ROUNDING if request.cpus else math.inf
    return int(min(by_cpu, _by_gpu(node, request.gpus) if request.gpus else math.inf))


def _by_gpu(node: Node, gpus: float) -> int:
    # Fractions pack on each GPU by itself: three trials of 0.4 need two GPUs, not 1.2.
    return int(node.gpus) * int(1 / gpus + _ROUNDING) if gpus <= 1 else int(node.gpus // gpus)
