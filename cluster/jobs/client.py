"""Sends captune's commands to a Ray cluster's job server, and follows, lists and stops them there."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from captune.cluster.jobs.package import JobError, own_version, shipment

T = TypeVar("T")

_REACH_SECONDS = 10  # Ray's client waits without end
_REQUEST_SECONDS = 60
_STOP_SECONDS = 60  # a search tells its study how it ended; Ray's own three are too few
_QUIET_SECONDS = 60  # a line that says nothing for so long is opened again
_PAUSES = (1, 2, 4, 8, 15)  # seconds, before each further attempt to reach a server that was lost
_NO_AGENT = "No available agent to submit job"  # what a server says whose head is still starting
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_OURS = "captune"  # the key that marks captune's jobs in Ray's metadata


class _LostError(JobError):
    """The server did not answer, and may later."""


@dataclass(frozen=True)
class Job:
    """One of captune's jobs as the server knows it."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    started: datetime | None
    ended: datetime | None
    command: str


def submit(
    address: str, arguments: Sequence[str], *, files: Mapping[str, str], joins: bool, say: Callable[[str], None]
) -> str:
    """Sends a command to a cluster, where it runs on the head node, and returns its job's id at once.

    Args:
        address: of the job server, http://host:8265.
        arguments: a verb and what follows it; an --address among them gives way to the cluster's own.
        files: options whose value is a local file, with the name under which the job gets it.
        joins: whether the command takes --address and shall use the cluster's nodes.
        say: told what is sent.

    Raises:
        JobError: within ten seconds where the server cannot be reached, is none, has another Ray or refuses the token;
            otherwise where it does not accept the job.
    """
    shipped = shipment(arguments, files=files)
    if not shipped.arguments:
        raise JobError("a job needs a command, such as: search DATA --run RUN")
    command = _addressed(shipped.arguments, joins)
    client = _connect(address)
    own = {name: size for name, size in shipped.sizes if name in files.values()}
    named = "".join(f", {name} ({size} bytes)" for name, size in own.items())
    say(f"sending captune's code ({len(shipped.contents) - len(own)} files){named}; {shipped.total / 1024:.0f} KiB")
    with tempfile.TemporaryDirectory(prefix="captune-job-") as folder:
        shipped.write(Path(folder))
        entrypoint = f"exec python -m captune {shlex.join(command)}"
        # As Ctrl-C, after which a search can be resumed; Ray's default is SIGTERM.
        stop = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}
        environment = {"working_dir": folder, "env_vars": stop}
        metadata = {_OURS: own_version() or "unknown", "command": shlex.join(["captune", *arguments])}

        def sent() -> str:
            try:
                with _one_line(address):
                    return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment, metadata=metadata))
            except _LostError as error:
                if _NO_AGENT in str(error):
                    raise
                raise JobError(str(error)) from error  # it may have been taken: not to be sent twice

        return _patiently(sent, say)


