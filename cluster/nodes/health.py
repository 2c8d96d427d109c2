"""What a search knows of its nodes: their names, and which are given a rest. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

FAILURES = 3  # in a row
REST_SECONDS = 300.0


@dataclass
class NodeNames:
    """Tells nodes of one host apart: `host`, `host#2`, `host#3`, in the order in which they were first heard of."""

    _ids: dict[str, list[str]] = field(default_factory=dict)

    def of(self, host: str, node: str) -> str:
        """What a node with the id `node` is called."""
        ids = self._ids.setdefault(host, [])
        if node not in ids:
            ids.append(node)
        place = ids.index(node) + 1
        return host if place == 1 else f"{host}#{place}"


@dataclass
class NodeHealth:
    """Failures of nodes, in a row: one bad machine must not use up a search. Times are seconds of one clock."""

    _failures: dict[str, int] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)

    def failed(self, node: str, now: float) -> None:
        """A trial was lost on `node` by the node's own fault."""
        self._failures[node] = self._failures.get(node, 0) + 1
        if self._failures[node] >= FAILURES:
            self._until[node] = now + REST_SECONDS

    def well(self, node: str | None) -> None:
        """A trial reported an epoch from `node`."""
        if node is not None:
            self._failures.pop(node, None)
            self._until.pop(node, None)

    def resting(self, now: float) -> dict[str, float]:
        """Seconds that each resting node still rests."""
        return {node: until - now for node, until in self._until.items() if until > now}
