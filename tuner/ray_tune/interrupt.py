"""Ctrl-C and SIGTERM end a search cleanly, a second one at once."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupt(threading.Event):
    """Set by the first Ctrl-C or SIGTERM, as a scheduler of jobs sends it; the next does what it would.

    Handlers are those of before on leaving. Signals reach the main thread alone: in any other it stays unset.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.getsignal(number) for number in self._SIGNALS}
        self.arm()
        return self

    def __exit__(self, *_: object) -> None:
        self._handle(self._before)

    def arm(self) -> None:
        """Again after Ray's start, as Ray takes SIGTERM for itself."""
        if not self.is_set():
            self._handle(dict.fromkeys(self._SIGNALS, self._first))

    def _first(self, _number: int, _frame: Any) -> None:
        self.set()
        self._handle(self._before)

    def _handle(self, handlers: dict[signal.Signals, Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
