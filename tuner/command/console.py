"""What the command says, how it ends, and how it reads the text of options."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from captune.cluster.object_storage.addresses import is_url
from captune.errors import Error

if TYPE_CHECKING:
    from typer.exceptions import TyperException

    from captune.tuner.ray_tune.search import Progress

T = TypeVar("T")


@contextmanager
def live() -> Iterator[Callable[[Progress], None]]:
    """How a search stands, on stderr: one changing line in a terminal, else a line every half minute."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("starting Ray") as spinner:
            yield lambda progress: spinner.update(_progress_line(progress))
        return
    last = [time.monotonic()]

    def line(progress: Progress) -> None:
        if time.monotonic() - last[0] >= 30:
            last[0] = time.monotonic()
            say(_progress_line(progress))

    yield line


def _progress_line(progress: Progress) -> str:
    done = ", ".join(f"{count} {fate}" for fate, count in progress.fates.items()) or "no trial done"
    wanted = f" of {progress.wanted}" if progress.wanted else ""
    best = "none" if progress.best is None else f"{progress.best:.4f}"
    left = (
        ""
        if progress.seconds_left is None
        else f", {int(progress.seconds_left) // 60}:{int(progress.seconds_left) % 60:02} left"
    )
    trouble = f"; {progress.trouble}" if progress.trouble else ""
    return f"{done}{wanted}; best mean F1 {best}; {progress.running} of {progress.slots} slots{left}{trouble}"


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr in a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class Where(str):
    """A folder as a person names it: a path, or an address of object storage such as s3://bucket/folder."""

    @property
    def is_relative(self) -> bool:
        """Whether it means another folder elsewhere."""
        return not is_url(self) and not Path(self).is_absolute()


def exit_status(error: Exception) -> int | None:
    """2 for what a person has to mend, 1 for work that failed, None for a bug."""
    if isinstance(error, Error):
        return error.exit_status
    return 1 if isinstance(error, OSError) else None  # a full disk, a folder that may not be written


def numbers(option: str, text: str | None) -> frozenset[int] | None:
    """1-11,13-19 as a set of numbers."""
    if text is None:
        return None
    found: set[int] = set()
    try:
        for part in text.split(","):
            low, _, high = part.strip().partition("-")
            found |= set(range(int(low), int(high or low) + 1))
    except ValueError:
        found = set()
    if not found:
        fail(f"{option} takes numbers and ranges like 1-11,13-19, got {text!r}")
    return frozenset(found)


def at_least(option: str, value: int | None, low: int) -> None:
    """Ends the command where a number was given that is too small."""
    if value is not None and value < low:
        fail(f"{option} must be {low} or more, got {value}")


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        fail(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def print_table(content: Any) -> None:
    from rich.console import Console

    # In a file or a pipe nothing is wrapped to a width that no terminal has.
    Console(width=None if sys.stdout.isatty() else 1000).print(content)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


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
