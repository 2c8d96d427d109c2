"""The `captune` command. Its verbs are in the files beside this one, and load what is heavy when they run."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from captune.errors import ArgumentError, Error, WorkError, one_line
from captune.imports import captune_is_alone
from captune.interrupt import as_keyboard_interrupt
from captune.tuner.command import (
    classify,
    cluster,
    compare,
    dashboard,
    log,
    prepare,
    report,
    search,
    serve,
    spaces,
    steer,
    trials,
    weights,
    winner,
)
from captune.tuner.command.console import fail, fail_usage, streams, tell
from captune.tuner.command.options import settings_verb

_NO_MEMORY_TO_LOAD = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")
"""What the loader of the system says where a compiled module finds no room in memory."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@streams()
@as_keyboard_interrupt(signal.SIGTERM, signal.SIGHUP)
def main() -> None:
    """Entry point: people's mistakes end with one line and status 2, failed work with status 1, signals with theirs."""
    for word in sys.argv:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            fail(f"{word} is not UTF-8, as names of files must be here; rename it")
    # In place: a command for a cluster is sent as it was typed, and homes differ there.
    sys.argv[1:] = map(_from_home, sys.argv[1:])
    captune_is_alone()
    try:
        status = app(prog_name="captune", standalone_mode=False)
    except TyperException as error:
        fail_usage(error)
    except ArgumentError as error:
        fail(f"--{error.argument.replace('_', '-')}: {error.reason}")
    except Error as error:
        fail(str(error), error.exit_status)
    except OSError as error:  # a full disk, a folder that may not be written
        gone = isinstance(error, FileNotFoundError) and error.filename is None
        fail("the current folder is no longer there; change to another" if gone else str(error), WorkError.exit_status)
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and not any(reason in str(error) for reason in _NO_MEMORY_TO_LOAD):
            raise
        fail(f"memory ran out ({one_line(error) or 'none is left'}); give more", WorkError.exit_status)
    except UnicodeEncodeError as error:  # of the folder, say, that the command was given in
        fail(f"{error.object} is not UTF-8, as names of files must be here", WorkError.exit_status)
    raise SystemExit(status)


def _from_home(argument: str) -> str:
    """An argument, or its value after `--option=`, that begins with a tilde as a path: with the home folder instead.

    Shells do so but for the tilde after `=`, and what starts a command without a shell does not.
    """
    option, value = re.fullmatch(r"(--[\w.-]+=)?(.*)", argument, re.DOTALL).groups("")  # type: ignore[union-attr]
    if not value.startswith("~"):
        return argument
    try:
        return option + str(Path(value).expanduser())
    except RuntimeError:  # nobody of that name, or it is no path
        if value == "~" or re.match(r"~[\w.-]*/", value):
            fail(f"{argument}: there is no such home folder; name the path from / on")
        return argument


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    """Searches for the best image-caption classifier that fits a size budget."""
    if version:
        from importlib.metadata import version as version_of

        tell(f"captune {version_of('captune')}")
    elif context.invoked_subcommand is None:
        print(context.get_help(), end="")  # noqa: T201 - with its colours
        raise typer.Exit(2)


# In the order of the help.
app.command()(prepare.demo)
app.command()(prepare.prepare)
settings_verb(app, only=("preset", "budget", "measure", "storage"))(spaces.size)
settings_verb(app, only=("preset",))(spaces.space)
app.command()(spaces.explain)
settings_verb(app)(search.search)
settings_verb(app, only=("trials", "time_limit"))(search.resume)
for verb in (
    steer.enqueue,
    steer.stop,
    steer.pin,
    trials.trials,
    trials.show,
    report.report,
    compare.compare,
    dashboard.dashboard,
    log.log,
    winner.replay,
    winner.refit,
    winner.ablate,
    winner.export,
    classify.evaluate,
    classify.predict,
    serve.serve,
):
    app.command()(verb)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(cluster.submit)
app.add_typer(weights.weights, name="weights")
app.add_typer(cluster.cluster, name="cluster")
