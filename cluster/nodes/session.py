"""Opens and closes Ray: a local cluster of our own, or one that runs already."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from captune.cluster.nodes.resources import Node
from captune.errors import WorkError

_ANSWER_SECONDS = 5.0  # for the head to answer a question
_HOME_SECONDS = 3.0  # for a node of this machine that has just been started to be known to the head
_MODE = "RAY_AUTH_MODE"
_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's"
CUT_OFF_SECONDS = 30.0
"""Without a word from the head after which a node is taken to be cut off: see `end_without_head`."""


class ClusterError(WorkError):
    """Ray could not be started or reached."""


@contextmanager
def session(address: str | None) -> Iterator[list[Node]]:
    """Ray, connected; on leaving, disconnected, and stopped if it was started here.

    Args:
        address: None for a local cluster of this machine's CPUs and GPUs; "auto" or "host:port" of a running one.

    Yields:
        The nodes that are alive.

    Raises:
        ClusterError: the address cannot be joined; within ten seconds.
    """
    # Read by Ray when it is imported. Its usage report would reach for the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray._private import worker
    from ray._raylet import Config  # type: ignore[attr-defined]

    # What goes wrong in a cluster is printed to stdout even without log_to_driver, and results are what stdout is for.
    # The one switch known that works after Ray was imported; Ray's debugger uses it. The logs of Ray's nodes keep all.
    worker._worker_logs_enabled = False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    mode = os.environ.get(_MODE)
    try:
        _open(address, quiet)
        try:
            yield alive()
        finally:
            ray.shutdown()
    finally:
        # A local Ray asks for a token, and has this process ask for one from then on: the next Ray may have none.
        os.environ.pop(_MODE, None)
        os.environ |= {} if mode is None else {_MODE: mode}
        Config.initialize("")


def _open(address: str | None, quiet: dict[str, Any]) -> None:
    import ray

    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _check(address)
            ray.init(address=address, **quiet)
    except ClusterError:
        raise
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and its own
        why = " ".join(str(error).split())[:200]
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
    from ray._private.state import state  # no public way to learn it

    return set(state.get_draining_nodes()) if ray.is_initialized() else set()


def free() -> str:
    """What no one has taken of the cluster, in words."""
    import ray

    left = ray.available_resources()
    return f"{left.get('CPU', 0.0):g} CPUs and {left.get('GPU', 0.0):g} GPUs are free on {len(alive())} nodes"


def end_without_head(node: str, seconds: float = CUT_OFF_SECONDS) -> None:
    """From now on ends this process, a worker on a node, once it is cut off from the head of its cluster.

    That is when the head has not answered for `seconds`, or says that it has given the node up. What ran here is then
    handed out again, and a process that went on would write to the same files. Ray alone is too late: where a network
    swallows packets the head gives a node up after 63 s, and the node's workers end after 280 s (measured, Ray 2.60's
    own settings).

    Args:
        node: id of the node that this process runs on.
    """
    import ray

    head = ray.get_runtime_context().gcs_address
    threading.Thread(target=_watch, args=(head, node, seconds), name="end_without_head", daemon=True).start()


def _watch(head: str, node: str, seconds: float) -> None:
    pause = min(_ANSWER_SECONDS, seconds / 6)
    answered, failures = math.inf, 0  # silence counts from the first answer on: who never got one cannot judge
    while True:
        why = ""
        try:
            if not _members(head, [node], head, pause):
                why = "the head has given up this node"
            answered, failures = time.monotonic(), 0
        except ClusterError as error:
            failures += 1  # two at least: one question may have been under way while this machine slept
            if failures > 1 and time.monotonic() - answered > seconds:
                why = f"no answer from the head for {seconds:g} s ({error})"
        if why:
            print(f"{why}; this process ends, and what it did is done elsewhere", file=sys.stderr, flush=True)
            os._exit(1)
        time.sleep(pause)


def _check(address: str) -> None:
    """Asks the head at an address, and whether this machine is one of its nodes, before Ray does.

    Ray itself asks for two minutes where nobody answers, and for one where the cluster has no node on this machine.
    """
    from ray._private import services

    given = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if "://" in given:
        raise ClusterError(
            f"{given} is no address to join: a search runs on a node of the cluster, which is joined by `auto` or the "
            "head's host:port; `captune submit http://head:8265` sends it there"
        )
    host, _, port = given.rpartition(":")
    if given != "auto" and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ClusterError(f"an address to join is auto or host:port, got {given!r}; a head's port is 6379 by default")
    try:
        head = services.canonicalize_bootstrap_address(given)  # no public part of ray.init does it
    except ConnectionError:
        raise ClusterError(
            "no node of a Ray cluster runs on this machine; start one with `ray start --head`, or with "
            "`ray start --address=HEAD:6379` to be part of one, or leave --address out"
        ) from None
    name = head if given == "auto" else given
    if not _is_tls() and not _asks_for_token(head, name):
        # A token that Ray finds here, of another cluster or of a local one, would be asked of the workers too. They
        # have none, and what they answer would be refused without a word.
        if os.environ.get(_MODE, "").lower() == "token":
            raise ClusterError(
                f"the Ray cluster at {name} asks for no token, and {_MODE}=token is set here, so that what its nodes "
                f"answer would be refused; set {_MODE}=disabled"
            )
        os.environ[_MODE] = "disabled"
    elif given == "auto":
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

        logging.getLogger("ray").setLevel(logging.ERROR)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as ray.init will do
    until = time.monotonic() + _HOME_SECONDS
    while not _members(head, services.find_node_ids(), name):
        if time.monotonic() > until:
            raise ClusterError(
                f"this machine is no node of the Ray cluster at {name}; make it one with `ray start --address={head}`, "
                "or send the command to one: --address http://head:8265"
            )
        time.sleep(0.3)


def _is_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _asks_for_token(head: str, name: str) -> bool:
    """Whether a head refuses who has no token. Raises ClusterError as `_members` does."""
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    channel = grpc.insecure_channel(head, options=[("grpc.enable_http_proxy", 0)])
    try:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=_ANSWER_SECONDS)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return True
        raise ClusterError(_refusal(name, error, _ANSWER_SECONDS)) from error
    finally:
        channel.close()
    return False


def _members(head: str, nodes: Iterable[str], name: str, timeout: float = _ANSWER_SECONDS) -> list[str]:
    """Which of some nodes belong to the cluster of a head and are alive.

    Args:
        head: host:port. name: what the user calls it.

    Raises:
        ClusterError: within `timeout` seconds where there is no head, or one with another Ray or another token.
    """
    import grpc
    import ray
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    # The question that Ray's dashboard asks. Ray's own clients have no time limit that holds before they are
    # connected: `ray health-check` on a port that accepts and keeps silent takes minutes. The channel is Ray's as it
    # knows about tokens, TLS and proxies.
    asked = list(nodes)
    request = gcs_service_pb2.CheckAliveRequest(node_ids=[bytes.fromhex(node) for node in asked])
    channel = create_gcs_channel(head)
    try:
        reply = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(request, timeout=timeout)
    except AuthenticationError as error:
        raise ClusterError(f"RAY_AUTH_MODE=token is set, and no token can be read here; set {_TOKEN}") from error
    except grpc.RpcError as error:
        raise ClusterError(_refusal(name, error, timeout)) from error
    finally:
        channel.close()
    if reply.ray_version != ray.__version__:
        raise ClusterError(
            f"the cluster at {name} runs Ray {reply.ray_version}, this machine {ray.__version__}; "
            "install the cluster's version here"
        )
    return [node for node, alive in zip(asked, reply.raylet_alive, strict=True) if alive]


def _refusal(head: str, error: Any, timeout: float) -> str:
    """What a gRPC error means at the address of a head."""
    import grpc
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    code, told = error.code(), " ".join(str(error.details()).split())
    if code == grpc.StatusCode.UNAUTHENTICATED:
        if is_token_auth_enabled():
            return f"the Ray cluster at {head} has another token than the one that was sent; set {_TOKEN}"
        return f"the Ray cluster at {head} asks for its token; set RAY_AUTH_MODE=token, and {_TOKEN}"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        what = f"no Ray answers at {head} within {timeout:g} s"
    elif code == grpc.StatusCode.UNAVAILABLE and not re.search(r"HTTP/?[12]", told, re.IGNORECASE):
        what = f"no Ray can be reached at {head} ({told[-150:]})"
    else:
        what = f"{head} answers, but is not the head of a Ray cluster"
    return (
        f"{what}; the head's port is 6379 unless `ray start --head --port` says otherwise, "
        "a job server is named http://head:8265, and without --address this machine is used alone"
    )
