"""`ray up` over real sshd: two machines search, one is lost, `ray down` leaves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import ROOT, SHARED, Machine, Machines, lacking, until, with_data

from captune.cluster.launch.ray_up import RayUp, ray_up

REASON = lacking("sshd", "ssh", "rsync")
pytestmark = [pytest.mark.skipif(REASON is not None, reason=str(REASON)), pytest.mark.cluster, pytest.mark.timeout(900)]

SSHD_CONF = f"""\
HostKey {SHARED / "key"}
AuthorizedKeysFile {SHARED / "key.pub"}
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
# Machines have no way to a registry: all but captune itself is what these tests have.
PYTHON = f"""\
#!/bin/sh
set -e
{sys.executable} "$@"
packages=$("$3/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo {SHARED / "packages"} > "$packages/tests.pth"
printf '#!%s\\nfrom ray.scripts.scripts import main\\nmain()\\n' "$3/bin/python" > "$3/bin/ray"
chmod +x "$3/bin/ray"
"""
SEARCH = """\
preset: captions
trials: 24
fixed: {train.epochs: 3, train.batch_size: 32}
space:
  train.learning_rate: {low: 1e-3, high: 1e-2, log: true}
"""


class Cluster:
    """Machines h and w with sshd, and one more with a person."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        shared = self.shared = machines.shared
        (shared / "packages").mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "captune" not in entry.name and entry.name not in ("pip", "_virtualenv.py", "distutils-precedence.pth"):
                (shared / "packages" / entry.name).symlink_to(entry)
        (shared / "python").write_text(PYTHON)
        (shared / "python").chmod(0o755)
        (shared / "sshd.conf").write_text(SSHD_CONF)
        (shared / "token").write_text("0123456789abcdef" * 4)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", shared / "key"], check=True)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", shared, str(ROOT)]
        subprocess.run(build, check=True)
        [wheel] = shared.glob("*.whl")
        self.desk, self.head, *self.workers = (machines.add(name) for name in ("desk", "h", "w"))
        for machine in (self.head, *self.workers):
            machine.run("mkdir", "-p", "/run/sshd")
            machine.start(
                "/usr/sbin/sshd", "-D", "-f", str(SHARED / "sshd.conf"), "-o", f"ListenAddress={machine.address}"
            )
        self.options = RayUp(
            provider="local",
            head_host=self.head.address,
            worker_hosts=(self.workers[0].address,),
            ssh_user="root",
            ssh_key=str(SHARED / "key"),
            token=str(SHARED / "token"),
            python=str(SHARED / "python"),
            captune=str(SHARED / wheel.name),
        )

    def ray(self, *words: str) -> str:
        """A command of Ray's launcher, at the desk."""
        return self.desk.run(f"{sys.prefix}/bin/ray", *words, seconds=500)

    def up(self, options: RayUp, *words: str) -> str:
        """Starts what a file says."""
        (self.shared / "cluster.yaml").write_text(ray_up(options))
        return self.ray("up", "--yes", *words, str(SHARED / "cluster.yaml"))

    def search(self, *options: str) -> Any:
        """Begins one on the head, from the desk."""
        command = (
            f"RAY_AUTH_MODE=token captune search {SHARED / 'data'} --run {SHARED / 'run'} --address auto "
            f"--config {SHARED / 'search.yaml'} --cpus-per-trial 1 --gpus-per-trial 0 {' '.join(options)}"
        )
        return self.desk.start(f"{sys.prefix}/bin/ray", "exec", str(SHARED / "cluster.yaml"), command)

    def down(self) -> float:
        """Ends it, and the seconds until nothing of it runs."""
        print(self.ray("down", "--yes", str(SHARED / "cluster.yaml")))
        machines: list[Machine] = [self.head, *self.workers]
        return until(lambda: not any(machine.processes("captune-env") for machine in machines), 120)

    def nodes(self) -> list[str]:
        """Those that are alive, as the head has it."""
        words = "RAY_AUTH_MODE=token ~/captune-env/bin/captune cluster status --json"
        said = self.head.run("bash", "-c", words, check=False)
        return [row["node"] for row in json.loads(said[said.index("{") :])["nodes"]] if "{" in said else []

    def trials(self) -> list[dict[str, Any]]:
        """As `captune trials` lists them."""
        said = self.head.run(
            "bash", "-c", f"~/captune-env/bin/captune trials {SHARED / 'run'} --format json", check=False
        )
        return json.loads(said) if said.startswith("[") else []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Machines(with_data(tmp_path / "shared", SEARCH)) as machines:
        yield Cluster(machines)


def finished(trials: list[dict[str, Any]]) -> dict[str, int]:
    nodes = [trial["node"] for trial in trials if trial["fate"] in ("complete", "stopped")]
    return {node: nodes.count(node) for node in nodes}


def test_machines_that_are_there_search_together_and_are_free_again(cluster: Cluster) -> None:
    print(cluster.up(cluster.options))
    print(f"second machine joined after {until(lambda: len(cluster.nodes()) == 2, 90):.1f} s")
    search = cluster.search()
    until(lambda: len(finished(cluster.trials())) == 2, 400)
    cluster.workers[0].run("pkill", "-KILL", "-f", "captune-env", check=False)  # all of Ray there, as a restart would
    assert search.wait(600) == 0, (cluster.shared / "desk-ray.log").read_text()
    print(finished(cluster.trials()))
    assert sum(finished(cluster.trials()).values()) == 24
    assert {"h", "w"} == {re.sub("#.*", "", node) for node in finished(cluster.trials())}
    print(f"the last process of Ray ended {cluster.down():.1f} s after ray down")


def test_machine_that_joins_half_way_trains(cluster: Cluster) -> None:
    third = cluster.machines.add("x")
    cluster.up(cluster.options)
    until(lambda: len(cluster.nodes()) == 2, 90)
    began = time.monotonic()
    search = cluster.search("--trials 1000 --time-limit 4m")
    until(lambda: len(finished(cluster.trials())) == 2, 400)
    time.sleep(max(0.0, began + 60 - time.monotonic()))
    third.run("sh", "-c", f"mkdir -m 700 ~/.ray && install -m 600 {SHARED / 'token'} ~/.ray/auth_token")
    third.environment |= {"RAY_AUTH_MODE": "token", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    joined = third.start(f"{sys.prefix}/bin/ray", "start", f"--address={cluster.head.address}:6379", "--block")
    assert search.wait(600) == 0, (cluster.shared / "desk-ray.log").read_text()
    print(finished(cluster.trials()))
    assert {"h", "w", "x"} == {re.sub("#.*", "", node) for node in finished(cluster.trials())}
    cluster.down()
    assert joined.wait(120) != 0  # it ends with its head


def test_machine_that_nothing_happened_to_is_free_after_ray_down(cluster: Cluster) -> None:
    cluster.up(cluster.options)
    until(lambda: len(cluster.nodes()) == 2, 90)
    print(f"the last process of Ray ended {cluster.down():.1f} s after ray down")
