"""The verb that makes a run a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captune.tuner.command.arguments import RunPath
from captune.tuner.command.console import tell


def report(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="the file to write; one that is there gives way")] = Path("report.html"),
) -> None:
    """One offline page: the answer, scores, sizes, settings, labels, rows. Also while the search runs."""
    from captune.tuner.api.runs import Run

    path = Run(run).report(out)
    tell(f"{path}: {path.stat().st_size / 2**20:.2f} MiB; open it in a browser, or send it on: it needs nothing else")
