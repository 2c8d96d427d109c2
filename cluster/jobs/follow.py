"""Follows the log of a job on a Ray cluster until the job ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from captune.cluster.jobs.package import JobError
from captune.cluster.jobs.server import Server, client_kept_quiet, patiently
from captune.errors import one_line

_QUIET_SECONDS = 60  # a line that says nothing for so long is opened again
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def follow(address: str, job: str, *, write: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Passes on a job's log until the job ends. A lost connection is opened again, and nothing is shown twice.

    Args:
        address: of the job server.
        write: is called with the log as it comes, in pieces that hold their own line ends.
        say: is called with why a job failed, and that a connection was lost.

    Returns:
        0 where the job succeeded; else its command's exit status, or 1 where it has none.

    Raises:
        JobError: no such job, or its server was lost for good.
    """
    with client_kept_quiet():
        server = Server(address)
        server.details(job)  # an unknown job is refused at once
        log = _Once(write)
        while True:
            asyncio.run(_watch(server, job, log))
            details = patiently(lambda: server.details(job), say)
            over = str(details.status) in _ENDED
            try:  # after the status: the log of a job that has ended is whole; and for proxies that pass no stream on
                log.from_start(server.log(job))
            except JobError as error:
                if over:
                    say(f"the log's end cannot be read: {error}")
            if over:
                break
            time.sleep(1)
    code = 0 if details.status == "SUCCEEDED" else _exit_status(details.driver_exit_code)
    if code:
        say(f"job {job}: {_reason(details)}")
    return code


def _exit_status(code: int | None) -> int:
    """As a shell would give it: a command that was killed, or never ran, has none of its own."""
    return code if code is not None and 0 < code < 256 else 1


def _reason(details: Any) -> str:
    """Why a job did not succeed."""
    if details.status == "STOPPED":
        return "stopped"
    if details.driver_exit_code is not None:
        return f"failed, exit status {details.driver_exit_code}"
    return f"failed, {one_line(details.message or 'for no known reason')}"


class _Once:
    """Passes on what it was not given before: a log is sent from its start each time."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._received = self._written = 0

    def from_start(self, text: str = "") -> None:
        """The log begins again, with this text."""
        self._received = 0
        self.add(text)

    def add(self, text: str) -> None:
        """The log goes on."""
        fresh = text[max(0, self._written - self._received) :]
        self._received += len(text)
        if fresh:
            self._written = self._received
            self._write(fresh)


def _seems_over(server: Server, job: str) -> bool:
    try:
        return str(server.details(job).status) in _ENDED
    except JobError:
        return True


async def _watch(server: Server, job: str, log: _Once) -> None:
    """Passes on the log as it comes, until the job has ended or the connection is lost."""
    tail = asyncio.create_task(_tail(server, job, log))
    while not tail.done() and not _seems_over(server, job):  # the server itself takes seconds to notice
        await asyncio.wait({tail}, timeout=1)
    tail.cancel()
    await asyncio.wait({tail})
    if not tail.cancelled():
        tail.result()  # what `write` raised


async def _tail(server: Server, job: str, log: _Once) -> None:
    """Passes on the log from its start, until it ends, the connection is lost or nothing comes for a minute."""
    log.from_start()
    async with aclosing(server.client.tail_job_logs(job)) as pieces:
        while True:
            try:
                piece = await asyncio.wait_for(anext(pieces), _QUIET_SECONDS)
            except Exception:  # the caller looks how the job stands, whatever ended this
                return
            log.add(piece)
