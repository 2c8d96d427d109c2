"""The verb that holds runs beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captune.errors import visible
from captune.tuner.command.arguments import Location
from captune.tuner.command.console import print_json, print_table, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from captune.results.comparison import Comparison


def compare(
    runs: Annotated[list[Location], typer.Argument(parser=Location, metavar="RUN RUN...", help="two or more runs")],
    format: Annotated[  # noqa: A002
        Literal["table", "json", "markdown"], typer.Option(help="of what is printed")
    ] = "table",
) -> None:
    """Holds runs beside each other: their best trials, size and cost, and the settings that differ."""
    from captune.results.trial_page import without_nan
    from captune.tuner.api.comparisons import compare as beside_each_other

    comparison = beside_each_other(runs)
    if format == "json":
        print_json(without_nan(comparison.to_json()))
        return
    for title, headings, rows in _tables(comparison):
        if rows:
            (_print if format == "table" else _print_markdown)(title, headings, rows)
    if not comparison.same_data:
        tell("The runs are of different data: their scores are not of the same rows.")


def _tables(comparison: Comparison) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    from captune.results.comparison import FIGURES, cells_of

    names = [row.run for row in comparison.runs]
    figures = [[name, *map(figure, comparison.runs)] for name, figure in FIGURES.items()]
    yield "runs", ["", *names], [row for row in figures if any(row[1:])]
    for title, settings in (("search", comparison.settings), ("best trial", comparison.winners)):
        rows = [[name, *cells_of(values)] for name, values in settings.items()]
        yield f"what differs in the {title}", ["setting", *names], rows


def _print(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in headings:
        table.add_column(Text(visible(heading)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    print_table(table)


def _print_markdown(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    tell("\n".join([f"**{title}**", "", line(headings), line("---" for _ in headings), *map(line, rows), ""]))