def follow(address: str, job_id: str, *, write: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Passes on a job's log until the job ends. A lost connection is opened again, and nothing is shown twice.

    Args:
        address: of the job server.
        write: given the log as it comes, in pieces that hold their own line ends.
        say: told why a job failed, and that a connection was lost.

    Returns:
        0 where the job succeeded; else its command's exit status, or 1 where it has none.

    Raises:
        JobError: no such job, or its server was lost for good.
    """
    client = _connect(address)
    _details(client, address, job_id)  # an unknown job is told at once
    once = _Once(write)

    def ended() -> bool:
        try:
            return str(_details(client, address, job_id).status) in _ENDED
        except JobError:
            return True  # or so it seems

    while True:
        asyncio.run(_watch(client, job_id, once, ended))
        job = _patiently(lambda: _details(client, address, job_id), say)
        over = str(job.status) in _ENDED
        try:  # after the status: the log of a job that has ended is whole; and for proxies that pass no stream on
            once.from_start(_log(client, address, job_id))
        except JobError as error:
            if over:
                say(f"the log's end cannot be read: {error}")
        if over:
            break
        time.sleep(1)
    code = 0 if job.status == "SUCCEEDED" else _exit_status(job.driver_exit_code)
    if code:
        say(f"job {job_id}: {_reason(job)}")
    return code


def jobs(address: str) -> list[Job]:
    """Captune's jobs that the server remembers, newest first. Raises JobError."""
    client = _connect(address)
    with _one_line(address):
        found = _within(_REQUEST_SECONDS, client.list_jobs)
    ours = [_job(details) for details in found if _OURS in (details.metadata or {}) and details.submission_id]
    return sorted(ours, key=lambda job: job.started or datetime.min.replace(tzinfo=UTC), reverse=True)


def logs(address: str, job_id: str) -> str:
    """What a job has printed so far. Raises JobError."""
    client = _connect(address)
    _details(client, address, job_id)
    return _log(client, address, job_id)


def cancel(address: str, job_id: str) -> Job:
    """Ends a job as Ctrl-C would, after 60 seconds by force, and waits for it. One that has ended stays as it is.

    Raises:
        JobError: no such job, or it did not end.
    """
    client = _connect(address)
    until = time.monotonic() + _STOP_SECONDS + _REQUEST_SECONDS
    while str((found := _details(client, address, job_id)).status) not in _ENDED:
        if time.monotonic() > until:
            raise JobError(f"job {job_id} was told to stop and is still {found.status}; try again")
        with _one_line(address):  # again and again: a job that is about to start may miss it
            _within(_REQUEST_SECONDS, lambda: client.stop_job(job_id))
        time.sleep(0.5)
    return _job(found)


def _addressed(arguments: Sequence[str], joins: bool) -> list[str]:
    """The arguments without their --address, and with the cluster's own where the command takes one."""
    told: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            told += [argument, *rest]
        elif argument == "--address":
            next(rest, None)
        elif not argument.startswith("--address="):
            told.append(argument)
    return [*told[:1], "--address", "auto", *told[1:]] if joins else told


def _connect(address: str) -> Any:
    """Ray's client of a job server of the same Ray. Raises JobError, within ten seconds."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that does not close
        usable = False
    if not usable:
        raise JobError(f"a job server's address is http://host:8265, got {address!r}")
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    with _one_line(address, "is no Ray job server"), _no_other_address(address):
        client = _within(_REACH_SECONDS, lambda: JobSubmissionClient(address))
    theirs = client._server_ray_version
    if theirs != ray.__version__:
        raise JobError(
            f"{address} runs Ray {theirs}, this machine {ray.__version__}; install the cluster's version here"
        )
    return client


@contextmanager
def _no_other_address(address: str) -> Iterator[None]:
    """Ray's client would rather go where RAY_ADDRESS points than where it is told."""
    name = "RAY_API_SERVER_ADDRESS"  # goes before RAY_ADDRESS
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises, or TimeoutError: Ray's client knows no time limit."""
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return done[0]


@contextmanager
def _one_line(address: str, otherwise: str = "refuses") -> Iterator[None]:
    """Turns whatever Ray's client and what is below it raise into a JobError.

    Args:
        otherwise: what the server does where it answers and none of the known cases is met.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise JobError(_token_complaint(address, str(error))) from error
    except (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout) as error:
        raise _LostError(
            f"no Ray job server can be reached at {address} ({_root(error)}); "
            "its port is the dashboard's, 8265 unless `ray start --head --dashboard-port` says otherwise"
        ) from error
    except Exception as error:  # RuntimeError, and what requests, JSON and pydantic have
        text = " ".join(str(error).split())
        kind = _LostError if re.search(r"status code 5\d\d", text) else JobError
        raise kind(f"{address} {otherwise}: {text[:300]}") from error


def _token_complaint(address: str, told: str) -> str:
    """Ray's three cases: the server got no token, another one, or there was none to send."""
    if told.startswith("Authentication required"):
        case = f"{address} asks for Ray's token; set RAY_AUTH_MODE=token, and"
    elif told.startswith("Authentication failed"):
        case = f"{address} has another token than the one that was sent; set"
    else:
        case = "RAY_AUTH_MODE=token is set, and no token can be read here; set"
    return f"{case} RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's"


def _root(error: BaseException) -> str:
    """What a chain of errors began with, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(str(error).split())[:200]


def _details(client: Any, address: str, job_id: str) -> Any:
    """Ray's JobDetails. Raises JobError."""
    unknown = JobError(f"{address} has no job {job_id}; `captune jobs {address}` lists them")
    if not re.fullmatch(r"[\w-]+", job_id, re.ASCII):  # it becomes part of an address
        raise unknown
    try:
        with _one_line(address):
            found = _within(_REQUEST_SECONDS, lambda: client.get_job_info(job_id))
    except JobError as error:
        if "status code 404" in str(error):
            raise unknown from None
        raise
    if found.type != "SUBMISSION":  # a program that joined the cluster by itself
        raise unknown
    return found


def _log(client: Any, address: str, job_id: str) -> str:
    with _one_line(address):
        return str(_within(_REQUEST_SECONDS, lambda: client.get_job_logs(job_id)))


def _job(details: Any) -> Job:
    def moment(milliseconds: int | None) -> datetime | None:
        return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)

    return Job(
        details.submission_id,
        str(details.status),
        moment(details.start_time),
        moment(details.end_time),
        (details.metadata or {}).get("command", details.entrypoint),
    )


