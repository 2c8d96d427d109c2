"""Machines as namespaces of this one: network, mounts, processes and name their own; a folder that all of them see.

Nothing of theirs listens where others can reach it: their switch is a namespace, too. All goes with its processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from captune.data_prep.demo import draw
from captune.data_prep.store import prepare

SHARED = Path("/srv")  # what all machines see
ROOT = Path(__file__).parents[2]
_OWN_FOLDERS = ("/tmp", "/root")  # of each machine


def lacking(*commands: str) -> str | None:
    """Why there can be no machines here, None where there can."""
    if os.geteuid() != 0:
        return "needs root"
    own = next((folder for folder in _OWN_FOLDERS if Path(sys.prefix).is_relative_to(folder)), None)
    if own is not None:
        return f"needs a checkout that is not in {own}, as each machine has one of its own"
    absent = [name for name in ("setpriv", "unshare", "nsenter", "ip", *commands) if not shutil.which(name, path=_PATH)]
    if absent:
        return f"needs {', '.join(absent)}: make clusters"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True)
    return None if probe.returncode == 0 else "needs namespaces"


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_MORTAL = ("setpriv", "--pdeathsig", "KILL")  # gone with these tests, however they end
_OWN = (*_MORTAL, "unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")


class Machine:
    """One of them, by its own name and address."""

    def __init__(self, name: str, number: int, hosts: Path, shared: Path) -> None:
        self.name, self.address = name, f"10.78.0.{number}"
        self.environment = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "RAY_USAGE_STATS_ENABLED": "0"}
        self._logs = shared
        self._init = subprocess.Popen(
            [*_OWN, "sh", "-c", _BOOT, name, name, str(hosts), str(shared), str(SHARED), sys.base_prefix],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._init.stdout is not None and self._init.stdout.readline() == "up\n"
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self.pid = int(children[0])

    def within(self, command: Sequence[str]) -> list[str]:
        """A command of this machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", "--wd=/root", "--", *command]

    def run(self, *command: str, seconds: float = 300, check: bool = True) -> str:
        """What a command says on both its streams."""
        ran = subprocess.run(
            self.within(command),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=seconds,
        )
        assert not check or ran.returncode == 0, f"{self.name}: {' '.join(command)}: {ran.stdout}"
        return ran.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A process of it, until it goes."""
        with (self._logs / f"{self.name}-{Path(command[0]).name}.log").open("ab") as log:
            return subprocess.Popen(self.within(command), env=self.environment, stdout=log, stderr=log)

    def processes(self, word: str) -> list[str]:
        """Command lines that hold a word."""
        lines = self.run("ps", "-eo", "pid,args", "--no-headers").splitlines()
        return [line.strip() for line in lines if word in line and "ps -eo" not in line]

    def plug_in(self) -> None:
        """To the network."""
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "dev", "eth0")

    def cut_off(self) -> None:
        """Ends all that runs on it as if its power were cut: others' connections to it stay open."""
        self.run("ip", "link", "set", "eth0", "down")
        for pid in (line.split()[0] for line in self.processes("")):
            if pid != "1":
                self.run("kill", "-KILL", pid, check=False)

    def kill(self) -> None:
        """For good."""
        self._init.kill()
        self._init.wait()


# PID 1 reaps what others leave.
_BOOT = f"""
set -e
mount --make-rprivate /
mount --bind "$3" "$4"
mount --bind "$2" /etc/hosts
mount -t tmpfs tmpfs /run
mkdir /run/python
mount --bind "$5" /run/python
for folder in {" ".join(_OWN_FOLDERS)}; do mount -t tmpfs tmpfs "$folder"; done
chmod 1777 /tmp
chmod 700 /root
mkdir -p "$5"
mount --bind /run/python "$5"
hostname "$1"
ip link set lo up
echo up
while :; do sleep infinity & wait || true; done # reaps at once whoever lost its parent, as any other init
"""


class Machines:
    """Several on one switch."""

    def __init__(self, shared: Path) -> None:
        self.shared, self._machines = shared, dict[str, Machine]()
        self._hosts = shared / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._switch = subprocess.Popen([*_MORTAL, "unshare", "--net", "sleep", "infinity"])
        until(lambda: Path(f"/proc/{self._switch.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink(), 10)
        self._ip("link", "add", "switch", "type", "bridge")
        self._ip("link", "set", "switch", "up")

    def _ip(self, *words: str) -> None:
        subprocess.run(["nsenter", f"--target={self._switch.pid}", "--net", "ip", *words], check=True)

    def add(self, name: str) -> Machine:
        """One more; the others know it by its name."""
        number = len(self._machines) + 1
        with self._hosts.open("a") as hosts:
            hosts.write(f"10.78.0.{number} {name}\n")
        machine = self._machines[name] = Machine(name, number, self._hosts, self.shared)
        self._ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        self._ip("link", "set", f"to-{name}", "master", "switch", "up")
        machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
        machine.plug_in()
        return machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self._machines.values():
            machine.kill()
        self._switch.kill()
        self._switch.wait()


def until(holds: Callable[[], object], seconds: float, every: float = 0.5) -> float:
    """Waits until something holds; seconds that it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, "waited in vain"
        time.sleep(every)
    return time.monotonic() - started


def with_data(folder: Path, search: str) -> Path:
    """A new folder for all machines, with drawn captions prepared in `data`, and `search` as its search.yaml."""
    folder.mkdir()
    draw(folder / "drawn", count=300, unlabelled=0)
    prepare(folder / "drawn/train.csv", None, folder / "data")
    (folder / "search.yaml").write_text(search)
    return folder
