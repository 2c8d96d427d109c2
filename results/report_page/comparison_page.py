"""Runs beside each other as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from captune.errors import one_line, visible
from captune.model.config import TITLES
from captune.results.comparison import Comparison, RunRow, Table, tables_of
from captune.results.report_page.plots import floor
from captune.results.report_page.svg import FAINT, INK, MAIN, SECOND, WARNING, drawn
from captune.results.report_page.template import rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (MAIN, SECOND, WARNING, INK, FAINT)


def comparison_page(comparison: Comparison) -> str:
    """One file of HTML: no script, nothing fetched, the same for the same comparison."""
    content = {
        "names": [visible(row.run) for row in comparison.runs],
        "same_data": comparison.same_data,
        "course": _course([row for row in comparison.runs if row.course]),
        "tables": [
            Table(table.title, tuple(map(visible, table.headings)), tuple(tuple(map(visible, r)) for r in table.rows))
            for table in tables_of(comparison)
        ],
    }
    return rendered("comparison.html", content)


def _course(runs: list[RunRow]) -> str:
    """The best so far of each run over its own time of search; nothing without scores."""
    if not runs:
        return ""
    low = floor([score for run in runs for _, score in run.course])
    longest = max(run.course[-1][0] for run in runs) / 60

    def draw(axes: Axes) -> None:
        for place, run in enumerate(runs):
            points = [(seconds / 60, max(low, score)) for seconds, score in run.course]
            points.append((longest, points[-1][1]))
            style = ("-", "--", "-.", ":")[place // len(_COLOURS) % 4]
            axes.step(*zip(*points, strict=True), style, where="post", color=_COLOURS[place % len(_COLOURS)],
                      marker=".", label=one_line(visible(run.run), 40))  # fmt: skip
        metrics = {run.metric for run in runs}
        title = TITLES[metrics.pop()] if len(metrics) == 1 else "what each was chosen by"
        axes.set(xlabel="minutes of search", ylabel=f"{title}, best so far")
        axes.legend(fontsize=8, loc="lower right")

    best = "; ".join(f"{visible(run.run)} {run.course[-1][1]:.4f}" for run in runs)
    return Markup(drawn("course", one_line(f"The best so far over the time of search. In the end: {best}.", 400), draw))
