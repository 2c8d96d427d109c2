"""How far an epoch is while it trains. No framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self


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
    def after(cls, epoch: int, share: float, called: Sequence[float]) -> Self:
        """By the calls of its steps, all but the last of equally many. The first one compiles, and tells no pace.

        Args:
            called: the second of a clock at which each had returned, one at least.
        """
        later = len(called) - 1
        return cls(epoch, share, (called[-1] - called[0]) / later * len(called) / share if later else None)


Heard = Callable[[PartOfEpoch], None]
"""Who is told how far an epoch is, once a second at most."""


def unheard(part: PartOfEpoch) -> None:
    """For callers who do not ask."""