def _exit_status(code: int | None) -> int:
    """As a shell would give it: a command that was killed, or never ran, has none of its own."""
    return code if code is not None and 0 < code < 256 else 1


def _reason(details: Any) -> str:
    """Why a job did not succeed."""
    if details.status == "STOPPED":
        return "stopped"
    if details.driver_exit_code is not None:
        return f"failed, exit status {details.driver_exit_code}"
    return f"failed, {' '.join((details.message or 'for no known reason').split())[:300]}"


class _Once:
    """Passes on what it was not given before: a log is sent from its start each time."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._met = self._shown = 0

    def from_start(self, text: str = "") -> None:
        """The log begins again, with this text."""
        self._met = 0
        self.add(text)

    def add(self, text: str) -> None:
        """The log goes on."""
        fresh = text[max(0, self._shown - self._met) :]
        self._met += len(text)
        if fresh:
            self._shown = self._met
            self._write(fresh)


async def _watch(client: Any, job_id: str, once: _Once, ended: Callable[[], bool]) -> None:
    """Passes on the log as it comes, until the job has ended or the connection is lost."""
    tail = asyncio.create_task(_tail(client, job_id, once))
    while not tail.done() and not ended():  # the server itself takes seconds to notice
        await asyncio.wait({tail}, timeout=1)
    tail.cancel()
    await asyncio.wait({tail})
    if not tail.cancelled():
        tail.result()  # what `write` raised


async def _tail(client: Any, job_id: str, once: _Once) -> None:
    """Passes on the log from its start, until it ends, the connection is lost or nothing comes for a minute."""
    once.from_start()
    async with aclosing(client.tail_job_logs(job_id)) as pieces:
        while True:
            try:
                piece = await asyncio.wait_for(anext(pieces), _QUIET_SECONDS)
            except Exception:  # the caller looks how the job stands, whatever ended this
                return
            once.add(piece)


def _patiently(call: Callable[[], T], say: Callable[[str], None]) -> T:
    """What a call returns, tried again where the server is lost. Raises JobError."""
    for pause in _PAUSES:
        try:
            return call()
        except _LostError as error:
            say(f"{error}; trying again in {pause} s")
            time.sleep(pause)
    return call()
