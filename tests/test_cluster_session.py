"""Ray itself: started and stopped, or refused in one line and in seconds."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
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

from captune.cluster.nodes.session import ClusterError, session

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.2"  # of loopback as 127.0.0.1 is, which Ray takes for the machine's outer address
TOKEN = "0123456789abcdef0123456789abcdef"


def refused(address: str, *words: str) -> None:
    """One line within ten seconds, with the address and all the words."""
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught, session(address):
        pytest.fail("joined what is not there")
    assert time.monotonic() - started < 10
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    for word in (address, *words):
        assert word in message, message


def test_local_session_has_this_machines_cpus_and_leaves_nothing_behind() -> None:
    import ray

    with session(None) as nodes:
        assert ray.is_initialized()
        assert len(nodes) == 1
        assert 1 <= nodes[0].cpus <= (os.cpu_count() or 1)

        @ray.remote
        def process() -> int:
            return os.getpid()

        worker = ray.get(process.remote())
        assert worker != os.getpid()
        raylet = ray._private.worker._global_node.all_processes  # type: ignore[attr-defined]
        started = [info.process.pid for infos in raylet.values() for info in infos]
        assert started
    assert not ray.is_initialized()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(_alive(pid) for pid in [worker, *started]):
        time.sleep(0.1)
    assert not [pid for pid in [worker, *started] if _alive(pid)]


def test_error_inside_a_session_passes_through_and_stops_ray() -> None:
    import ray

    with pytest.raises(KeyError, match="ours"), session(None):
        raise KeyError("ours")
    assert not ray.is_initialized()


def test_what_goes_wrong_in_a_cluster_is_not_printed_between_results(capfd: pytest.CaptureFixture[str]) -> None:
    import ray

    with session(None):

        @ray.remote(max_retries=0)
        def die() -> None:
            os._exit(1)

        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(die.remote())
        time.sleep(1)  # Ray tells its driver in its own time
    assert capfd.readouterr().out == ""


# Addresses


def test_address_where_nothing_listens_is_refused_with_the_way_out() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused(f"127.0.0.1:{unused.getsockname()[1]}", "no Ray can be reached", "ray start --head", "--address")


def test_host_of_no_such_name_is_refused() -> None:
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
    with pytest.raises(ClusterError, match=r"no node of a Ray cluster runs on this machine.*ray start --head"):
        session("auto").__enter__()


@pytest.mark.parametrize("there", [f"{HOST}:1", "ray://head:10001"])
def test_auto_goes_where_rays_own_variable_points(monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", there)
    with pytest.raises(ClusterError, match=there):
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

    def __init__(self, version: str, alive: bool = True) -> None:
        self.version, self.alive, self.hangs = version, alive, False

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


def test_server_of_another_grpc_service_is_told_from_a_head() -> None:
    with serving(None) as address:
        refused(address, "answers, but is not the head")


def test_head_of_another_ray_is_refused_with_both_versions() -> None:
    import ray

    with serving(FakeHead("2.9.3")) as address:
        refused(address, "runs Ray 2.9.3", f"this machine {ray.__version__}", "install")


def test_cluster_that_this_machine_is_no_node_of_is_refused() -> None:
    import ray

    with serving(FakeHead(ray.__version__, alive=False)) as address:
        refused(address, "this machine is no node", f"ray start --address={address}", "http://head:8265")


# Tokens

JOIN = """
import sys
from captune.cluster.nodes.session import ClusterError, session
for address in sys.argv[1:]:
    try:
        with session(address) as nodes:
            print("joined", len(nodes))
    except ClusterError as error:
        print("refused:", error)
