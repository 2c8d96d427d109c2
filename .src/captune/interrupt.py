"""Signals that end work: Ctrl-C, SIGTERM as schedulers send it, SIGHUP of a terminal that is closed."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_status(number: int) -> int:
    """Of a command that a signal ended, as shells give it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + number


class Interrupt(threading.Event):
    """Set by the first of the signals while inside, so that work can come to an end of its own.

    Another Ctrl-C does what it would have done. The other two come more than once by themselves, from a shell and from
    the kernel, and say nothing new. Handlers are those of before on leaving. Signals reach the main thread alone: in
    any other it stays unset.
    """

    cause: signal.Signals | None = None
    """Which came first."""

    def __enter__(self) -> Interrupt:
        self._before = _handle(dict.fromkeys(SIGNALS, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        _handle(self._before)

    def _note(self, number: int, _frame: Any) -> None:
        _leave_closed_terminal(number)
        if not self.is_set():
            self.cause = signal.Signals(number)
            self.set()
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])


@contextmanager
def as_keyboard_interrupt(*signals: signal.Signals) -> Iterator[None]:
    """The first of these signals raises KeyboardInterrupt while inside, as Ctrl-C does: what was begun is cleared away.

    The others do nothing, lest they cut that short. A SystemExit with Ctrl-C's status leaves with that of the signal.
    """
    first: list[int] = []

    def interrupt(number: int, _frame: Any) -> None:
        _leave_closed_terminal(number)
        if not first:
            first.append(number)
            raise KeyboardInterrupt

    before = _handle(dict.fromkeys(signals, interrupt))
    try:
        yield
    except SystemExit as end:
        if first and end.code == exit_status(signal.SIGINT):
            raise SystemExit(exit_status(first[0])) from None
        raise
    finally:
        _handle(before)


def _handle(handlers: Mapping[signal.Signals, Any]) -> dict[signal.Signals, Callable[..., Any] | int | None]:
    """Sets handlers, and returns those of before. A closed terminal that `nohup` has ignored stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if number != signal.SIGHUP or before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    return before


def _leave_closed_terminal(number: int) -> None:
    """What is written to a terminal that is gone is an error: from now on it goes nowhere."""
    if number != signal.SIGHUP:
        return
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if poll.poll(0):  # hung up, or not open at all
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
