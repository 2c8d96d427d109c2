"""How a running search looks: lines for a terminal of some width and height, or one line for a log. Pure."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from captune.errors import one_line, visible
from captune.model.config import TITLES
from captune.results.attributes import FATES
from captune.tuner.decisions.progress import Progress, RunningTrial
from captune.tuner.space.units import clock

if TYPE_CHECKING:
    from rich.console import RenderableType

Line = tuple[str, str]  # with its style

_LEVELS = "▁▂▃▄▅▆▇█"
_CURVE, _NODE = 24, 16  # characters at most
_BAR = 10  # characters at least
_WITH_WORDS = 60  # characters of a terminal


def view(progress: Progress, width: int, height: int, *, ascii_only: bool = False) -> RenderableType:
    """A bar, what is done, what is best, what runs and what is waited for.

    At most `height` lines, none longer than `width` characters; the trials that have no room are counted.

    Args:
        ascii_only: without curves, for terminals whose letters are not Unicode's.
    """
    from rich.console import Group
    from rich.text import Text

    above = [(line, style) for text, style in _sentences(progress) for line in textwrap.wrap(text, width)]
    below = [(line, "yellow") for text in progress.notes for line in textwrap.wrap(one_line(text), width)]
    trials, left_out = chosen(progress.running, height - 1 - len(above) - len(below))
    if left_out:
        below = [(f"+{left_out} more", "dim"), *below]
    lines = [*above, *_rows(trials, progress, width, curves=not ascii_only), *below][: max(0, height - 1)]
    texts = (Text(visible(line), style, no_wrap=True, overflow="ellipsis") for line, style in lines)
    return Group(_bar(progress, width), *texts)


def in_words(progress: Progress) -> str:
    """How it stands, in one line."""
    phases = Counter(trial.phase for trial in progress.running if trial.phase != "training")
    parts = [
        _listed(_goal(progress)),
        *(text for text, _ in _sentences(progress)),
        _counts((count, phase) for phase, count in phases.items()),
        "" if progress.first_epoch_left is None else f"the first in about {clock(progress.first_epoch_left)}",
        *map(one_line, progress.notes),
    ]
    return "; ".join(filter(None, parts))


def chosen(running: Sequence[RunningTrial], room: int) -> tuple[list[RunningTrial], int]:
    """The trials for which there are lines, the best ones, and how many are left out, which takes a line itself."""
    if len(running) <= room:
        return list(running), 0
    best_first = sorted(running, key=lambda trial: (-_last(trial), trial.number))
    numbers = {trial.number for trial in best_first[: max(0, room - 1)]}
    return [trial for trial in running if trial.number in numbers], len(running) - len(numbers)


def curve(scores: Sequence[float], low: float, high: float, width: int) -> str:
    """Scores as bars of one character each, the lowest bar at `low`, the highest at `high`.

    Of more than `width` epochs some are left out, never the last. One whose score is no number is a blank.
    """
    count = min(len(scores), max(0, width))
    at = (scores[(place + 1) * len(scores) // count - 1] for place in range(count))
    top = len(_LEVELS) - 1
    return "".join(
        _LEVELS[round(top * (score - low) / (high - low)) if high > low else 0] if math.isfinite(score) else " "
        for score in at
    )


def _bar(progress: Progress, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    said = Text("  ".join(_goal(progress)), "bold", no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=1.0, completed=progress.share or 0.0, pulse=progress.share is None)
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    cells: list[RenderableType] = [bar, said] if width >= len(said) + 2 + _BAR else [said]
    for cell in cells:
        grid.add_column(ratio=1 if cell is bar else None)
    grid.add_row(*cells)
    return grid


def _goal(progress: Progress) -> list[str]:
    """How far it is, and how long it takes until the trials are done or the time is up, whichever comes first."""
    estimate, limit = progress.estimate, progress.seconds_left
    of_all = f" of {progress.wanted}" if progress.wanted else ""
    done = f"{progress.counted}{of_all} trial{'s' * ((progress.wanted or progress.counted) != 1)}"
    if limit is not None and (estimate is None or limit <= estimate):
        return [done, f"{clock(limit)} left (time limit)"]
    if estimate is not None:
        return [done, f"about {clock(estimate)} left"]
    return [done] if progress.slots or progress.counted else []


def _sentences(progress: Progress) -> list[Line]:
    """What is above the trials."""
    minutes, fates, best = progress.seconds_at_work / 60, progress.fates, progress.best
    counts = ((progress.counted - progress.counted_before, "trials/min"), (progress.epochs, "epochs/min"))
    rates = [
        f"{count / minutes:.{0 if count >= 100 * minutes else 1}f} {unit}"
        for count, unit in counts
        if count and progress.seconds_at_work >= 1
    ]
    refused = _counts([(fates.get("over_budget", 0), "over_budget"), (progress.impossible, "infeasible")])
    nodes = f" on {progress.nodes} nodes" if progress.nodes > 1 else ""
    lines = [
        (_listed([f"{clock(progress.seconds)} elapsed", *rates]), ""),
        (_counts((fates.get(fate, 0), fate) for fate in FATES if fate != "over_budget"), ""),
        (refused and f"refused: {refused}", "dim"),
    ]
    if best is not None:
        size = f"{best.weights_bytes / 2**20:.2f} MiB"
        lines.append((f"best {TITLES[progress.metric]} {best.score:.4f}, {size}, trial {best.trial}", "bold green"))
    if progress.slots:
        cost = "" if progress.price is None else f", {progress.slot_hours * progress.price:.2f} at {progress.price:g}"
        spent = f", {progress.slot_hours:.2f} slot hours{cost}" if progress.slot_hours >= 0.005 else ""
        lines.append((f"{len(progress.running)} of {progress.slots} slots{nodes}{spent}", ""))
    return [line for line in lines if line[0]]


def _rows(trials: Sequence[RunningTrial], progress: Progress, width: int, *, curves: bool) -> list[Line]:
    """A line for each trial; all curves have one scale."""
    finite = [score for trial in trials for score in trial.scores if math.isfinite(score)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    digits = max((len(str(trial.number)) for trial in trials), default=0)
    epochs = max((len(str(trial.epochs)) for trial in trials), default=0)
    longest = max((len(trial.scores) for trial in trials), default=0)
    taken = len("trial   epoch /  0.0000  ") + digits + 2 * epochs + (_NODE + 2 if progress.nodes > 1 else 0)
    taken += max((2 + len(_part(trial, width)) for trial in trials if trial.scores), default=0)
    room = max(0, min(_CURVE, longest, width - taken)) if curves else 0
    lines = []
    for trial in trials:
        cells = [f"trial {trial.number:>{digits}}", trial.phase]
        if trial.scores:
            at = f"{len(trial.scores):>{epochs}}/{trial.epochs:<{epochs}}"
            cells[1:] = [f"epoch {at}", f"{trial.scores[-1]:<6.4f}", f"{curve(trial.scores, low, high, room):<{room}}"]
        line = "  ".join(cells)
        if part := _part(trial, width):
            line += f"  {part}" if trial.scores else f", {part}"
        if progress.nodes > 1 and trial.node:
            line += f"  {one_line(trial.node)}"
        is_best = progress.best is not None and trial.number == progress.best.trial
        lines.append((line.rstrip(), "green" if is_best else ""))
    return lines


def _part(trial: RunningTrial, width: int) -> str:
    """How far the epoch is that it trains, in few words on a narrow terminal."""
    part = trial.part
    if part is None:
        return ""
    if trial.scores:
        return f"{part.share:.0%} of epoch {part.epoch}" if width >= _WITH_WORDS else f"{part.share:.0%}"
    left = part.seconds_left
    return f"{part.share:.0%}" if left is None else f"{part.share:.0%}, {clock(left)} left"


def _counts(counts: Iterable[tuple[int, str]]) -> str:
    return _listed(f"{count} {name}" for count, name in counts if count)


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _last(trial: RunningTrial) -> float:
    """The score by which it is among the best: the last that is a number."""
    return next((score for score in reversed(trial.scores) if math.isfinite(score)), -math.inf)
