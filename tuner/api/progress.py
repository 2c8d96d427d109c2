"""How work goes on, for whoever watches: redrawn in a terminal or a notebook, elsewhere a line a minute. On stderr."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any, TextIO

from captune.errors import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from captune.tuner.decisions.progress import Progress
    from captune.tuner.winner.step import Message

_LOG_SECONDS = 60.0  # between two lines where nothing can change
_QUIET_SECONDS = 2.0  # of work that is done before anybody wonders
_DRAWS = 2.0  # a second
_NOTEBOOK = (100, 40)  # characters, lines
_WITH_NOTES = 80  # characters of a terminal whose bars leave room for one


def say(message: str) -> None:
    """What a person should know, on stderr: results alone go to stdout."""
    print(in_lines(visible(message), columns(sys.stderr)), file=sys.stderr, flush=True)  # noqa: T201


def columns(stream: TextIO) -> int | None:
    """Characters of a line of a terminal; None in a file or a pipe."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def in_lines(text: str, width: int | None) -> str:
    """A text whose lines break between words, below what follows a heading and two blanks; as it is without a width."""
    if width is None:
        return text
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.split("\n"):
        heading = re.match(r"(\S+( \S+)?)? {2,}", line)
        wrap.subsequent_indent = " " * len(heading.group()) if heading else ""
        lines += wrap.wrap(line) or [""]
    return "\n".join(lines)


def silent(message: object) -> None:
    """For callers who asked for no progress."""


@contextmanager
def search_progress() -> Iterator[Callable[[Progress], None]]:
    """Shows how a search stands while inside, as often as it may be told."""
    from captune.tuner.api.search_view import in_words

    if _in_notebook():
        yield _Cell().show
    elif _is_redrawn():
        from rich.live import Live

        screen = _Screen()
        # The thread of it draws: whoever tells how things stand, however often, is not held up.
        with Live(
            screen, console=_console(), refresh_per_second=_DRAWS, transient=True, redirect_stdout=False
        ):  # fmt: skip
            yield screen.show
    else:
        log = _Spaced(say, _LOG_SECONDS)
        yield lambda progress: log.tell(lambda: in_words(progress))


@contextmanager
def bar(what: str, unit: str, *, shown: bool = True, at_once: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar of work that takes longer than two seconds. It is told how many of how many are done.

    Args:
        what: is being done.
        unit: of what is counted, in the plural.
        shown: whether at all.
        at_once: for work that lets no thread draw while it goes on, as the import of a framework.
    """
    with _bar(what, unit, shown=shown, at_once=at_once) as update:
        yield lambda done, total: update(what, done, total, "")


@contextmanager
def steps(what: str, *, unit: str = "epochs", shown: bool = True) -> Iterator[Callable[[Message], None]]:
    """The same for work on a winner, whose sentences are said as they come. what: is done before its first step."""
    with _bar(what, unit, shown=shown) as update:

        def tell(message: Message) -> None:
            if not isinstance(message, str):
                update(message.what, message.done, message.total, message.note)
            elif shown:
                say(message)

        yield tell


@contextmanager
def _bar(
    what: str, unit: str, *, shown: bool, at_once: bool = False
) -> Iterator[Callable[[str, float, int, str], None]]:
    """Told what is being done, how many units of how many are, and a note."""

    def count(done: float, total: int, note: str) -> str:
        counted = f"{done:.1f}".removesuffix(".0")
        return visible(", ".join(filter(None, (f"{counted} of {total} {unit}", note))))

    if not shown:
        yield lambda *_: None
    elif _is_redrawn():
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=_console(),
            refresh_per_second=_DRAWS,
            transient=True,
            redirect_stdout=False,
            expand=True,
        )
        task = bars.add_task(visible(what), total=None, count="")

        def redraw(what: str, done: float, total: int, note: str) -> None:
            counted = count(done, total, note if bars.console.width >= _WITH_NOTES else "")
            bars.update(task, description=visible(what), completed=done, total=total, count=counted)

        timer = Timer(_QUIET_SECONDS, bars.start)
        timer.daemon = True
        if at_once:
            bars.start()
        timer.start()
        try:
            yield redraw
        finally:
            timer.cancel()
            timer.join()
            bars.stop()
    else:
        log = _Spaced(_Cell().write, _QUIET_SECONDS) if _in_notebook() else _Spaced(say, _LOG_SECONDS)
        yield lambda what, done, total, note: log.tell(
            lambda: f"{what}: {count(done, total, note)}", last=done == total
        )


class _Screen:
    """A search in a terminal, drawn from what was told last; clocks go on between."""

    def __init__(self) -> None:
        self._last: tuple[Progress, float] | None = None

    def show(self, progress: Progress) -> None:
        self._last = progress, time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from captune.tuner.api.search_view import view

        if self._last is not None:
            progress, told = self._last
            now = progress.later(time.monotonic() - told)
            yield view(now, options.max_width, console.height - 1, ascii_only=options.ascii_only)


class _Cell:
    """What the cell of a notebook shows, replaced by what comes next."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": visible(text)}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def show(self, progress: Progress) -> None:
        from io import StringIO

        from rich.console import Console

        from captune.tuner.api.search_view import view

        width, height = _NOTEBOOK
        page = Console(file=StringIO(), width=width, height=height, color_system=None, force_jupyter=False)
        with page.capture() as drawn:
            page.print(view(progress, width, height))
        self.write(drawn.get().rstrip())


class _Spaced:
    """Texts with some seconds before each, the first one too."""

    def __init__(self, write: Callable[[str], None], seconds: float) -> None:
        self._write, self._seconds = write, seconds
        self._written, self._began = time.monotonic(), False

    def tell(self, text: Callable[[], str], *, last: bool = False) -> None:
        """Writes it, or leaves it out. last: of those that began, so it is written whenever it comes."""
        now = time.monotonic()
        if now - self._written >= self._seconds or (last and self._began):
            self._written, self._began = now, True
            self._write(text())


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _is_redrawn() -> bool:
    """Whether errors go to a terminal that can take back what it shows."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter's runs this process."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
