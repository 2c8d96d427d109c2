"""Work in a process of its own: what comes back of it, and how it ends when it is killed, wrong or interrupted."""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import refused

from captune.errors import ArgumentError, WorkError
from captune.tuner.winner.own_process import in_own_process

INTERRUPTED = """\
import test_tuner_own_process as work
from captune.tuner.winner.own_process import in_own_process
try:
    in_own_process(work.forever, say=lambda text: print(text, flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of this file, by the fresh process."""
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def squared(number: int, *, say: Callable[[str], None]) -> tuple[int, int]:
    say(f"squaring {number}")
    return number**2, os.getpid()


def refusing(*, say: Callable[[str], None]) -> None:
    raise ArgumentError("seeds", "1 or more, got 0")


def killed(*, say: Callable[[str], None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrong(*, say: Callable[[str], None]) -> None:
    raise ZeroDivisionError("a bug")


def interrupted_again_at_its_end(*, say: Callable[[str], None]) -> None:
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
    raise KeyboardInterrupt


def forever(*, say: Callable[[str], None]) -> None:
    say("at work")
    signal.pause()


def test_result_and_words_come_from_another_process() -> None:
    said: list[str] = []
    number, process = in_own_process(squared, 3, say=said.append)
    assert (number, said) == (9, ["squaring 3"]) and process != os.getpid()


def test_error_of_captune_comes_back_as_it_is() -> None:
    with pytest.raises(ArgumentError) as caught:
        in_own_process(refusing, say=print)
    assert (caught.value.argument, caught.value.reason) == ("seeds", "1 or more, got 0")


def test_killed_process_is_told_with_its_signal_and_the_usual_reason() -> None:
    refused(lambda: in_own_process(killed, say=print), "signal 9", "out of memory", error=WorkError)


def test_bug_is_told_with_its_status_and_its_traceback_stays(capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(lambda: in_own_process(wrong, say=print), "status 1", error=WorkError)
    assert "memory" not in message
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_signal_that_comes_while_a_process_ends_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    refused(lambda: in_own_process(interrupted_again_at_its_end, say=print), "status 130", error=WorkError)
    assert capfd.readouterr().err == ""


def test_interrupt_of_a_terminal_ends_both_processes_without_a_word() -> None:
    """A terminal, and a notebook, interrupt every process of the group."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20) == ("interrupted\n", "")
