"""How far features of frozen towers are computed, and how long the others take."""

from __future__ import annotations

from dataclasses import dataclass

from captune.tuner.space.units import clock

_STALLED = 5  # times that rows take at other times, after which nobody can say how long the others take


@dataclass(frozen=True)
class Features:
    """Rows whose frozen towers' features are there, of all. seconds_left: until all are; None while nobody can say."""

    rows: int
    total: int
    seconds_left: float | None = None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {clock(self.seconds_left)} left"
        return f"features: {self.rows:,} of {self.total:,} rows are computed{left}"


class FeaturesPace:
    """How long features still take, by how many came since they were looked at first. They come by the thousand."""

    def __init__(self) -> None:
        self._first = self._last = (0.0, 0)  # second of a clock, rows
        self._came = 0  # at once, the last time
        self._total = -1

    def look(self, rows: int, total: int, now: float) -> Features:
        """At so many of so many, at a second of a clock."""
        if total != self._total or rows < self._last[1]:  # others, or some were given up
            self._total, self._first, self._last = total, (now, rows), (now, rows)
        if rows > self._last[1]:
            self._came = rows - self._last[1]
            self._last = (now, rows)
        if self._last == self._first:
            return Features(rows, total)
        pace = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        quiet, usual = now - self._last[0], pace * self._came
        if quiet > _STALLED * usual:
            return Features(rows, total)
        return Features(rows, total, max(0.0, (total - rows) * pace - min(quiet, usual)))
