"""Opens and closes Ray: a local cluster of our own, or one that runs already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.resources import Node

_REACH_SECONDS = 10


class ClusterError(RuntimeError):
    """Ray could not be started or reached."""


@contextmanager
def session(address: str | None) -> Iterator[list[Node]]:
    """Ray, connected; on leaving, disconnected, and stopped if it was started here.

    Args:
        address: None for a local cluster of this machine's CPUs and GPUs; "auto" or "host:port" of a running one.

    Yields:
        The nodes that are alive.

    Raises:
        ClusterError: the address cannot be reached.
    """
    # Read by Ray when it is imported. Its usage report would reach for the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _reach(address)
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and its own
        where = "a local Ray" if address is None else f"Ray at {address}"
        raise ClusterError(
            f"cannot start or join {where}: {' '.join(str(error).split())[:200]}; "
            "start one with `ray start --head`, set RAY_AUTH_MODE=token if it asks for a token, or leave --address out"
        ) from error
    try:
        yield alive()
    finally:
        ray.shutdown()


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
    from ray._private.state import state  # no public way to learn it

    return set(state.get_draining_nodes()) if ray.is_initialized() else set()


def free() -> str:
    """What no one has taken of the cluster, in words."""
    import ray

    left = ray.available_resources()
    return f"{left.get('CPU', 0.0):g} CPUs and {left.get('GPU', 0.0):g} GPUs are free on {len(alive())} nodes"


def _reach(address: str) -> None:
    """Raises OSError where nothing listens at host:port: Ray itself would try for two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
