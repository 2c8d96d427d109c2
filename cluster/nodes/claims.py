"""Searches on one cluster tell each other what they want and hold, at its head; a claim is gone with its driver."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from captune.cluster.nodes import ray_private
from captune.cluster.nodes.shares import Claim, may_hold, parts

_NAMESPACE = b"captune.claims.1"  # another number for another form


def claims() -> list[Claim]:
    """Of the searches on the cluster that this process has joined, by their keys.

    A claim holds as long as Ray has its driver for one that runs. A driver that was killed is known to be gone in less
    than a second, one whose node was lost when Ray gives the node up, and its trials' CPUs and GPUs with it.
    """
    stored = ray_private.stored(_NAMESPACE)
    running = ray_private.running_jobs() if stored else set()
    for key in stored.keys() - running:
        ray_private.remove(_NAMESPACE, key)
    return [Claim(**json.loads(stored[key])) for key in sorted(stored.keys() & running)]


class Sharing:
    """One search among those of a cluster that this process has joined.

    Args:
        run: where its run is. share: its weight.
    """

    def __init__(self, run: str, share: float) -> None:
        import ray

        self._key = ray.get_runtime_context().get_job_id()
        self._run, self._share = run, share
        self._owed = 0.0
        self._asked: float | None = None  # when it last looked at the others
        self.others: list[Claim] = []

    def may_hold(self, *, slots: int, wanted: int, held: int, now: float) -> int | None:
        """How many slots it may hold now; None for any number, where no other search is there. Tells the others.

        Args:
            slots, wanted, held: see Claim.
            now: seconds of one clock.
        """
        self.others = [claim for claim in claims() if claim.key != self._key]
        own = Claim(self._key, self._run, self._share, max(1, slots), wanted, held)
        if self.others and self._asked is not None:
            own = replace(own, owed=self._owed).later(now - self._asked, parts([own, *self.others])[0])
        self._owed, self._asked = own.owed, now
        ray_private.store(_NAMESPACE, self._key, json.dumps(asdict(own)).encode())
        return may_hold(own, self.others) if self.others else None

    @property
    def told(self) -> str:
        """Who is there, for people."""
        if not self.others:
            return "no other search is on this cluster: all of it is this one's"
        count, total = len(self.others), self._share + sum(claim.share for claim in self.others)
        searches = "another search is" if count == 1 else f"{count} other searches are"
        return f"{searches} on this cluster: this one has {self._share / total:.0%} of it, by --share {self._share:g}"
