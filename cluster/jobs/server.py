"""Ray's job server: the connection to it, what it knows of a job, and why it does not answer."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from captune.cluster.jobs.package import JobError
from captune.cluster.nodes.ray_private import JOB_CLIENT_LOGGERS, version_at
from captune.errors import one_line, shell_word

T = TypeVar("T")

_REACH_SECONDS = 10  # Ray's client waits without end
_REQUEST_SECONDS = 60
_PAUSES = (1, 2, 4, 8, 15)  # seconds, before each further attempt to reach a server that was lost


class LostError(JobError):
    """The server did not answer, and may later."""


class Server:
    """A job server of the same Ray as here.

    Args:
        address: http://host:8265.

    Raises:
        JobError: from this and from every method. Here within ten seconds where the server cannot be reached, is none,
            has another Ray or refuses the token.
    """

    def __init__(self, address: str) -> None:
        try:
            parts = urlsplit(address)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none, a bracket that does not close
            usable = False
        if not usable:
            raise JobError(f"a job server's address is http://host:8265, got {address!r}")
        import ray
        from ray.job_submission import JobSubmissionClient

        self.address = address
        with _explained(address, "is no Ray job server"), _no_other_address(address):
            self.client: Any = _within(_REACH_SECONDS, lambda: JobSubmissionClient(address))
        version = version_at(self.client)
        if version != ray.__version__:
            raise JobError(
                f"{address} runs Ray {version}, this machine {ray.__version__}; install the cluster's version here"
            )

    def submit(self, **job: Any) -> str:
        """Sends a job as Ray's client takes it, and returns its id."""
        with _explained(self.address):
            return str(self.client.submit_job(**job))

    def details(self, job: str) -> Any:
        """Ray's JobDetails."""
        unknown = JobError(
            f"{self.address} has no job {job}; `ray job list --address {shell_word(self.address)}` lists them"
        )
        if not re.fullmatch(r"[\w-]+", job, re.ASCII):  # it becomes part of an address
            raise unknown
        try:
            with _explained(self.address):
                details = _within(_REQUEST_SECONDS, lambda: self.client.get_job_info(job))
        except JobError as error:
            if "status code 404" in str(error):
                raise unknown from None
            raise
        if details.type != "SUBMISSION":  # a program that joined the cluster by itself
            raise unknown
        return details

    def log(self, job: str) -> str:
        """What a job has printed so far."""
        with _explained(self.address):
            return str(_within(_REQUEST_SECONDS, lambda: self.client.get_job_logs(job)))


def patiently(call: Callable[[], T], say: Callable[[str], None]) -> T:
    """What a call returns, tried again where the server is lost. Raises JobError."""
    for pause in _PAUSES:
        try:
            return call()
        except LostError as error:
            say(f"{error}; trying again in {pause} s")
            time.sleep(pause)
    return call()


@contextmanager
def client_kept_quiet() -> Iterator[None]:
    """Ray's client says on stderr what it sends; captune says so itself."""
    levels = {name: logging.getLogger(name).level for name in JOB_CLIENT_LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


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
    results: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return results[0]


@contextmanager
def _explained(address: str, otherwise: str = "refuses") -> Iterator[None]:
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
        raise LostError(
            f"no Ray job server can be reached at {address} ({_root(error)}); "
            "its port is the dashboard's, 8265 unless `ray start --head --dashboard-port` says otherwise"
        ) from error
    except Exception as error:  # RuntimeError, and what requests, JSON and pydantic have
        kind = LostError if re.search(r"status code 5\d\d", str(error)) else JobError
        raise kind(f"{address} {otherwise}: {one_line(error)}") from error


def _token_complaint(address: str, refusal: str) -> str:
    """Ray's three cases: the server got no token, another one, or there was none to send."""
    if refusal.startswith("Authentication required"):
        case = f"{address} asks for Ray's token; set RAY_AUTH_MODE=token, and"
    elif refusal.startswith("Authentication failed"):
        case = f"{address} has another token than the one that was sent; set"
    else:
        case = "RAY_AUTH_MODE=token is set, and no token can be read here; set"
    return f"{case} RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's"


def _root(error: BaseException) -> str:
    """What a chain of errors began with, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return one_line(error, 200)
