"""Ray itself: started and stopped, or refused in one line and in seconds; a process is afterwards as it was before."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray_nodes import ROOT, TOKEN, one_line_of, ray_head, until, without_ray

from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.session import session

pytestmark = pytest.mark.cluster

HOST = "127.0.0.2"  # of loopback as 127.0.0.1 is, which Ray takes for the machine's outer address


def refused(address: str, *words: str) -> None:
    one_line_of(ClusterError, lambda: session(address).__enter__(), address, *words, within=10)


def state_of_this_process() -> dict[str, object]:
    from ray._private import worker

    log = logging.getLogger("ray")
    return {
        "environment": dict(os.environ),
        "log": (log.level, log.propagate, list(log.handlers)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "faults of workers on stdout": worker._worker_logs_enabled,  # type: ignore[attr-defined]
    }


def test_local_session_has_this_machines_cpus_and_leaves_nothing_behind(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    logging.getLogger("ray").setLevel(logging.WARNING)
    before = state_of_this_process()
    with pytest.raises(KeyError, match="ours"), session(None) as nodes:
        assert len(nodes) == 1
        assert 1 <= nodes[0].cpus <= (os.cpu_count() or 1)

        @ray.remote
        def process() -> int:
            return os.getpid()

        @ray.remote(max_retries=0)
        def die() -> None:
            os._exit(1)

        worker = ray.get(process.remote())
        assert worker != os.getpid()
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(die.remote())
        time.sleep(1)  # Ray tells its driver in its own time
        raylet = ray._private.worker._global_node.all_processes  # type: ignore[attr-defined]
        started = [info.process.pid for infos in raylet.values() for info in infos]
        assert started
        raise KeyError("ours")
    assert not ray.is_initialized()
    assert state_of_this_process() == before
    assert capfd.readouterr().out == ""  # no fault of a worker between results
    until(lambda: not any(map(_runs, [worker, *started])), 20)


@pytest.mark.soak
def test_session_can_be_opened_after_one_that_was_refused() -> None:
    before = state_of_this_process()
    refused("127.0.0.1:1")
    assert state_of_this_process() == before
    with session(None) as nodes:
        assert nodes


def listening() -> list[str]:
    """Addresses, as the kernel writes them, on which this process and those that it started listen."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                parents[entry.name] = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
    family, size = {str(os.getpid())}, 0
    while len(family) > size:
        size = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    sockets = set()
    for process in family:
        with suppress(OSError):
            sockets |= {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [words[1] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in sockets]


def test_ray_of_a_local_session_listens_on_loopback_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    others = listening()  # e.g. a cluster that other tests share
    with session(None) as nodes:
        assert ray.get(ray.remote(lambda: "answered").remote()) == "answered"
        assert len(nodes) == 1
        time.sleep(3)  # agents come later
        addresses = [address for address in listening() if address not in others]
    assert len(addresses) >= 4, "the head, the node's manager, this driver and a worker"
    assert [address for address in addresses if not address.startswith(loopback)] == []
    assert not {address.rpartition(":")[2] for address in addresses} & {f"{44217:04X}", f"{44227:04X}"}, "metrics"
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


# Addresses


def test_address_where_nothing_listens_is_refused_with_the_way_out() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused(f"127.0.0.1:{unused.getsockname()[1]}", "no Ray can be reached", "ray start --head", "--address")
    refused("nowhere.invalid:6379", "no Ray can be reached", "nowhere.invalid")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:99999999", "127.0.0.1:0", "127.0.0.1:x", ":6379", "", "not an address", "local"]
)
def test_address_that_is_none_is_refused_with_the_form_it_has(address: str) -> None:
    refused(address, f"auto or host:port, got {address!r}", "6379")


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_address_that_is_not_joined_is_refused_with_how_to_send_a_command(address: str) -> None:
    refused(address, "no address to join", "captune submit http://head:8265")


def test_auto_without_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)  # others' clusters may run here
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    words = ("no node of a Ray cluster runs on this machine", "ray start --head")
    one_line_of(ClusterError, lambda: session("auto").__enter__(), *words, within=10)


@pytest.mark.parametrize("address", [f"{HOST}:1", "ray://head:10001"])
def test_auto_goes_where_rays_own_variable_points(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=address):
        session("auto").__enter__()


def test_port_that_accepts_and_keeps_silent_is_refused() -> None:
    with socket.create_server((HOST, 0)) as silent:
        refused(f"{HOST}:{silent.getsockname()[1]}", "no Ray answers", "within 5 s")


def test_web_server_is_told_from_a_head() -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refused(f"{HOST}:{server.server_address[1]}", "answers, but is not the head", "http://head:8265")
        server.shutdown()


