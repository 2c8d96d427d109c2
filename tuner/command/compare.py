"""The verb that holds runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captune.errors import visible
from captune.tuner.command.arguments import Location
from captune.tuner.command.console import fail, print_json, print_table, tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from captune.results.comparison import Table


def compare(
    runs: Annotated[list[Location], typer.Argument(parser=Location, metavar="RUN RUN...", help="two or more runs")],
    format: Annotated[  # noqa: A002
        Literal["table", "json", "markdown"], typer.Option(help="of what is printed")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="a page of HTML to write; one that is there gives way")] = None,
) -> None:
    """Holds runs beside each other: their best trials, size and cost, and the settings that differ."""
    from captune.results.comparison import tables_of
    from captune.results.trial_page import without_nan
    from captune.tuner.api.comparisons import compare as beside_each_other

    if len(runs) < 2:
        fail("two or more runs are compared, got 1: captune compare RUN RUN")
    comparison = beside_each_other(runs, out=out)
    if format == "json":
        print_json(without_nan(comparison.to_json()))
        return
    if not comparison.same_data:
        tell("The runs are of data sets that were prepared apart: where validation rows differ, scores do not compare.")
    for table in tables_of(comparison):
        (_print if format == "table" else _print_markdown)(table)


def _print(content: Table) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=content.title, title_justify="left")
    for heading in content.headings:
        table.add_column(Text(visible(heading)), overflow="fold")
    for row in content.rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    print_table(table)


def _print_markdown(table: Table) -> None:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    rule = line("---" for _ in table.headings)
    tell("\n".join([f"**{table.title}**", "", line(table.headings), rule, *map(line, table.rows), ""]))
