"""When trials ran, on the clock of their search."""

from __future__ import annotations

from collections.abc import Sequence

from captune.results.records import Record


def spans(records: Sequence[Record]) -> dict[int, tuple[float, float]]:
    """By trial, seconds of search at which it began and ended, of those that reported.

    Time in which no trial ran does not count: a search that was resumed a day later did not take a day.
    """
    ran = [(r.began, r.began + _seconds(r), r.number) for r in records if r.began and r.curve]
    ran.sort()
    of_search: dict[int, tuple[float, float]] = {}
    idle = latest = ran[0][0] if ran else 0.0
    for began, ended, number in ran:
        idle += max(0.0, began - latest)
        latest = max(latest, ended)
        of_search[number] = (began - idle, ended - idle)
    return of_search


def _seconds(record: Record) -> float:
    """That it ran: of one that still does, those of its epochs."""
    return max(0.0, sum(record.spent.values()) if record.seconds is None else record.seconds)
