"""What the command says, and how it ends. No control character of a name, a reason or a caption reaches a terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from captune.errors import WorkError, in_words, visible
from captune.tuner.api.progress import columns, in_lines, say

if TYPE_CHECKING:
    from typer.exceptions import TyperException

    from captune.model.config import Metric
    from captune.results.baselines import Baseline

MOST = 1000  # characters of an error
NO_BETTER = "search longer, with other settings (captune space), or look at labels and captions"


@contextmanager
def streams() -> Iterator[None]:
    """Input, output and errors, open for the while: what somebody closed leads nowhere.

    Else the next file that is opened would get its number, and with it whatever a library prints. A command that ends
    well has written all it said: what then fails (a full disk) is told, but for a reader who went away.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _lead_nowhere(number)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # letters that the terminal's encoding lacks
    try:
        yield
    except SystemExit as end:
        try:
            sys.stdout.flush()
        except OSError as error:
            _lead_nowhere(1)  # else Python tries again at its end, and complains in lines of its own
            if not end.code and not isinstance(error, BrokenPipeError):
                fail(str(error), WorkError.exit_status)
            raise SystemExit(end.code or WorkError.exit_status) from None
        raise


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def tell(text: object = "", *, end: str = "\n") -> None:
    """A result, on stdout."""
    print(visible(str(text)), end=end, flush=True)  # noqa: T201


def tell_lines(text: str) -> None:
    """A result in sentences, broken between words where a terminal is narrower."""
    print(in_lines(visible(text), columns(sys.stdout)), flush=True)  # noqa: T201


def print_table(content: Any) -> None:
    from rich.console import Console

    # In a file or a pipe nothing is wrapped to a width that no terminal has.
    Console(width=None if sys.stdout.isatty() else 1000).print(content)


def terminal_width() -> int | None:
    """Characters of a line on stdout; None in a file or a pipe."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else None


def print_json(content: Any) -> None:
    tell(json.dumps(content, indent=2, allow_nan=False))


def print_file(content: bytes) -> None:
    """A file of texts as it is, but for a terminal."""
    if sys.stdout.isatty():
        tell(content.decode(), end="")
    else:
        sys.stdout.buffer.write(content)


def tell_baselines(
    baselines: Sequence[Baseline], rows: str, score: float, metric: Metric = "mean_f1", *, judge: bool = True
) -> None:
    """The baselines on these rows, beside the score of a network. Nothing of `map`, which they have not.

    Args:
        judge: whether to say so where the network is no better.
    """
    from captune.model.config import TITLES

    scores = {each.name: getattr(each, metric) for each in baselines if each.rows == rows and metric != "map"}
    if scores:
        of_it = "" if metric == "mean_f1" else f", {TITLES[metric]}"
        tell_lines(f"baselines{of_it}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    better = [name for name, value in scores.items() if score <= value]
    if judge and better:
        say(f"note: the network is no better than a baseline ({', '.join(better)}): {NO_BETTER}")


def fail_usage(error: TyperException) -> NoReturn:
    """Ends a command that was typed wrongly, in one line."""
    option, colon, complaint = error.format_message().partition(": ")
    message = " ".join(f"{option}{colon}{in_words(complaint)}".split()).rstrip(".")
    if not message:  # it was typed without anything, and its help has been shown
        raise SystemExit(error.exit_code)
    context = getattr(error, "ctx", None)
    fail(f"{message}; see {context.command_path if context else 'captune'} --help", error.exit_code)


def fail(message: str, status: int = 2) -> NoReturn:
    """Ends the command with one line, however long a name in it may be."""
    line = message.replace("\n", "\\n")
    say(f"error: {line if len(line) <= MOST else f'{line[:MOST]}... ({len(line)} characters)'}")
    raise SystemExit(status)
