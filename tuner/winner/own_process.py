"""Work that settles a framework for itself, in a process of its own: the caller's framework and environment stay as
they are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from captune.errors import Error, WorkError
from captune.imports import captune_is_alone
from captune.interrupt import SIGNALS, as_keyboard_interrupt, exit_status

T = TypeVar("T")
_END_SECONDS = 10.0  # that an interrupted process has to end


def in_own_process(work: Callable[..., T], *arguments: Any, say: Callable[[Any], None]) -> T:
    """What `work(*arguments, say=...)` returns in a fresh process of this Python, which finds no module of this folder.

    Args:
        work: a function of a module of captune's. Arguments and result can be pickled.
        say: told what the work says.

    Raises:
        captune.Error: what the work itself raises.
        WorkError: its process ended without a result; the reason of a bug stands on stderr.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-m", "captune.tuner.winner.own_process", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        ours.send((work, arguments))
        kind, content = _result(ours, say)
    except (EOFError, ConnectionError):
        status = process.wait()
        ended = f"ended with status {status}; its reason is on stderr"
        if status < 0:
            ended = f"was killed by signal {-status}; out of memory is the usual reason"
        raise WorkError(f"the process that did the work {ended}") from None
    except BaseException:
        process.send_signal(signal.SIGINT)
        raise
    finally:
        ours.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if kind == "error":
        raise content
    result: T = content
    return result


def _result(pipe: Connection, say: Callable[[Any], None]) -> tuple[str, Any]:
    while True:
        kind, content = pipe.recv()
        if kind != "said":
            return kind, content
        say(content)


def _serve(pipe: Connection) -> None:
    done = threading.Event()
    try:
        work, arguments = pipe.recv()  # which imports the module of the work
        threading.Thread(target=_end_with_the_other, args=(pipe, done), daemon=True).start()
        outcome = ("result", work(*arguments, say=lambda text: pipe.send(("said", text))))
    except Error as error:
        outcome = ("error", error)
    except KeyboardInterrupt:
        sys.exit(exit_status(signal.SIGINT))
    done.set()
    pipe.send(outcome)


def _end_with_the_other(pipe: Connection, done: threading.Event) -> None:
    """Interrupts the work once the process that waits for it is gone, killed for instance."""
    with suppress(EOFError, OSError):
        pipe.recv()  # nothing is sent any more
    if not done.is_set():
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    captune_is_alone()
    # A terminal signals this process too, and the other one passes on what it hears: that comes while this one ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with suppress(BrokenPipeError), as_keyboard_interrupt(*SIGNALS):  # a pipe that nobody reads any more
        _serve(Connection(int(sys.argv[1])))
