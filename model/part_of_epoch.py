"""How far an epoch is while it trains. No framework."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

Call = tuple[float, int]
"""Of steps that a framework takes at once: the second of a clock at which it returned, and all steps done by then."""
_MOST = 0.99  # of an epoch is taken for done before that was told


def seconds_of_step(calls: Sequence[Call]) -> float | None:
    """The median; of the first call, which compiles, nothing is known. None before there is another."""
    each = [(then - before) / (done - less) for (before, less), (then, done) in pairwise(calls)]
    return statistics.median(each) if each else None


@dataclass(frozen=True)
class PartOfEpoch:
    """The part of an epoch that is done.

    epoch: its number, from 1. share: of its steps, above 0 and up to 1. seconds: that all of them take, by those done;
    None before that can be told.
    """

    epoch: int
    share: float
    seconds: float | None = None

    @classmethod
    def after(cls, epoch: int, calls: Sequence[Call], steps: int) -> Self:
        """After some calls, one at least, of an epoch of so many steps."""
        step = seconds_of_step(calls)
        return cls(epoch, calls[-1][1] / steps, None if step is None else step * steps)

    @property
    def seconds_left(self) -> float | None:
        """Until all of it is trained."""
        return None if self.seconds is None else (1 - self.share) * self.seconds

    def later(self, seconds: float) -> PartOfEpoch:
        """The same after so many seconds in which nothing was told."""
        if not self.seconds or self.share >= _MOST:
            return self
        return replace(self, share=min(_MOST, self.share + seconds / self.seconds))


Heard = Callable[[PartOfEpoch], None]
"""Who is told how far an epoch is, once a second at most."""


def unheard(part: PartOfEpoch) -> None:
    """For callers who do not ask."""
