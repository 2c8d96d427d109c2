"""The `captune` command. Its verbs are in the files beside this one, and load what is heavy when they run."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.exceptions import TyperException

from captune.errors import ArgumentError, Error
from captune.tuner.command import classify, cluster, prepare, search, spaces, trials, winner
from captune.tuner.command.console import exit_status, fail, fail_usage

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point: people's mistakes end with one line and status 2, failed work with status 1."""
    try:
        status = app(prog_name="captune", standalone_mode=False)
    except TyperException as error:
        fail_usage(error)
    except ArgumentError as error:
        fail(f"--{error.argument.replace('_', '-')}: {error.reason}")
    except (Error, OSError) as error:
        status = exit_status(error)
        if status is None:
            raise  # a bug: its traceback is what helps
        fail(str(error), status=status)
    raise SystemExit(status)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    """Searches for the best image-caption classifier that fits a size budget."""
    if version:
        from importlib.metadata import version as version_of

        print(f"captune {version_of('captune')}")
    elif context.invoked_subcommand is None:
        print(context.get_help(), end="")
        raise typer.Exit(2)


for module in (prepare, spaces, search, trials, winner, classify, cluster):
    module.add_verbs(app)
