"""How searches share a cluster: how many slots each may hold now, by weight. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

TURN = 30.0
"""Slot-seconds that a search must be owed more than another before it gets a slot that both have part of: a worker
takes seconds to start, and it cannot be handed on."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """What a search tells the others on its cluster.

    Args:
        key: tells it from them, the same for all who read it.
        run: where its run is, for people.
        share: its weight, above 0.
        slots: how many trials of its kind the cluster holds, at least 1. Searches whose trials ask for different
            things are compared by the part of their own slots that they hold.
        wanted: slots that it would hold if it were alone. held: that it holds.
        owed: slot-seconds that it had less than its part while it wanted them; below 0 where it had more.
    """

    key: str
    run: str
    share: float
    slots: int
    wanted: int
    held: int
    owed: float = 0.0

    def later(self, seconds: float, part: float) -> Claim:
        """The same after so many seconds in which `part` of the cluster, see `parts`, was its own."""
        return replace(self, owed=self.owed + seconds * (part * self.slots - self.held))


def parts(claims: Sequence[Claim]) -> list[float]:
    """Which part of the cluster is whose, from 0 to 1: by weight, and what one does not want is given on by weight.

    Weighted max-min fairness (Bertsekas and Gallager, 1992, Data Networks, 6.5.2).
    """
    wanted = [claim.wanted / claim.slots for claim in claims]
    shares = [0.0] * len(claims)
    left, weight = 1.0, sum(claim.share for claim in claims)
    for place in sorted(range(len(claims)), key=lambda place: wanted[place] / claims[place].share):
        shares[place] = min(wanted[place], left * claims[place].share / weight)
        left, weight = left - shares[place], weight - claims[place].share
    return shares


def allotted(claims: Sequence[Claim]) -> list[int]:
    """How many slots each may hold when all have taken and given back what they are to: the same for all who ask.

    Each has the whole slots of its part. A slot that several have part of goes to the one that is owed most, and stays
    there until another is owed more by TURN. No slot is left that one wants.
    """
    ideal = [part * claim.slots for part, claim in zip(parts(claims), claims, strict=True)]
    whole = [math.floor(count + _ROUNDING) for count in ideal]
    counts = list(whole)

    def precedence(place: int) -> tuple[bool, float, str]:
        claim = claims[place]
        owed = claim.owed + (TURN if claim.held > whole[place] else 0.0)
        return counts[place] < ideal[place] - _ROUNDING, owed / claim.slots, claim.key

    while True:
        left = 1 - sum(count / claim.slots for count, claim in zip(counts, claims, strict=True))
        fitting = [
            place
            for place, claim in enumerate(claims)
            if counts[place] < claim.wanted and 1 / claim.slots <= left + _ROUNDING
        ]
        if not fitting:
            return counts
        counts[max(fitting, key=precedence)] += 1


def may_hold(own: Claim, others: Sequence[Claim]) -> int:
    """How many slots a search may hold now: what is allotted to it, as far as others have given it back."""
    claims = [own, *others]
    free = 1 - sum(claim.held / claim.slots for claim in claims)
    return min(allotted(claims)[0], own.held + max(0, math.floor(free * own.slots + _ROUNDING)))
