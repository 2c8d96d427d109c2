"""A real Ray cluster of several nodes on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self


class Nodes:
    """On loopback: a head without CPUs and GPUs, and the nodes that a test adds. A context, left with all ended."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets must be short
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
        deadline = time.monotonic() + 60
        while self.alive() != count and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.alive() == count

    def kill(self, node: Any, signed_off: bool = False) -> None:
        """Ends every process of a node; signed_off: the cluster is told, so that it need not find out."""
        self._cluster.remove_node(node, allow_graceful=signed_off)
        self.others.remove(node)

    def drain(self, node: Any) -> None:
        """Announces, as a cloud does, that a node will be taken away."""
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "drain-node", "--address", self.address, "--node-id", node.node_id]
        told = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "recalled"]
        subprocess.run([*command, *told, "--deadline-remaining-seconds", "120"], check=True, capture_output=True)