"""


@contextmanager
def ray_head(**environment: str) -> Iterator[tuple[str, str]]:
    """The addresses of a Ray head of our own and of its node manager."""
    folder = Path(tempfile.mkdtemp(prefix="cs", dir="/tmp"))
    # Below the ports that the kernel hands out by itself.
    ports = random.SystemRandom().sample(range(20_000, 32_000), 2)
    options = [f"--port={ports[0]}", f"--node-manager-port={ports[1]}", f"--temp-dir={folder}", "--num-cpus=1"]
    options += ["--include-dashboard=false", f"--object-store-memory={10**8}", "--disable-usage-stats"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1", *options]
    try:
        told = subprocess.run(
            start, env=clean | {"HOME": str(folder)} | environment, capture_output=True, text=True, timeout=60
        )
        assert told.returncode == 0, told.stdout + told.stderr
        yield f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    finally:
        end_processes(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def end_processes(named: str) -> None:
    """Those whose command names a folder."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and named.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def test_token_is_asked_for_held_against_the_clusters_and_accepted(tmp_path: Path) -> None:
    def join(*addresses: str, **environment: str) -> list[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / ".src"), **environment}
        started = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-c", JOIN, *addresses], env=clean, capture_output=True, text=True, timeout=60
        )
        assert time.monotonic() - started < 10 * len(addresses)
        assert len(ran.stdout.splitlines()) == len(addresses), ran.stdout + ran.stderr
        return ran.stdout.splitlines()

    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as (head, manager):
        without, elsewhere = join(head, manager)
        assert "asks for its token; set RAY_AUTH_MODE=token" in without and "RAY_AUTH_TOKEN_PATH" in without
        assert f"{manager} answers, but is not the head of a Ray cluster" in elsewhere
        (unread,) = join(head, RAY_AUTH_MODE="token")
        assert "no token can be read" in unread and "RAY_AUTH_TOKEN_PATH" in unread
        (wrong,) = join(head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="wrong")
        assert "another token" in wrong and "RAY_AUTH_TOKEN_PATH" in wrong
        assert join(head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) == ["joined 1"]


def test_token_of_another_cluster_does_not_stand_in_the_way_of_one_without(tmp_path: Path) -> None:
    # Started without, as the first `ray start` on a machine is; a local search then leaves a token in the home folder.
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    work = """if True:
        import ray
        from captune.cluster.nodes.session import ClusterError, session
        try:
            with session("auto"):
                print(ray.get(ray.remote(lambda: "answered").remote(), timeout=30))
        except ClusterError as error:
            print(error)
    """
    with ray_head(RAY_AUTH_MODE="disabled") as (head, _):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / ".src"), "RAY_ADDRESS": head}
        for mode, told in (
            ({}, "answered"),
            ({"RAY_AUTH_MODE": "token"}, f"{head} asks for no token, and RAY_AUTH_MODE"),
        ):
            ran = subprocess.run(
                [sys.executable, "-c", work], env=clean | mode, capture_output=True, text=True, timeout=60
            )
            assert told in ran.stdout, ran.stdout + ran.stderr


def test_session_can_be_opened_after_one_that_was_refused() -> None:
    with pytest.raises(ClusterError), session("127.0.0.1:1"):
        pass
    with session(None) as nodes:
        assert nodes


# Workers that are cut off


WORKER = """
import sys, time
from types import SimpleNamespace
import ray
from captune.cluster.nodes.session import end_without_head
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
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as found:
        assert found.stdout is not None and found.stdout.readline() == "started\n"
        try:
            yield found
        finally:
            found.kill()


def ended(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Seconds until it did, and what it said."""
    started = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    return time.monotonic() - started, said


def test_worker_ends_once_its_head_has_not_answered_for_so_long() -> None:
    import ray

    head = FakeHead(ray.__version__)
    with serving(head) as address, worker(address, 3.0) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4.5)  # while the head answers
        head.hangs = True
        took, said = ended(process)
        head.hangs = False
    assert 2 < took < 6
    assert f"no answer from the head for 3 s (no Ray answers at {address}" in said and "done elsewhere" in said


def test_worker_ends_at_once_when_its_head_has_given_its_node_up() -> None:
    import ray

    head = FakeHead(ray.__version__)
    with serving(head) as address, worker(address, 6.0) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        head.alive = False
        took, said = ended(process)
    assert took < 3
    assert "the head has given up this node" in said


def test_worker_that_never_heard_of_its_head_runs_on() -> None:
    with worker(f"{HOST}:1", 1.0) as process, pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
