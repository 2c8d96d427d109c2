"""How many trials run at once: arithmetic on what nodes have and a trial asks for. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9  # 1 / 0.1 and 2 / 0.2 come out whole


class ResourceError(ValueError):
    """A request that no node can meet."""


@dataclass(frozen=True)
class Node:
    """What one machine offers: CPUs and GPUs, logical, as Ray counts them."""

    cpus: float
    gpus: float


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


def able(nodes: Sequence[Node], request: Request) -> int:
    """Nodes on which at least one trial fits."""
    return sum(_on(node, request) > 0 for node in nodes)


def slots(nodes: Sequence[Node], request: Request) -> int:
    """Trials that fit on all nodes at once; a trial never spans nodes.

    Raises:
        ResourceError: it fits on none.
    """
    found = sum(_on(node, request) for node in nodes)
    if found == 0:
        largest = max(nodes, key=lambda n: (n.gpus, n.cpus), default=Node(0, 0))
        raise ResourceError(
            f"a trial asks for {request.cpus:g} CPUs and {request.gpus:g} GPUs, the largest of {len(nodes)} nodes has "
            f"{largest.cpus:g} CPUs and {largest.gpus:g} GPUs; lower --cpus-per-trial or --gpus-per-trial"
        )
    return found


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
