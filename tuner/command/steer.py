"""The verbs that steer a search while it runs: enqueue, stop, pin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captune.errors import shell_word
from captune.tuner.command.arguments import RunPath
from captune.tuner.command.console import tell


def enqueue(
    run: RunPath,
    file: Annotated[
        Path, typer.Argument(help="YAML or JSON: dotted names with values, as in `first` of search.yaml, or a list")
    ],
) -> None:
    """Has a search try configurations of your own next, now or when it goes on.

    What a configuration does not name is as in the preset. It is held against space, budget and trials before.
    """
    from captune.tuner.api.runs import Run

    count = Run(run).enqueue(file)
    _tell(run, f"{count} configuration{'s' * (count > 1)} to be tried next", Run(run).trials_needed)


def stop(run: RunPath, trial: Annotated[int, typer.Argument(help="its number")]) -> None:
    """Ends a trial that runs: it is `stopped`, by hand, with the best score that it has. The search goes on."""
    from captune.tuner.api.runs import Run

    Run(run).stop(trial)
    _tell(run, f"trial {trial} is to end")


def pin(run: RunPath, trial: Annotated[int, typer.Argument(help="its number")]) -> None:
    """Lets a trial that runs train to its end, whatever halving says of it."""
    from captune.tuner.api.runs import Run

    Run(run).pin(trial)
    _tell(run, f"trial {trial} is to train to its end")


def _tell(run: str, what: str, trials: int | None = None) -> None:
    """trials: in all, without which it does not come to it; None where the search has as many."""
    from captune.tuner.api.runs import Run

    resume = f"captune resume {shell_word(run)}" + (f" --trials {trials}" if trials else "")
    if Run(run).is_running:
        tell(f"{what}, as far as its trials go; for all of them, when it has ended: {resume}" if trials else what)
    else:
        tell(f"{what}, by: {resume}")
