"""Sends a captune command to a Ray cluster's job server."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from captune.cluster.jobs.package import JobError, own_version, shipment
from captune.cluster.jobs.server import LostError, Server, client_kept_quiet, patiently
from captune.files import scratch

_STOP_SECONDS = 60  # a search tells its study how it ended; Ray's own three are too few
_NO_AGENT = "No available agent to submit job"  # what a server says whose head is still starting


def submit(
    address: str, arguments: Sequence[str], *, files: Mapping[str, str], joins: bool, say: Callable[[str], None]
) -> str:
    """Sends a command to a cluster, where it runs on the head node, and returns its job's id at once.

    Args:
        address: of the job server, http://host:8265.
        arguments: a verb and what follows it; an --address among them gives way to the cluster's own.
        files: options whose value is a local file, with the name under which the job gets it.
        joins: whether the command takes --address and shall use the cluster's nodes.
        say: is called with what is sent.

    Raises:
        JobError: within ten seconds where the server cannot be reached, is none, has another Ray or refuses the token;
            otherwise where it does not accept the job.
    """
    shipped = shipment(arguments, files=files)
    if not shipped.arguments:
        raise JobError("a job needs a command, such as: search DATA --run RUN")
    command = _addressed(shipped.arguments, joins)
    own = {name: size for name, size in shipped.sizes if name in files.values()}
    settings = "".join(f", {name} ({size} bytes)" for name, size in own.items())
    with client_kept_quiet(), scratch() as aside:
        server = Server(address)
        code = len(shipped.contents) - len(own)
        say(f"sending captune's code ({code} files){settings}; {shipped.total / 1024:.0f} KiB")
        folder = aside / "job"
        shipped.write(folder)
        # As Ctrl-C, after which a search can be resumed; Ray's default is SIGTERM.
        stop = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}

        def send() -> str:
            try:
                return server.submit(
                    entrypoint=f"exec python -m captune {shlex.join(command)}",
                    runtime_env={"working_dir": str(folder), "env_vars": stop},
                    metadata={"captune": own_version() or "unknown", "command": shlex.join(["captune", *arguments])},
                )
            except LostError as error:
                if _NO_AGENT in str(error):
                    raise
                raise JobError(str(error)) from error  # it may have been taken: not to be sent twice

        return patiently(send, say)


def _addressed(arguments: Sequence[str], joins: bool) -> list[str]:
    """The arguments without their --address, and with the cluster's own where the command takes one."""
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            others += [argument, *rest]
        elif argument == "--address":
            next(rest, None)
        elif not argument.startswith("--address="):
            others.append(argument)
    return [*others[:1], "--address", "auto", *others[1:]] if joins else others
