"""Real Ray clusters on this machine, of one node or of several, and heads that are none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

ROOT = Path(__file__).parent.parent
TOKEN = "0123456789abcdef0123456789abcdef"
_PORTS = [
    "port",
    "node-manager-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "object-manager-port",
    "ray-client-server-port",
]


def until(holds: Callable[[], bool], seconds: float = 90) -> float:
    """Waits until something holds; seconds that it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds
        time.sleep(0.1)
    return time.monotonic() - started


def one_line_of(
    error: type[Exception], call: Callable[[], object], *words: object, within: float = 13, longest: int = 500
) -> str:
    """The message that a call fails with: one line, in time, with all the words."""
    started = time.monotonic()
    with pytest.raises(error) as caught:
        call()
    assert time.monotonic() - started < within
    message = str(caught.value)
    assert "\n" not in message and len(message) < longest, message
    for word in words:
        assert str(word) in message, message
    return message


def without_ray(**environment: str) -> dict[str, str]:
    """The environment of a process that knows of no Ray, and imports captune from here only if told so."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))
    } | environment


@dataclass(frozen=True)
class Head:
    """Addresses of a head: host:port, that of its node's manager, and http:// of its job server."""

    address: str
    manager: str
    jobs: str


@contextmanager
def ray_head(bin_folder: Path | None = None, *, cpus: int = 1, **environment: str) -> Iterator[Head]:
    """A Ray head of our own; with a folder of commands, which its jobs find first, it has a job server."""
    folder = Path(tempfile.mkdtemp(prefix="ch", dir="/tmp"))  # paths of sockets must be short
    python = sys.executable if bin_folder is None else str(bin_folder / "python")
    path = os.environ["PATH"] if bin_folder is None else f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    environment = without_ray(HOME=str(folder), PATH=path, RAY_AUTH_MODE="disabled") | environment
    try:
        for last in (False, True):
            ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
            options = [f"--{name}={port}" for name, port in ports.items()]
            options += [f"--include-dashboard={str(bin_folder is not None).lower()}", "--node-ip-address=127.0.0.1"]
            options += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}", f"--num-cpus={cpus}"]
            options += ["--num-gpus=0", f"--object-store-memory={10**8}", "--disable-usage-stats"]
            command = [python, "-m", "ray.scripts.scripts", "start", "--head", *options]
            ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90)
            if ran.returncode == 0:
                break
            assert not last, ran.stdout + ran.stderr  # the first time a port may have been taken meanwhile
        head = Head(*(f"127.0.0.1:{ports[name]}" for name in _PORTS[:2]), f"http://127.0.0.1:{ports['dashboard-port']}")
        if bin_folder is not None:
            until(lambda: _answers(head.jobs), 60)
        yield head
    finally:
        end_processes(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel hands out by itself, which Ray's own workers might get first."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            ports.append(port)
    return ports


def _answers(server: str) -> bool:
    try:
        urllib.request.urlopen(f"{server}/api/version", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def end_processes(folder: str) -> None:
    """Those whose command names a folder."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and folder.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


class Nodes:
    """On loopback: a head without CPUs and GPUs, and the nodes that a test adds. A context, left with all ended."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets must be short
        Path("/tmp/ray").mkdir(exist_ok=True)  # where `Cluster` leaves an address, though nothing else is kept there
        self._cluster = Cluster()
        self.others: list[Any] = []
        self._cluster.add_node(
            num_cpus=0,
            include_dashboard=False,
            object_store_memory=10**8,
            temp_dir=self.temporary,
            # A node that is gone is found out in two seconds, not in twenty.
            _system_config={"health_check_period_ms": 500, "health_check_failure_threshold": 3},
        )
        self.address = str(self._cluster.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def add(self, *, cpus: int, gpus: int = 0) -> Any:
        self.others.append(self._cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=10**8))
        return self.others[-1]

    def alive(self) -> int:
        """Nodes that the cluster takes for alive, the head among them."""
        return len(self._cluster.global_state._live_node_ids())

    def wait(self, count: int) -> None:
        """Until so many nodes are alive."""
        until(lambda: self.alive() == count, 60)

    def kill(self, node: Any, signed_off: bool = False) -> None:
        """Ends every process of a node; signed_off: the cluster is told, so that it need not find out."""
        self._cluster.remove_node(node, allow_graceful=signed_off)
        self.others.remove(node)

    def drain(self, node: Any) -> None:
        """Announces, as a cloud does, that a node will be taken away."""
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "drain-node", "--address", self.address, "--node-id", node.node_id]
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "recalled"]
        subprocess.run([*command, *reason, "--deadline-remaining-seconds", "120"], check=True, capture_output=True)
