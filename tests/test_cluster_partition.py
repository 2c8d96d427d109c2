"""A node that loses its way to the head: the network between them swallows every packet, and both run on.

Each side is a network namespace of this machine, joined by a cable of their own; the file system is shared, as a run
folder is. It needs root and the command `ip`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ray_nodes import until
from test_survival import Search, assert_whole

from captune.data_prep.store import PreparedData

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

HEAD = "10.77.0.1"
FAR = "10.77.0.2"
# The head gives a node up after four questions of 3 s.
SETTINGS = '{"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 4}'
# Ray's own processes end after some 20 s without the head. They read it when they start; by default it is minutes.
PATIENCE = {
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
CUT_OFF = 4.0


class Sides:
    """Two network namespaces: the head's, in which the driver runs as well, and the far one."""

    def __init__(self) -> None:
        number = os.getpid()
        self.head, self.far = f"cap{number}h", f"cap{number}f"
        self._temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets must be short
        self._environment = os.environ | PATIENCE | {"RAY_USAGE_STATS_ENABLED": "0"}
        for name in (self.head, self.far):
            _ip("netns", "add", name)
        _ip("link", "add", f"v{number}", "netns", self.head, "type", "veth", "peer", "name", "v", "netns", self.far)
        for name, link, address in ((self.head, f"v{number}", HEAD), (self.far, "v", FAR)):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", link)
            for device in ("lo", link):
                _ip("-n", name, "link", "set", device, "up")
        self._cable = f"v{number}"

    def within(self, name: str) -> list[str]:
        """What a command begins with that runs on one side."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    def start(self, name: str, *options: str) -> None:
        """A Ray node."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--object-store-memory={10**8}", *options]
        ran = subprocess.run(
            [*self.within(name), *ray], env=self._environment, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def open(self) -> str:
        """The address of a head without CPUs."""
        options = (f"--node-ip-address={HEAD}", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
        self.start(self.head, "--head", *options, f"--temp-dir={self._temporary}", f"--system-config={SETTINGS}")
        return f"{HEAD}:6379"

    def cut(self) -> None:
        """From now on no packet arrives, and no one is told."""
        _ip("-n", self.head, "link", "set", self._cable, "down")

    def processes(self, name: str, *words: str) -> set[int]:
        """Those of a side whose command has one of the words."""
        processes = set()
        for number in _ip("netns", "pids", name).split():
            with suppress(OSError):
                command = Path(f"/proc/{number}/cmdline").read_text()
                if not words or any(word in command for word in words):
                    processes.add(int(number))
        return processes

    def close(self) -> None:
        for name in (self.head, self.far):
            while processes := self.processes(name):
                for number in processes:
                    with suppress(ProcessLookupError):
                        os.kill(number, 9)
                time.sleep(0.1)
            _ip("netns", "delete", name)
        shutil.rmtree(self._temporary, ignore_errors=True)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sides]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip("network namespaces need root, ip and nsenter")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    try:
        sides = Sides()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        yield sides
    finally:
        sides.close()


@pytest.mark.soak
def test_node_that_is_cut_off_ends_its_trial_before_another_goes_on_with_it(
    sides: Sides, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = sides.open()
    sides.start(sides.far, f"--address={address}", f"--node-ip-address={FAR}", "--num-cpus=1")
    hold = tmp_path / "go on"  # a slow machine takes longer to start a node than the trial takes to end
    search = Search(tmp_path, data, 1, seconds=1.0, cut_off=CUT_OFF, hold=str(hold))
    driver = tmp_path / "python"
    driver.write_text(f'#!/bin/sh\nexec {" ".join(sides.within(sides.head))} {sys.executable} "$@"\n')
    driver.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(driver))
        process = search.start(address)
    until(lambda: search.run.journal.exists() and any(record.epochs for record in search.records), 60)
    sides.start(sides.head, f"--address={address}", f"--node-ip-address={HEAD}", "--num-cpus=1")
    training = sides.processes(sides.far, "Trial")
    assert training

    hold.touch()
    sides.cut()
    gone = until(lambda: not training & sides.processes(sides.far), 30)
    assert [record.fate for record in search.records] == ["running"]  # the head has not given the node up yet
    assert CUT_OFF - 2 < gone < CUT_OFF + 4
    until(lambda: search.records[0].fate == "lost", 60)
    search.finish(process)
    first, second = search.records
    assert (first.fate, second.fate) == ("lost", "complete")
    assert_whole(search)
    assert search.trained_twice() <= 1  # the epoch that was under way
    # Ray itself has ended on that node as well, or does.
    until(lambda: not sides.processes(sides.far, "raylet/raylet", "Trial"), 60)
