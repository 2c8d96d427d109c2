"""The verbs that read a run: trials, show."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from captune.tuner.command.arguments import AsJson, RunPath
from captune.tuner.command.console import fail, print_file, print_json, print_table


def trials(
    run: RunPath,
    format: Annotated[  # noqa: A002
        Literal["table", "csv", "json", "parquet", "markdown"], typer.Option(help="of what is printed")
    ] = "table",
    sort: Annotated[str | None, typer.Option(help="a column; scores best first")] = None,
    where: Annotated[str | None, typer.Option(help="e.g. \"fate == 'complete' and mean_f1 > 0.8\"")] = None,
    columns: Annotated[str | None, typer.Option(help="names, separated by commas")] = None,
    limit: Annotated[int | None, typer.Option(help="rows at most")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="only the best score for each size")] = False,
) -> None:
    """The table of trials, also while the search runs."""
    from captune.results import table
    from captune.tuner.api.runs import Run

    records = Run(run).records(frontier=frontier)
    names = [name.strip() for name in columns.split(",")] if columns else None
    if format == "table":
        print_table(table.terminal(records, columns=names, sort=sort, where=where, limit=limit))
        return
    content = table.render(records, format, columns=names, sort=sort, where=where, limit=limit)
    if format == "parquet" and sys.stdout.isatty():
        fail("Parquet is not for a terminal; send it to a file: captune trials RUN --format parquet > trials.parquet")
    print_file(content)


def show(run: RunPath, trial: Annotated[int, typer.Argument(help="its number")], as_json: AsJson = False) -> None:
    """One trial: configuration, curve, cost, fate."""
    from dataclasses import asdict

    from captune.results import report
    from captune.tuner.api.runs import Run

    record = Run(run).trial(trial)
    if as_json:
        print_json(report.without_nan({**record.row(), "curve": [asdict(epoch) for epoch in record.curve]}))
        return
    for part in report.trial(record):
        print_table(part)
