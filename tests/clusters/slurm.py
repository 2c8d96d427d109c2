"""A real SLURM on two machines: searches on both, ended by the time limit, by the loss of a node, and by themselves."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from machines import SHARED, Machine, Machines, lacking, until, with_data

from captune.cluster.launch.slurm import Slurm, slurm

REASON = lacking("slurmctld", "slurmd", "munged", "sbatch")
pytestmark = [pytest.mark.skipif(REASON is not None, reason=str(REASON)), pytest.mark.cluster, pytest.mark.timeout(900)]

SLURM_CONF = """\
ClusterName=captune
SlurmctldHost=n1(10.78.0.1)
SlurmUser=root
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmdTimeout=20
ReturnToService=2
MinJobAge=3600
NodeName=n[1-2] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
SEARCH = """\
preset: captions
trials: 16
fixed: {train.epochs: 3, train.batch_size: 32}
space:
  train.learning_rate: {low: 1e-3, high: 1e-2, log: true}
"""
JOB = Slurm(
    data=str(SHARED / "data"),
    run=str(SHARED / "run"),
    nodes=2,
    gpus_per_node=0,
    gpus_per_trial=0.0,
    cpus_per_task=2,
    cpus_per_trial=1.0,
    time="00:30:00",
    venv=sys.prefix,
    search_options=f"--config {SHARED / 'search.yaml'}",
)


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Cluster:
    """SLURM on machines n1, where its controller is, and n2."""

    def __init__(self, machines: Machines) -> None:
        self.shared = machines.shared
        (self.shared / "slurm.conf").write_text(SLURM_CONF)
        (self.shared / "munge.key").write_bytes(os.urandom(128))
        (self.shared / "munge.key").chmod(0o400)
        self.nodes = [machines.add(name) for name in ("n1", "n2")]
        for node in self.nodes:
            node.environment |= {
                "SLURM_CONF": str(SHARED / "slurm.conf"),
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            }
            self.boot(node)
        until(lambda: self.nodes[0].run("sinfo", "-h", "-o", "%t", check=False).split() == ["idle"], 60)

    def boot(self, node: Machine) -> None:
        """Starts what SLURM runs on a node."""
        node.run("mkdir", "-p", "/run/munge", "/tmp/slurmctld", "/tmp/slurmd")
        node.start("munged", "--foreground", "--force", f"--key-file={SHARED / 'munge.key'}")
        until(lambda: "Success" in node.run("sh", "-c", "munge -n | unmunge", check=False), 20)
        if node.name == "n1":
            node.start("slurmctld", "-D")
        node.start("slurmd", "-D", "-N", node.name)

    def submit(self, options: Slurm) -> int:
        """The number of the job that the file of these options becomes."""
        (self.shared / "job.sh").write_text(slurm(options))
        said = self.nodes[0].run("sh", "-c", f"cd {SHARED} && sbatch job.sh")
        return int(re.findall(r"\d+", said)[0])

    def state(self, job: int) -> str:
        """What SLURM calls it, RUNNING for example."""
        said = self.nodes[0].run("scontrol", "show", "job", str(job))
        return re.findall(r"JobState=(\w+)", said)[0]

    def log(self, job: int) -> str:
        """Of a job."""
        file = self.shared / f"captune-{job}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def trials(self) -> list[dict[str, Any]]:
        """As `captune trials` lists them."""
        return json.loads(self.nodes[0].run(f"{sys.prefix}/bin/captune", "trials", JOB.run, "--format", "json"))

    def left(self, job: int) -> list[str]:
        """What a job left: processes of Ray and files."""
        ray = [f"{node.name}: {line}" for node in self.nodes for line in node.processes("ray")]
        folders = [node.name for node in self.nodes if node.run("ls", f"/tmp/captune-{job}", check=False)[:2] != "ls"]
        return [*ray, *folders, *map(str, self.shared.glob(".captune-*"))]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Machines(with_data(tmp_path / "shared", SEARCH)) as machines:
        yield Cluster(machines)


def nodes_of(trials: list[dict[str, Any]]) -> set[str]:
    return {trial["node"] for trial in trials if trial.get("node")}


def test_search_uses_both_nodes_and_its_allocation_ends_with_it(cluster: Cluster) -> None:
    job = cluster.submit(JOB)
    until(lambda: (cluster.shared / "run/summary.json").exists() or cluster.state(job) in ENDED, 500)
    took = until(lambda: cluster.state(job) in ENDED, 60)
    assert cluster.state(job) == "COMPLETED", cluster.log(job)
    print(cluster.log(job), f"allocation ended {took:.1f} s after the search")
    assert took < 10
    assert nodes_of(cluster.trials()) == {"n1", "n2"}
    assert cluster.left(job) == []


def test_search_ended_by_slurm_and_by_a_lost_node_goes_on_and_has_a_winner(cluster: Cluster) -> None:
    options = replace(JOB, search_options=JOB.search_options + " --trials 12")
    job = cluster.submit(options)
    until(lambda: "trial" in cluster.log(job) and (cluster.shared / "run/study.journal").exists(), 300)
    cluster.nodes[0].run("scancel", "--batch", "--signal=TERM", str(job))
    took = until(lambda: cluster.state(job) in ENDED, 120)
    print(cluster.log(job), f"allocation ended {took:.1f} s after TERM")
    assert cluster.state(job) == "FAILED"
    assert "interrupted; go on with" in cluster.log(job)
    assert cluster.left(job) == []

    job = cluster.submit(options)
    until(lambda: "goes on as it was begun" in cluster.log(job), 300)
    time.sleep(5)
    cluster.nodes[1].cut_off()
    until(lambda: cluster.state(job) not in ("RUNNING", "COMPLETING"), 120)
    assert cluster.state(job) == "PENDING", cluster.log(job)  # it is started anew two minutes later
    cluster.nodes[1].plug_in()
    cluster.boot(cluster.nodes[1])
    until(lambda: cluster.state(job) in ENDED, 600)
    assert cluster.state(job) == "COMPLETED", cluster.log(job)
    assert len([trial for trial in cluster.trials() if trial["fate"] in ("complete", "stopped")]) == 12
    print(cluster.nodes[0].run(f"{sys.prefix}/bin/captune", "refit", JOB.run))
    assert (cluster.shared / "run/winner/proof.json").exists()
