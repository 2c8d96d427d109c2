"""What is asked of a refit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captune.tuner.winner.choose import Count


@dataclass(frozen=True)
class RefitPlan:
    """trial: instead of the best. seeds: how often all is trained. anyway: also while another process searches the run.

    average: how many networks are averaged, "auto" for as many as validation clearly gains by. confirm: seconds for
    training the best trials again with other seeds, "auto" for a fifth of the search's; 0 for taking its best.
    """

    trial: int | None = None
    seeds: int = 1
    anyway: bool = False
    average: Count = 1
    confirm: float | Literal["auto"] = 0.0
