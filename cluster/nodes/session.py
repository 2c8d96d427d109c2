"""Opens and closes Ray: a local cluster of our own, or one that runs already."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from captune.cluster.nodes.address import ClusterError, check_address
from captune.cluster.nodes.ray_private import (
    draining_nodes,
    folder_of_local_rays,
    import_ray,
    job_of_installed_code,
    on_loopback,
    read_token_mode_again,
    sigterm_left_alone,
    worker_faults_kept_from_stdout,
)
from captune.cluster.nodes.resources import Node
from captune.cluster.nodes.token_file import provide_token
from captune.environment import environment
from captune.errors import one_line
from captune.files import scratch

# Pages of metrics ask for no token. Two of them have no switch: where there is no such port, there is no page.
_NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}


@contextmanager
def session(address: str | None) -> Iterator[list[Node]]:
    """Ray, connected; on leaving, disconnected, and stopped if it was started here, with all that it wrote.

    Environment and log level of this process are afterwards what they were before; its signals are its own throughout.

    Args:
        address: None for a local cluster of this machine's CPUs and GPUs; "auto" or "host:port" of a running one.

    Yields:
        The nodes that are alive.

    Raises:
        ClusterError: the address cannot be joined; within ten seconds.
    """
    with _process_restored(), worker_faults_kept_from_stdout():
        import ray

        if ray.is_initialized():
            raise ClusterError(
                "this process has joined a Ray already: call ray.shutdown() first, or use another process"
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the report would reach for the network
        with scratch(folder_of_local_rays()) if address is None else nullcontext() as folder:
            with on_loopback(), sigterm_left_alone(), _closed_terminal_kept_from_ray():
                _open(address, folder)
            try:
                yield alive()
            finally:
                ray.shutdown()


@contextmanager
def _process_restored() -> Iterator[None]:
    """Puts back what Ray changes in a process that it is started from or joined by.

    A local Ray asks for a token, and has this process ask for one from then on: the next Ray may have none.
    """
    log = logging.getLogger("ray")
    level = log.level
    try:
        with environment():
            import_ray()
            yield
    finally:
        read_token_mode_again()
        log.setLevel(level)


@contextmanager
def _closed_terminal_kept_from_ray() -> Iterator[None]:
    """What is started here does not hear that the terminal is closed, nor does it hear Ctrl-C: this process ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open(address: str | None, folder: Path | None) -> None:
    """Starts or joins Ray. folder: of what a local one writes."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address is None:
            provide_token()
            for name, value in _NO_METRICS.items():
                os.environ.setdefault(name, value)
            quiet |= {"include_dashboard": False, "_temp_dir": str(folder)}
            ray.init(address="local", job_config=job_of_installed_code(), **quiet)
        else:
            check_address(address)
            ray.init(address=address, job_config=job_of_installed_code(), **quiet)
    except ClusterError:
        raise
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and its own
        why = one_line(error, 200)
        if address is None:
            raise ClusterError(f"cannot start Ray on this machine: {why}") from error
        raise ClusterError(
            f"cannot join Ray at {address}: {why}; start one with `ray start --head`, or leave --address out"
        ) from error


def alive() -> list[Node]:
    """The nodes of the cluster that this process has joined, as they are now."""
    import ray

    return [
        Node(
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            node["NodeManagerHostname"],
            node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def draining() -> set[str]:
    """Ids of nodes that are about to be taken away: a spot machine recalled, a node that an autoscaler gives back."""
    import ray

    return draining_nodes() if ray.is_initialized() else set()


def free() -> str:
    """What no one has taken of the cluster, in words."""
    import ray

    unused = ray.available_resources()
    return f"{unused.get('CPU', 0.0):g} CPUs and {unused.get('GPU', 0.0):g} GPUs are free on {len(alive())} nodes"