class FakeHead:
    """A head of some Ray, to which the nodes of this machine belong or not, and which may hang."""

    def __init__(self, version: str | None = None, alive: bool = True) -> None:
        import ray

        self.version, self.alive, self.hangs = version or ray.__version__, alive, False

    def check_alive(self, request: Any, context: Any) -> Any:
        from ray.core.generated.gcs_service_pb2 import CheckAliveReply

        while self.hangs:
            time.sleep(0.1)
        alive = [self.alive] * len(request.node_ids)
        return CheckAliveReply(ray_version=self.version, raylet_alive=alive)


@contextmanager
def serving(head: FakeHead | None) -> Iterator[str]:
    """The address of a gRPC server, with or without what a head answers."""
    from ray.core.generated import gcs_service_pb2_grpc

    server = grpc.server(ThreadPoolExecutor(1))
    if head is not None:
        service = gcs_service_pb2_grpc.NodeInfoGcsServiceServicer()
        service.CheckAlive = head.check_alive
        gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (lambda: None, ["answers, but is not the head"]),
        (lambda: FakeHead("2.9.3"), ["runs Ray 2.9.3", "this machine 2.", "install"]),
        (lambda: FakeHead(alive=False), ["this machine is no node", "ray start --address=", "http://head:8265"]),
    ],
    ids=["another gRPC service", "another Ray", "a cluster that this machine is no node of"],
)
def test_what_cannot_be_joined_is_refused_with_the_reason(head: Any, words: list[str]) -> None:
    with serving(head()) as address:
        refused(address, *words)


# Tokens

JOIN = """
import sys, ray
from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.session import session
for address in sys.argv[1:]:
    try:
        with session(address) as nodes:
            print("joined", len(nodes), ray.get(ray.remote(lambda: "answered").remote(), timeout=30))
    except ClusterError as error:
        print("refused:", error)
"""


def join(home: Path, *addresses: str, **environment: str) -> list[str]:
    """What a process says that joins these clusters, one after another."""
    environment = without_ray(HOME=str(home), PYTHONPATH=str(ROOT / ".src"), **environment)
    started = time.monotonic()
    command = [sys.executable, "-c", JOIN, *addresses]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 10 * len(addresses) + 5
    lines = ran.stdout.splitlines()
    assert len(lines) == len(addresses), ran.stdout + ran.stderr
    return lines


def test_token_is_required_compared_and_accepted(tmp_path: Path) -> None:
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as head:
        without, of_manager = join(tmp_path, head.address, head.manager)
        assert "asks for its token; set RAY_AUTH_MODE=token" in without and "RAY_AUTH_TOKEN_PATH" in without
        assert f"{head.manager} answers, but is not the head of a Ray cluster" in of_manager
        for case, environment in {
            "no token can be read": {},
            "another token": {"RAY_AUTH_TOKEN": "wrong"},
            "joined 1 answered": {"RAY_AUTH_TOKEN": TOKEN},
        }.items():
            (line,) = join(tmp_path, head.address, RAY_AUTH_MODE="token", **environment)
            assert case in line and ("RAY_AUTH_TOKEN_PATH" in line or "joined" in line)


@pytest.mark.soak
def test_token_of_another_cluster_does_not_stand_in_the_way_of_one_without(tmp_path: Path) -> None:
    # Started without, as the first `ray start` on a machine is; a local search then leaves a token in the home folder.
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    with ray_head() as head:
        assert join(tmp_path, "auto", RAY_ADDRESS=head.address) == ["joined 1 answered"]
        (line,) = join(tmp_path, "auto", RAY_ADDRESS=head.address, RAY_AUTH_MODE="token")
        assert f"{head.address} asks for no token, and RAY_AUTH_MODE" in line


# Workers that are cut off


WORKER = """
import sys, time
from types import SimpleNamespace
import ray
from captune.cluster.nodes.cut_off import end_without_head
ray.get_runtime_context = lambda: SimpleNamespace(gcs_address=sys.argv[1])
end_without_head("ab" * 28, float(sys.argv[2]))
print("started", flush=True)
time.sleep(60)
"""


@contextmanager
def worker(address: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that trains on until it is cut off."""
    command = [sys.executable, "-c", WORKER, address, str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".src"), "RAY_AUTH_MODE": "disabled"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Seconds until it did, and what it said."""
    started = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    return time.monotonic() - started, errors


def test_worker_ends_once_its_head_has_not_answered_for_so_long() -> None:
    head = FakeHead()
    with serving(head) as address, worker(address, 3.0) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4.5)  # while the head answers
        head.hangs = True
        took, errors = ended(process)
        head.hangs = False
    assert 2 < took < 6
    assert f"no answer from the head for 3 s (no Ray answers at {address}" in errors and "done elsewhere" in errors


def test_worker_ends_at_once_when_its_head_has_given_its_node_up() -> None:
    head = FakeHead()
    with serving(head) as address, worker(address, 6.0) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        head.alive = False
        took, errors = ended(process)
    assert took < 3
    assert "the head has given up this node" in errors


def test_worker_that_never_heard_of_its_head_runs_on() -> None:
    with worker(f"{HOST}:1", 1.0) as process, pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)


def _runs(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
