"""The verbs that read a run: trials, show."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from captune.errors import shell_word
from captune.tuner.api.progress import say
from captune.tuner.command.arguments import AsJson, RunPath
from captune.tuner.command.console import fail, print_file, print_json, print_table, terminal_width

if TYPE_CHECKING:
    from rich.console import RenderableType

    from captune.tuner.api.runs import Run

_WATCH_SECONDS = 2.0
_AROUND = 10  # lines of a terminal that heading, baselines and footer take


def trials(
    run: RunPath,
    format: Annotated[  # noqa: A002
        Literal["table", "csv", "json", "parquet", "markdown"], typer.Option(help="of what is printed")
    ] = "table",
    sort: Annotated[
        str | None, typer.Option(metavar="[-]NAME", help="a column; scores best first, - for the other way round")
    ] = None,
    where: Annotated[str | None, typer.Option(help="e.g. \"fate == 'complete' and mean_f1 > 0.8\"")] = None,
    columns: Annotated[str | None, typer.Option(help="names, separated by commas, or all")] = None,
    limit: Annotated[int | None, typer.Option(help="rows at most")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="only the best score for each size")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="draw it anew in the terminal until the search ends")] = False,
) -> None:
    """The table of trials, also while the search runs. Columns go by the names at their heads, or longer ones."""
    from captune.results import table
    from captune.tuner.api.runs import Run

    names = [name.strip() for name in columns.split(",")] if columns else None
    if watch:
        if format != "table" or not sys.stdout.isatty():
            fail("--watch draws the table anew in a terminal; leave it out for a file, a pipe or another --format")
        _watch(Run(run), frontier=frontier, columns=names, sort=sort, where=where, limit=limit)  # then once for all
    if format == "table":
        print_table(_drawn(Run(run), terminal_width(), frontier, columns=names, sort=sort, where=where, limit=limit))
        _tell_changes(Run(run))
        return
    records = Run(run).records(frontier=frontier)
    content = table.render(records, format, columns=names, sort=sort, where=where, limit=limit)
    if format == "parquet" and sys.stdout.isatty():
        fail("Parquet is not for a terminal; send it to a file: captune trials RUN --format parquet > trials.parquet")
    print_file(content)
    _tell_changes(Run(run))


def _tell_changes(run: Run) -> None:
    if (altered := run.altered) is not None:
        say(f"note: {altered}")


def _drawn(run: Run, width: int | None, frontier: bool, **options: Any) -> RenderableType:
    from captune.results.terminal_table import terminal

    return terminal(run.records(frontier=frontier), width=width, baselines=run.baselines, **options)


def _watch(run: Run, *, frontier: bool, sort: str | None, limit: int | None, **options: Any) -> None:
    """Draws the table until the search ends, or somebody has seen enough: as much as fits, the newest trials first."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with suppress(KeyboardInterrupt), Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            is_running = run.is_running  # before: the last look is at the end
            rows = limit or max(1, console.height - _AROUND)
            shown = _drawn(run, console.width, frontier, sort=sort or "-number", limit=rows, **options)
            live.update(shown, refresh=True)
            if not is_running:
                return
            time.sleep(_WATCH_SECONDS)


def show(
    run: RunPath,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="its number, or best: the one marked in `trials`")],
    as_json: AsJson = False,
) -> None:
    """One trial: fate and cost, searched settings, curve, other settings, beside the best where it differs."""
    from dataclasses import asdict

    from captune.results import trial_page
    from captune.results.terminal_table import best_so_far
    from captune.tuner.api.runs import Run

    best = best_so_far(Run(run).records())
    record = best if trial == "best" else Run(run).trial(_number(trial))
    if record is None:
        fail(f"{run} has no best trial yet: none has a score inside the budget; captune trials {shell_word(run)}")
    if as_json:
        print_json(trial_page.without_nan({**record.row(), "curve": [asdict(epoch) for epoch in record.curve]}))
        return
    for part in trial_page.trial(record, Run(run).settings.space, best):
        print_table(part)


def _number(trial: str) -> int:
    if not trial.isdecimal() or len(trial) > 9:
        fail(f"{trial} is no trial: give its number, or best")
    return int(trial)
