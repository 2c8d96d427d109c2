"""What the command says, and how it ends."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from captune.tuner.api.progress import say

if TYPE_CHECKING:
    from typer.exceptions import TyperException


def print_table(content: Any) -> None:
    from rich.console import Console

    # In a file or a pipe nothing is wrapped to a width that no terminal has.
    Console(width=None if sys.stdout.isatty() else 1000).print(content)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))


def fail_usage(error: TyperException) -> NoReturn:
    """Ends a command that was typed wrongly, in one line."""
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    if not message:  # it was typed without anything, and its help has been shown
        raise SystemExit(error.exit_code)
    context = getattr(error, "ctx", None)
    say(f"error: {message}; see {context.command_path if context else 'captune'} --help")
    raise SystemExit(error.exit_code)


def fail(message: str, status: int = 2) -> NoReturn:
    say(f"error: {message}")
    raise SystemExit(status)
