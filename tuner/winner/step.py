"""How far work on a winner has come, as it crosses from the process that does it to the one that shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """So many epochs of so many. what: is being done. note: of the last one."""

    what: str
    done: int
    total: int
    note: str = ""


Message = str | Step
"""What such work says: a sentence that stays, or a step that the next one replaces."""
