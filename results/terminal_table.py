"""Trials as a table for people, as wide as their terminal: what fits is shown whole, the rest is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from captune.errors import visible
from captune.results import table
from captune.results.attributes import SCORED
from captune.results.baselines import Baseline, of_validation
from captune.results.columns import column, heading, several
from captune.results.explained_variance import explained
from captune.results.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

    from captune.model.config import Metric

LEAST_COLUMNS = ("number", "fate", "mean_f1", "weights_bytes")
"""Always shown, whole in 60 columns and more; beside them the metric of the search and what is sorted by."""
FURTHER_COLUMNS = ("epochs", "seconds")
"""Shown where there is room, before settings."""
BEST = "*"
COLOURS = {
    "complete": "green",
    "over_budget": "yellow",
    "diverged": "red",
    "failed": "red",
    "lost": "magenta",
    "running": "cyan",
    "waiting": "dim",
}
"""Of fates, as rich names them; `stopped`, the most frequent, has none."""
_GAP = 2  # between two columns
_WIDEST = 60  # characters of a column that is never broken
_LEFT = ("fate", "node", "reason")


def terminal(
    records: Sequence[Record],
    *,
    width: int | None = None,
    baselines: Sequence[Baseline] = (),
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> RenderableType:
    """The trials: score and size, then the settings that vary, those first that explain most of the scores.

    The best trial inside the budget has a star beside its number. Settings that do nothing in a trial are blank.

    Args:
        width: characters of a line, 60 or more for a table that is not broken; None for as many as it takes.
        baselines: those of validation are named below the trials.
        columns: those named instead, "all" for all; more than fit go on in further tables below.

    Raises:
        RunError, ArgumentError: as `table.frame`.
    """
    from rich.console import Group
    from rich.text import Text

    best, rows = best_so_far(records), table.frame(records, sort=sort, where=where, limit=limit)
    rows = _without_idle(rows, records)
    metric: Metric = next((record.metric for record in records if record.curve), "mean_f1")
    if columns is None:
        settings = list(dict.fromkeys(name for record in records for name in record.config))
        settings = [name for name in settings if rows[name].dropna().map(repr).nunique() > 1]
        varying = _by_importance(rows, records, settings)
        asked = [] if sort is None else [column(sort.removeprefix("-"), [str(name) for name in rows])]
        least = list(dict.fromkeys([*LEAST_COLUMNS[:-1], metric, *asked, LEAST_COLUMNS[-1]]))
        names = list(dict.fromkeys([*least, *FURTHER_COLUMNS, *varying]))
    else:
        names = several(columns, [str(name) for name in rows])
    cells = {name: _cells(name, rows[name]) for name in names}
    if best is not None and "number" in cells:
        cells["number"] = [f"{BEST}{text}" if text == str(best.number) else text for text in cells["number"]]
    if columns is None:
        parts = [_fitting(cells, width, len(least))]
        hidden = len(names) - len(parts[0])
    else:
        if list(columns) == ["all"]:
            cells = {name: texts for name, texts in cells.items() if any(texts)} or cells
        parts, hidden = list(_parts(cells, width)), 0
    is_best = [best is not None and number == best.number for number in rows["number"]]
    views = [_view({name: cells[name] for name in part}, list(rows["fate"]), is_best) for part in parts]
    footer = _footer(records, best, of_validation(baselines), metric, hidden)
    return Group(*views, *(Text(visible(line)) for line in footer))


def _able(records: Sequence[Record]) -> list[Record]:
    """Those with a score inside the budget so far."""
    return [r for r in records if r.fate in (*SCORED, "running") and r.score is not None and r.margin_bytes >= 0]


def best_so_far(records: Sequence[Record]) -> Record | None:
    """The highest score so far inside the budget, the smallest of equal ones: what a refit would choose at the end."""
    return max(_able(records), key=lambda r: (r.score or 0.0, r.margin_bytes, -r.number), default=None)


def _without_idle(rows: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """The rows with None where a setting does nothing."""
    from captune.model.effects import idle_in

    places_of: dict[str, list[Any]] = {}
    for place in rows.index:
        for name in idle_in(records[place].config) & set(rows.columns):
            places_of.setdefault(name, []).append(place)
    rows = rows.astype(dict.fromkeys(places_of, object))
    for name, places in places_of.items():
        rows.loc[places, name] = None
    return rows


def _by_importance(rows: pd.DataFrame, records: Sequence[Record], names: list[str]) -> list[str]:
    scored = [place for place in rows.index if records[place].score is not None]
    looked_at = rows.loc[scored, names]
    columns = {name: [None if value != value else value for value in looked_at[name]] for name in names}
    return list(explained(columns, [records[place].score or 0.0 for place in scored]))


def _cells(name: str, values: pd.Series[Any]) -> list[str]:
    """What stands in a column; numbers with their points below each other."""
    texts = [visible(table.cell(name, value)) for value in values]
    if name in _LEFT:
        return texts
    places = [len(text) - text.find(".") if "." in text and _is_number(text) else 0 for text in texts]
    most = max(places, default=0)
    return [
        text + " " * (most - place) if _is_number(text) else text for text, place in zip(texts, places, strict=True)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _width(name: str, cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    lines = (line for cell in cells for line in cell.split("\n"))
    return max([cell_len(visible(heading(name))), *map(cell_len, lines)])


def _fitting(cells: Mapping[str, Sequence[str]], width: int | None, least: int) -> list[str]:
    """The first `least` columns, which are always shown, and of the others the first that fit beside them."""
    shown: list[str] = []
    taken = -_GAP
    for place, name in enumerate(cells):
        taken += _width(name, cells[name]) + _GAP
        if width is not None and taken > width and place >= least:
            break
        shown.append(name)
    return shown


def _parts(cells: Mapping[str, Sequence[str]], width: int | None) -> Iterator[list[str]]:
    """Columns in their order, parted where the width ends; the number of the trial begins each part."""
    part: list[str] = []
    taken = 0
    for name, texts in cells.items():
        own = _width(name, texts) + _GAP
        if part and width is not None and taken + own - _GAP > width:
            yield part
            part = [each for each in part if each == "number"]
            taken = sum(_width(each, cells[each]) + _GAP for each in part)
        part.append(name)
        taken += own
    yield part


def _view(cells: Mapping[str, Sequence[str]], fates: Sequence[str], is_best: Sequence[bool]) -> Table:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    view = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    shown: dict[str, Sequence[str]] = {}
    for name, texts in cells.items():
        width = _width(name, texts)
        head, shown[name] = visible(heading(name)), texts
        if name not in _LEFT:  # rich would take away the blanks that keep points below each other
            head, shown[name] = head.rjust(width), [" " * (width - cell_len(text)) + text for text in texts]
        # What people write, as a reason, may be wider than any terminal.
        view.add_column(Text(head), no_wrap=width <= _WIDEST and name not in ("reason", "node"), overflow="fold")
    for row, (fate, best) in enumerate(zip(fates, is_best, strict=True)):
        colour = COLOURS.get(fate, "")
        view.add_row(
            *(Text(texts[row], style=colour if name == "fate" else "") for name, texts in shown.items()),
            style="bold" if best else None,
        )
    return view


def _footer(
    records: Sequence[Record], best: Record | None, baselines: Sequence[Baseline], metric: Metric, hidden: int
) -> Iterator[str]:
    if hidden:
        yield f"+{hidden} settings: --columns all" if hidden > 1 else "+1 setting: --columns all"
    counts = Counter(record.fate for record in records)
    last = {record.origin: record.number for record in sorted(records, key=lambda record: record.number)}
    again = sum(record.fate == "lost" and record.number != last[record.origin] for record in records)
    fates = ", ".join(
        f"{count} {fate}{f' ({again} of them tried again)' if fate == 'lost' and again else ''}"
        for fate, count in counts.most_common()
    )
    yield f"{len(records)} trial{'s' * (len(records) != 1)}" + (f": {fates}" if records else "")
    if best is not None:
        ended = f", {best.reason}" if best.reason else ""
        alike = sum(other is not best and other.is_as_good_as(best) for other in _able(records))
        others = f"; {alike} more within one standard error" if alike else ""
        yield (
            f"{BEST} best: trial {best.number}, {best.metric} {table.cell(best.metric, best.score)}, "
            f"{table.cell('weights_bytes', best.weights_bytes)} MiB{ended}{others}"
        )
    if baselines and metric != "map":  # which is not computed of them
        of_it = "" if metric == "mean_f1" else f", {metric}"
        scores = (f"{each.name} {table.cell(metric, getattr(each, metric))}" for each in baselines)
        yield f"baselines{of_it}: " + ", ".join(scores)
    if failed := next((record for record in records if record.fate == "failed" and record.reason), None):
        others = "; the others: --columns number,fate,reason" if counts["failed"] > 1 else ""
        yield f"trial {failed.number} failed: {failed.reason}{others}"
