"""How work goes on, for whoever watches: a changing line in a terminal or a notebook, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from captune.errors import visible

if TYPE_CHECKING:
    from captune.tuner.ray_tune.search import Progress

_SECONDS = 30.0  # between two lines where nothing can change


def say(message: str) -> None:
    """What a person should know, on stderr: results alone go to stdout."""
    print(visible(message), file=sys.stderr, flush=True)  # noqa: T201


def silent(message: str) -> None:
    """For callers who asked for no progress."""


@contextmanager
def search_line() -> Iterator[Callable[[Progress], None]]:
    """Shows how a search stands while inside."""
    with _line("starting Ray") as write:
        yield lambda progress: write(in_words(progress))


def in_words(progress: Progress) -> str:
    """How a search stands, in one line."""
    done = ", ".join(f"{count} {fate}" for fate, count in progress.fates.items()) or "no trial done"
    wanted = f" of {progress.wanted}" if progress.wanted else ""
    best = "none" if progress.best is None else f"{progress.best:.4f}"
    left = ""
    if progress.seconds_left is not None:
        left = f", {int(progress.seconds_left) // 60}:{int(progress.seconds_left) % 60:02} left"
    starting = f", {progress.starting} starting" if progress.starting else ""
    trouble = f"; {progress.trouble}" if progress.trouble else ""
    return f"{done}{wanted}; best mean F1 {best}; {progress.running} of {progress.slots} slots{starting}{left}{trouble}"


@contextmanager
def bar(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar in a terminal, a line in a notebook; None elsewhere, and where it is not to be shown."""
    if not shown:
        yield None
    elif _notebook():
        with _line(what) as write:
            yield lambda done, total: write(f"{what}: {done} of {total}")
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
    else:
        yield None


@contextmanager
def _line(first: str) -> Iterator[Callable[[str], None]]:
    """A line whose text changes."""
    if _notebook():
        handle = _display(first)
        yield lambda text: handle.update({"text/plain": visible(text)}, raw=True)
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(first) as spinner:
            yield lambda text: spinner.update(Text(visible(text)))
    else:
        last = [time.monotonic()]

        def now_and_then(text: str) -> None:
            if time.monotonic() - last[0] >= _SECONDS:
                last[0] = time.monotonic()
                say(text)

        yield now_and_then


def _notebook() -> bool:
    """Whether a kernel of Jupyter's runs this process."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _display(text: str) -> Any:
    from IPython.display import display

    return display({"text/plain": text}, raw=True, display_id=True)
