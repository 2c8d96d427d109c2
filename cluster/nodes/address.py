"""Looks at an address before Ray joins it: Ray itself asks for minutes where nobody answers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any

from captune.cluster.nodes import ray_private
from captune.errors import WorkError, one_line

AUTH_MODE = "RAY_AUTH_MODE"
ANSWER_SECONDS = 5.0  # for the head to answer a question
_HOME_SECONDS = 3.0  # for a node of this machine that has just been started to be known to the head
_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's"


class ClusterError(WorkError):
    """Ray could not be started or reached."""


def check_address(address: str) -> None:
    """Asks the head at an address, and whether this machine is one of its nodes; readies this process for its token.

    Raises:
        ClusterError: within ten seconds: no address, no head, one with another Ray or token, or not of this machine.
    """
    target = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if "://" in target:
        raise ClusterError(
            f"{target} is no address to join: a search runs on a node of the cluster, which is joined by `auto` or the "
            "head's host:port; `captune submit http://head:8265` sends it there"
        )
    host, _, port = target.rpartition(":")
    if target != "auto" and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ClusterError(f"an address to join is auto or host:port, got {target!r}; a head's port is 6379 by default")
    try:
        head = ray_private.head_at(target)
    except ConnectionError:
        raise ClusterError(
            "no node of a Ray cluster runs on this machine; start one with `ray start --head`, or with "
            "`ray start --address=HEAD:6379` to be part of one, or leave --address out"
        ) from None
    name = head if target == "auto" else target
    if not _is_tls() and not _requires_token(head, name):
        # A token that Ray finds here, of another cluster or of a local one, would be asked of the workers too. They
        # have none, and what they answer would be refused without a word.
        if os.environ.get(AUTH_MODE, "").lower() == "token":
            raise ClusterError(
                f"the Ray cluster at {name} asks for no token, and {AUTH_MODE}=token is set here, so that what its "
                f"nodes answer would be refused; set {AUTH_MODE}=disabled"
            )
        os.environ[AUTH_MODE] = "disabled"
    elif target == "auto":
        ray_private.use_token_that_is_here()
    until = time.monotonic() + _HOME_SECONDS
    while not members(head, ray_private.nodes_of_this_machine(), name):
        if time.monotonic() > until:
            raise ClusterError(
                f"this machine is no node of the Ray cluster at {name}; make it one with `ray start --address={head}`, "
                "or send the command to one: --address http://head:8265"
            )
        time.sleep(0.3)


def members(head: str, nodes: Iterable[str], name: str, timeout: float = ANSWER_SECONDS) -> list[str]:
    """Which of some nodes belong to the cluster of a head and are alive.

    Args:
        head: host:port. name: what the user calls it.

    Raises:
        ClusterError: within `timeout` seconds where there is no head, or one with another Ray or another token.
    """
    import grpc
    import ray
    from ray.exceptions import AuthenticationError

    ids = list(nodes)
    channel = None
    try:
        channel = ray_private.channel_to(head)
        version, alive = ray_private.check_alive(channel, ids, timeout)
    except AuthenticationError as error:
        raise ClusterError(f"{AUTH_MODE}=token is set, and no token can be read here; set {_TOKEN}") from error
    except grpc.RpcError as error:
        raise ClusterError(_refusal(name, error, timeout)) from error
    finally:
        if channel is not None:
            channel.close()
    if version != ray.__version__:
        raise ClusterError(
            f"the cluster at {name} runs Ray {version}, this machine {ray.__version__}; "
            "install the cluster's version here"
        )
    return [node for node, is_alive in zip(ids, alive, strict=True) if is_alive]


def _is_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _requires_token(head: str, name: str) -> bool:
    """Whether a head refuses who has no token. Raises ClusterError as `members` does."""
    import grpc

    with grpc.insecure_channel(head, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            ray_private.check_alive(channel, [], ANSWER_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return True
            raise ClusterError(_refusal(name, error, ANSWER_SECONDS)) from error
    return False


def _refusal(head: str, error: Any, timeout: float) -> str:
    """What a gRPC error means at the address of a head."""
    import grpc

    code, detail = error.code(), one_line(error.details(), 10_000)
    if code == grpc.StatusCode.UNAUTHENTICATED:
        if ray_private.is_token_sent():
            return f"the Ray cluster at {head} has another token than the one that was sent; set {_TOKEN}"
        return f"the Ray cluster at {head} asks for its token; set RAY_AUTH_MODE=token, and {_TOKEN}"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        what = f"no Ray answers at {head} within {timeout:g} s"
    elif code == grpc.StatusCode.UNAVAILABLE and not re.search(r"HTTP/?[12]", detail, re.IGNORECASE):
        what = f"no Ray can be reached at {head} ({detail[-150:]})"
    else:
        what = f"{head} answers, but is not the head of a Ray cluster"
    return (
        f"{what}; the head's port is 6379 unless `ray start --head --port` says otherwise, "
        "a job server is named http://head:8265, and without --address this machine is used alone"
    )
