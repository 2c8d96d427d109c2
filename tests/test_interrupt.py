"""Signals: work comes to an end of its own, or is cut short and cleared away, and the status says which it was."""

import os
import signal
import threading

import pytest

from captune.interrupt import SIGNALS, Interrupt, as_keyboard_interrupt


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("first", SIGNALS)
def test_first_signal_is_noted_and_another_ctrl_c_does_what_it_always_does(first: signal.Signals) -> None:
    before = handlers()
    with Interrupt() as interrupt:
        assert not interrupt.is_set()
        send(first)
        assert interrupt.is_set() and interrupt.cause == first
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert handlers() == before


def test_schedulers_and_closed_terminals_may_repeat_themselves() -> None:
    with Interrupt() as interrupt:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            send(number)
        assert interrupt.cause == signal.SIGHUP


def test_signals_are_left_as_they_were_found() -> None:
    before = handlers()
    with Interrupt() as interrupt, as_keyboard_interrupt(*SIGNALS):
        pass
    assert not interrupt.is_set() and interrupt.cause is None
    assert handlers() == before


@pytest.mark.parametrize("first", SIGNALS)
def test_first_signal_cuts_work_short_and_no_other_cuts_its_clearing_away(first: signal.Signals) -> None:
    before, cleared = handlers(), []
    with pytest.raises(KeyboardInterrupt), as_keyboard_interrupt(*SIGNALS):
        try:
            send(first)
        finally:
            for number in SIGNALS:
                send(number)
                cleared.append(number)
    assert cleared == list(SIGNALS)
    assert handlers() == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_command_that_ends_as_by_ctrl_c_has_the_status_of_its_signal(number: signal.Signals, status: int) -> None:
    with pytest.raises(SystemExit) as end, as_keyboard_interrupt(*SIGNALS):
        try:
            send(number)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
    assert end.value.code == status


@pytest.mark.parametrize("code", [0, 1, 2, 130, "text", None])
def test_status_without_a_signal_is_as_it_is(code: int | str | None) -> None:
    with pytest.raises(SystemExit) as end, as_keyboard_interrupt(*SIGNALS):
        raise SystemExit(code)
    assert end.value.code == code


def test_terminal_whose_closing_is_ignored_is_still_ignored() -> None:
    """Under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt, as_keyboard_interrupt(*SIGNALS):
            send(signal.SIGHUP)
        assert not interrupt.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_touched() -> None:
    before, within = handlers(), []

    def work() -> None:
        with Interrupt(), as_keyboard_interrupt(*SIGNALS):
            within.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert within == [before]
