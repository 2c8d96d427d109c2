"""All that is used here of Ray Core that Ray does not promise to keep: tests/test_private_ray.py names each part."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

JOB_CLIENT_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""What says on stderr what is sent with a job."""


def import_ray() -> None:
    """The first import of Ray, without what it says in a notebook that has no widgets."""
    widgets = logging.getLogger("ray.widgets.util")
    widgets.disabled = True
    import ray  # noqa: F401

    widgets.disabled = False


@contextmanager
def worker_faults_kept_from_stdout() -> Iterator[None]:
    """Ray prints what goes wrong in a cluster to stdout even without log_to_driver, and results are what stdout is for.

    The one switch known that works after Ray was imported; Ray's debugger uses it. The logs of Ray's nodes keep all.
    """
    from ray._private import worker

    before = worker._worker_logs_enabled
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


@contextmanager
def sigterm_left_alone() -> Iterator[None]:
    """SIGTERM stays with whoever has it, where Ray's start takes it twice: in Python, and in its native part, unseen.

    The one ends the process with 15, the other aborts it. What Ray has started by then hears SIGTERM as it always does.
    """
    from ray._private import utils, worker

    set_handler, connect = utils.set_sigterm_handler, worker.connect

    def connect_and_take_back(*arguments: Any, **options: Any) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            connect(*arguments, **options)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    utils.set_sigterm_handler, worker.connect = lambda handler: None, connect_and_take_back
    try:
        yield
    finally:
        utils.set_sigterm_handler, worker.connect = set_handler, connect


def folder_of_local_rays() -> Path:
    """Where a Ray of this machine makes its folder if it is not told otherwise."""
    from ray._common.utils import get_default_system_temp_dir

    return Path(get_default_system_temp_dir())


class _NoFolders(list[str]):
    def extend(self, folders: Iterable[str]) -> None:
        """None of them."""


def job_of_installed_code() -> Any:
    """A job whose workers find what is installed, and no module in the folder where someone works or of their script.

    Ray puts both of them in front of all else that its workers can import.
    """
    from ray.job_config import JobConfig

    job = JobConfig()
    job._py_driver_sys_path = _NoFolders()
    return job


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started while inside listens on this machine's loopback alone, and one that does so can be joined.

    That is how Ray is where it offers no clusters, on macOS and Windows. Elsewhere it takes 127.0.0.1, wherever it is
    named, for the machine's outer address, and listens on all there are.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def read_token_mode_again() -> None:
    """Has Ray's native part go by RAY_AUTH_MODE, and by the token, as they are in the environment now."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def use_token_that_is_here() -> None:
    """Asks for Ray's token where one can be read on this machine, as ray.init does."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    logging.getLogger("ray").setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def is_token_sent() -> bool:
    """Whether this process sends a token with what it asks."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def head_at(address: str) -> str:
    """host:port of the head that `auto` or an address means. Raises ConnectionError where no Ray runs here."""
    from ray._private import services

    return str(services.canonicalize_bootstrap_address(address))


def nodes_of_this_machine() -> list[str]:
    """Ids of the nodes that run here, of whatever cluster."""
    from ray._private import services

    return list(services.find_node_ids())


def channel_to(head: str) -> Any:
    """A gRPC channel to a head, that knows about tokens, TLS and proxies. Raises ray.exceptions.AuthenticationError."""
    from ray._private.gcs_utils import create_gcs_channel

    return create_gcs_channel(head)


def check_alive(channel: Any, nodes: Sequence[str], timeout: float) -> tuple[str, list[bool]]:
    """Ray's version at a head, and whether each node is a living one of its cluster. Raises grpc.RpcError.

    The question that Ray's dashboard asks. Ray's own clients have no time limit that holds before they are connected:
    `ray health-check` on a port that accepts and keeps silent takes minutes.
    """
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    request = gcs_service_pb2.CheckAliveRequest(node_ids=[bytes.fromhex(node) for node in nodes])
    reply = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(request, timeout=timeout)
    return reply.ray_version, list(reply.raylet_alive)


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be taken away."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """What nobody has taken, by node id and name of the resource."""
    from ray._private.state import available_resources_per_node

    return available_resources_per_node()


def nodes_of_actors(class_name: str) -> list[str]:
    """Node ids of the living actors with `class_name` in the name of their class, one for each."""
    from ray._private.state import actors

    living: Iterable[Mapping[str, Any]] = (actor for actor in actors().values() if actor["State"] == "ALIVE")
    return [actor["Address"]["NodeID"] for actor in living if class_name in str(actor.get("ActorClassName", ""))]


def store(namespace: bytes, key: str, value: bytes) -> None:
    """Keeps a value at the head of the cluster, in the place of an earlier one, for as long as there is the cluster."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, overwrite=True, namespace=namespace)


def stored(namespace: bytes) -> dict[str, bytes]:
    """What is kept in a namespace at the head, by key."""
    from ray.experimental.internal_kv import _internal_kv_list

    keys = [key.decode() for key in _internal_kv_list("", namespace=namespace)]
    return {key: found for key in keys if (found := value(namespace, key)) is not None}


def value(namespace: bytes, key: str) -> bytes | None:
    """The one that is kept under a key; None where none is."""
    from ray.experimental.internal_kv import _internal_kv_get

    found: bytes | None = _internal_kv_get(key, namespace=namespace)
    return found


def remove(namespace: bytes, key: str) -> None:
    """Forgets what is kept under a key, if anything is."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=namespace)


def running_jobs() -> set[str]:
    """Ids of the jobs whose drivers are connected."""
    from ray._private.state import state

    return {job["JobID"] for job in state.job_table() if not job["IsDead"]}


def version_at(job_client: Any) -> str | None:
    """Of the Ray whose job server a client is connected to."""
    return job_client._server_ray_version
