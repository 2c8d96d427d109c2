"""The best score for each size."""

from __future__ import annotations

from collections.abc import Sequence

from captune.model.size import Budget
from captune.results.attributes import SCORED
from captune.results.records import Record


def frontier(records: Sequence[Record], budget: Budget) -> list[Record]:
    """The scored trials that no other beats: the best score for each size, smallest first, each better than the last.

    Args:
        records: all trials of a run.
        budget: says which bytes count; trials over it are left out.
    """
    unbeaten: list[Record] = []
    for record in sorted(
        (r for r in records if qualifies(r, budget)),
        key=lambda r: (budget.bytes_of(r), -(r.score or 0.0), r.number),
    ):
        if not unbeaten or (record.score or 0.0) > (unbeaten[-1].score or 0.0):
            unbeaten.append(record)
    return unbeaten


def qualifies(record: Record, budget: Budget) -> bool:
    """Whether a trial has a score that may win inside the budget."""
    return record.fate in SCORED and record.score is not None and budget.holds(record)
