"""The verbs that search: search, resume."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captune.errors import shell_word
from captune.interrupt import exit_status
from captune.tuner.api.progress import say
from captune.tuner.command.arguments import Address, Location, LogOption, RunPath
from captune.tuner.command.cluster import follow_job, is_server, send
from captune.tuner.command.console import fail, tell, tell_baselines, tell_lines

if TYPE_CHECKING:
    from captune.tuner.api.runs import Run


def search(
    context: typer.Context,
    settings: dict[str, Any],
    data: Annotated[
        Location,
        typer.Argument(
            parser=Location, metavar="DATA", help="a data set that `prepare` made: its folder or its address"
        ),
    ],
    run: Annotated[
        Location,
        typer.Option(
            parser=Location,
            metavar="RUN",
            help="folder or address of the run; nothing may be there yet, see --resume-if-there",
        ),
    ] = ...,  # type: ignore[assignment]
    config: Annotated[Path | None, typer.Option(help="search.yaml; `captune space` prints one")] = None,
    address: Address = None,
    warm_start: Annotated[
        Location | None,
        typer.Option(parser=Location, metavar="RUN", help="a run to learn from first"),
    ] = None,
    log: LogOption = None,
    resume_if_there: Annotated[
        bool,
        typer.Option(
            "--resume-if-there",
            help="go on with RUN as `captune resume` does if a search was begun there; for jobs that are started again",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, start nothing")] = False,
) -> None:
    """Searches for the best configuration inside the budget.

    Without --preset and --config it starts from compact, or from captions where the data has no pictures. What is given
    here wins over the file. `captune explain NAME` says more about a setting.
    """
    from captune.tuner.api import plans
    from captune.tuner.run.locations import is_run

    if is_server(address):
        follow_job(address, send(address, sys.argv[1:], context.parent))
    elif dry_run and resume_if_there and is_run(run):
        tell(f"{run} is there: its search would go on as it was begun")
    elif dry_run:
        tell_lines("\n".join(plans.plan(data, run, config=config, warm_start=warm_start, **settings).report))
    else:
        begun = plans.search(
            data,
            run,
            config=config,
            address=address,
            warm_start=warm_start,
            log=log or (),
            resume_if_there=resume_if_there,
            **settings,
        )
        _tell(begun)


def resume(
    context: typer.Context, run: RunPath, settings: dict[str, Any], address: Address = None, log: LogOption = None
) -> None:
    """Goes on with a search: unfinished trials first, from their checkpoints. Finished ones stay as they are.

    --trials is a new total, --time-limit counts from now.
    """
    from captune.tuner.api.runs import Run

    if is_server(address):
        follow_job(address, send(address, sys.argv[1:], context.parent))
        return
    _tell(Run(run).resume(address=address, log=log or (), **settings))


def _tell(run: Run) -> None:
    """How a search ended."""
    from captune.model.config import TITLES
    from captune.model.size import show_bytes

    summary = run.summary
    fates = ", ".join(f"{count} {fate}" for fate, count in summary.trials.items()) or "no trials"
    epochs = f"{summary.epochs} epochs"
    if summary.session_epochs not in (None, summary.epochs):
        epochs += f", {summary.session_epochs} of them"
    tell_lines(f"{run.where}: {fates}; {epochs} in {summary.wall_seconds:.0f} s")
    if summary.trained_share.all is not None:
        others = [kind for kind in summary.busy_seconds if kind not in ("train", "evaluate")]
        tell_lines(
            f"slots: {summary.trained_share.all:.0%} of their time in training and evaluation; "
            + ", ".join(f"{kind} {summary.busy_seconds[kind]:.0f} s" for kind in others)
        )
    if (saved := summary.halving_saved).epochs:
        tell_lines(f"halving saved {saved.epochs} epochs, about {saved.seconds:.0f} s of a slot")
    if summary.cost is not None:
        tell_lines(f"cost: {summary.cost:.2f} for {summary.slot_hours:.2f} slot hours")
    if summary.best is not None:
        size = next((trial.weights_bytes for trial in summary.frontier[::-1]), None)
        weights = "" if size is None else f", {show_bytes(size)} of weights"
        best = summary.best
        score = best.mean_f1 if best.score is None else best.score
        tell_lines(f"best: trial {best.number}, {TITLES[summary.metric]} {score:.4f} on validation{weights}")
        tell_baselines(run.baselines, "validation", score, summary.metric, judge=not summary.interrupted)
    if summary.interrupted:
        say(f"interrupted; go on with: captune resume {shell_word(run.where)}")
        raise SystemExit(exit_status(signal.Signals[summary.signal or "SIGINT"]))
    if summary.best is None:
        from captune.tuner.winner.choose import why_no_score

        fail(f"no trial has a score; {why_no_score(run.records())}", status=1)
    where = shell_word(run.where)
    tell(f"next: captune trials {where} --sort {summary.metric}; captune refit {where}")
