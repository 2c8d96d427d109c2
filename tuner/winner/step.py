"""How far work on a winner has come, as it crosses from the process that does it to the one that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captune.model.part_of_epoch import PartOfEpoch

if TYPE_CHECKING:
    from captune.model.training import Training


@dataclass(frozen=True)
class Step:
    """So many epochs, with the part of one that trains, of so many. what: is being done. note: of the last one."""

    what: str
    done: float
    total: int
    note: str = ""


Message = str | Step
"""What such work says: a sentence that stays, or a step that the next one replaces."""


class EpochSteps:
    """Tells of the epochs of one training.

    Args:
        what: is being done. total: epochs of all of it, of which `before` come before this training.
    """

    def __init__(self, say: Callable[[Message], None], what: str, total: int, before: int = 0) -> None:
        self._say, self._what, self._total, self._before = say, what, total, before
        self._note = ""
        self._tell(0)

    def train(self, training: Training, number: int) -> float:
        """Trains epoch `number`, from 1; returns its loss."""
        loss = training.epoch(number, self._tell_part)
        self._note = f"loss {loss:.4f}"
        self._tell(number)
        return loss

    def _tell_part(self, part: PartOfEpoch) -> None:
        self._tell(part.epoch - 1 + part.share)

    def _tell(self, done: float) -> None:
        self._say(Step(self._what, self._before + done, self._total, self._note))
