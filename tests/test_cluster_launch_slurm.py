"""Batch scripts for SLURM: bash takes them, they do in a dry run and with a real Ray what they say."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from builders import rest_in_soak
from hypothesis import given, settings
from templates import BATCH, ODD, home, values

from captune.cluster.launch.options import TemplateError
from captune.cluster.launch.slurm import Slurm, slurm

STUB = f"""#!{sys.executable}
import json, os, signal, subprocess, sys, time
from pathlib import Path

name, words = Path(sys.argv[0]).name, sys.argv[1:]
token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]) if "RAY_AUTH_TOKEN_PATH" in os.environ else None
note = {{"name": name, "words": words, "mode": os.environ.get("RAY_AUTH_MODE"), "tmp": os.environ.get("RAY_TMPDIR")}}
if token is not None and token.exists():
    note |= {{"token": token.read_text(), "access": [oct(p.stat().st_mode & 0o777) for p in (token, token.parent)]}}
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps(note) + "\\n")
if name == "srun":
    while words[0].startswith("--"):
        words.pop(0)
    os.setpgrp()
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))  # as SLURM does, sooner or later
    sys.exit(subprocess.call(words))
tried, joined = (Path(os.environ["NOTES"]).with_name("bin") / mark for mark in ("tried", "joined"))
if name == "ray" and "--block" in words:  # of a node that is not the first; the head is slow at first
    if not tried.exists():
        sys.exit(tried.touch() or 1)
    joined.touch()
    time.sleep(60)
if name == "scontrol":
    print("node7\\nnode8")
if name == "getent":
    print(os.environ["GETENT"])
if name == "hostname":
    print("10.1.2.3 192.168.0.1 ")
if name == "captune" and words[0] == "cluster":
    sys.exit(print('"node": "n7"', *['"node": "n8"'] * joined.exists(), sep="\\n"))
if name == "captune":
    if "WAIT" in os.environ:
        signal.signal(signal.SIGINT, lambda *_: (print("interrupted"), sys.exit(130)))
        Path(os.environ["WAIT"]).touch()
        time.sleep(60)
    sys.exit(int(os.environ.get("STATUS", "0")))
"""


class Desk:
    """A folder from which a batch script is run, with stubs of all that it calls."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.environment = {
            **home(folder),
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "NOTES": str(folder / "notes"),
            "GETENT": "10.9.8.7 STREAM node7",
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_SUBMIT_DIR": str(folder),
        }
        (folder / "bin").mkdir()
        for name in ("srun", "ray", "scontrol", "getent", "hostname", "captune"):
            (folder / "bin" / name).write_text(STUB)
            (folder / "bin" / name).chmod(0o755)
        (folder / "bin" / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.1\n")  # between two looks, in the script
        (folder / "bin" / "sleep").chmod(0o755)

    def start(self, options: Slurm, **environment: str) -> subprocess.Popen[str]:
        script = self.folder / "job.sh"
        script.write_text(slurm(options))
        return subprocess.Popen(
            ["bash", str(script)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, options: Slurm, **environment: str) -> tuple[int, str, str]:
        with self.start(options, **environment) as process:
            out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    def notes(self, name: str) -> list[dict[str, Any]]:
        notes = [json.loads(line) for line in (self.folder / "notes").read_text().splitlines()]
        return [note for note in notes if note["name"] == name and note["words"][0] != "cluster"]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    number = 10_000_000 + time.monotonic_ns() % 89_999_999
    try:
        yield Desk(tmp_path, number)
    finally:
        shutil.rmtree(f"/tmp/captune-{number}", ignore_errors=True)


BATCHES = [
    BATCH,
    replace(BATCH, gpus_per_node=0, gpus_per_trial=0.0),
    replace(BATCH, nodes=3, partition="gpu", account="vision", modules=("cuda/12.4", "python"), venv="/opt/my env/"),
    *(replace(BATCH, data=odd, run=odd, venv=None if ":" in odd else odd) for odd in ODD),
]


@pytest.mark.parametrize("options", BATCHES)
def test_batch_script_is_bash(options: Slurm) -> None:
    text = slurm(options)
    assert text.startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_batch_script_asks_slurm_for_what_was_asked_before_its_first_command() -> None:
    text = slurm(replace(BATCH, nodes=3, gpus_per_node=4, cpus_per_task=32, time="2-00:00:00", partition="gpu"))
    lines = text.splitlines()
    requests = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert set(requests) >= {"nodes=3", "gpus-per-node=4", "cpus-per-task=32", "time=2-00:00:00", "partition=gpu"}
    assert set(requests) >= {"ntasks-per-node=1", "exclusive", "signal=B:TERM@120", "requeue", "open-mode=append"}
    assert not any(line.startswith("account") for line in requests)
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    assert lines[first] == "set -euo pipefail"


def test_batch_job_starts_ray_on_all_nodes_at_the_first_ones_address_and_searches_on_it(desk: Desk) -> None:
    options = replace(BATCH, nodes=2, gpus_per_node=2, search_options="--preset 'my own'")
    status, out, error = desk.run(options)
    assert (status, error) == (0, "")
    port = 20_000 + desk.number % 10_000
    assert [
        "start",
        "--head",
        "--node-ip-address=10.9.8.7",
        f"--port={port}",
        "--num-cpus=8",
        "--num-gpus=2",
        "--dashboard-host=127.0.0.1",
        "--dashboard-port=8265",
    ] in [note["words"] for note in desk.notes("ray")]
    assert desk.notes("ray")[-1]["words"] == ["stop"]
    assert desk.notes("captune")[0]["words"] == shlex.split(
        "search data --run runs/one --resume-if-there --address auto --gpus-per-trial 1 --cpus-per-trial 4 "
        "--preset 'my own'"
    )
    steps = [{word for word in note["words"] if word.startswith("--no")} for note in desk.notes("srun")]
    assert sorted(map(sorted, steps)) == [["--nodelist=node7", "--nodes=1"], ["--nodes=1"], *[["--nodes=2"]] * 2]
    assert all("--ntasks-per-node=1" in note["words"] for note in desk.notes("srun"))
    assert "ssh -N -L 8265:127.0.0.1:8265 node7" in out


@pytest.mark.slow
def test_batch_job_has_a_fresh_token_that_others_cannot_read_and_leaves_nothing(desk: Desk) -> None:
    for _ in range(2):
        assert desk.run(BATCH, RAY_AUTH_TOKEN="old", RAY_ADDRESS="elsewhere:1")[0] == 0
    first, second = desk.notes("captune")
    for note in (first, second):
        assert note["mode"] == "token"
        assert len(note["token"]) == 64 and set(note["token"]) <= set("0123456789abcdef")
        assert note["access"] == ["0o600", "0o700"]
        assert note["tmp"] == f"/tmp/captune-{desk.number}"
    assert first["token"] != second["token"]
    assert sorted(entry.name for entry in desk.folder.iterdir()) == ["bin", "job.sh", "notes"]
    assert not Path(first["tmp"]).exists()


@pytest.mark.slow
def test_name_of_the_first_node_that_is_its_loopback_is_not_its_address(desk: Desk) -> None:
    for answer in ("127.0.1.1 STREAM node7", ""):
        assert desk.run(BATCH, GETENT=answer)[0] == 0
    starts = [" ".join(note["words"]) for note in desk.notes("ray") if note["words"][0] == "start"]
    assert starts and all("10.1.2.3" in words for words in starts)


def test_other_nodes_wait_for_a_slow_head_and_are_let_go_as_soon_as_the_search_is_done(desk: Desk) -> None:
    started = time.monotonic()
    assert desk.run(replace(BATCH, nodes=2))[0] == 0
    others = [note["words"] for note in desk.notes("ray") if "--block" in note["words"]]
    address = f"--address=10.9.8.7:{20_000 + desk.number % 10_000}"
    assert len(others) >= 2 and all(
        words == ["start", "--block", address, "--num-cpus=8", "--num-gpus=1"] for words in others
    )
    assert time.monotonic() - started < 30  # the stub of the other node's Ray sleeps for a minute


@pytest.mark.slow
def test_batch_job_loads_its_modules_and_takes_captune_from_its_environment(desk: Desk) -> None:
    own = desk.folder / "my env/bin"
    own.mkdir(parents=True)
    (desk.folder / "bin/captune").rename(own / "captune")
    (desk.folder / "bin/module").write_text(STUB)
    (desk.folder / "bin/module").chmod(0o755)
    options = replace(BATCH, modules=("cuda/12.4", "python"), venv=str(own.parent))
    assert desk.run(options)[0] == 0
    assert [note["words"] for note in desk.notes("module")] == [["load", "cuda/12.4", "python"]]
    assert len(desk.notes("captune")) == 1


@pytest.mark.slow
def test_batch_job_fails_as_its_search_does_and_says_where_rays_logs_are(desk: Desk) -> None:
    status, _, error = desk.run(BATCH, STATUS="3")
    assert status == 3
    assert f"/tmp/captune-{desk.number}" in error
    assert not list(desk.folder.glob(".captune-*"))


def test_batch_job_without_ray_has_failed(desk: Desk) -> None:
    (desk.folder / "bin/ray").write_text("#!/bin/sh\nexit 3\n")
    status, _, error = desk.run(BATCH)
    assert status == 1 and f"/tmp/captune-{desk.number}" in error


def test_script_that_slurm_does_not_run_says_so(desk: Desk) -> None:
    del desk.environment["SLURM_JOB_ID"]
    status, _, error = desk.run(BATCH)
    assert status != 0
    assert "sbatch" in error
    assert not (desk.folder / "notes").exists()


@pytest.mark.slow
def test_notice_of_the_time_limit_interrupts_the_search_and_says_how_to_go_on(desk: Desk) -> None:
    with desk.start(BATCH, WAIT=str(desk.folder / "waiting")) as process:
        try:
            _until(lambda: (desk.folder / "waiting").exists())
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130  # a job that waits for the whole search does not begin
    assert "interrupted" in out
    assert "sbatch the same file again" in error
    assert not Path(f"/tmp/captune-{desk.number}").exists()
    assert not list(desk.folder.glob(".captune-*"))


@pytest.mark.slow
@pytest.mark.parametrize("odd", rest_in_soak(ODD, *ODD[::3]))
def test_odd_names_reach_the_search_of_a_batch_job_as_they_are(desk: Desk, odd: str) -> None:
    status, _, error = desk.run(replace(BATCH, data=odd, run=f"run {odd}", venv=None if ":" in odd else odd))
    assert (status, error) == (0, "")
    [note] = desk.notes("captune")
    assert note["words"][:4] == ["search", odd, "--run", f"run {odd}"]
    assert sorted(entry.name for entry in desk.folder.iterdir()) == ["bin", "job.sh", "notes"]


@settings(deadline=None, max_examples=40)
@given(values, values, values)
def test_no_value_changes_the_rest_of_the_batch_script(data: str, run: str, option: str) -> None:
    try:
        options = replace(BATCH, data=data, run=run, search_options=f"--config {shlex.quote(option)}")
    except TemplateError:
        return
    text = slurm(options)
    plain = slurm(BATCH)
    changed = [line for line, was in zip(text.splitlines(), plain.splitlines(), strict=True) if line != was]
    assert {line.partition("=")[0].partition(":")[0] for line in changed} <= {
        "search",
        f"# Made by captune {version('captune')}",
    }
    [assignment] = [line for line in text.splitlines() if line.startswith("search=")]
    script = f'{assignment}\nprintf "%s\\0" "${{search[@]}}"'
    arguments = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split("\0")
    search = ["captune", "search", data, "--run", run, "--resume-if-there", "--address", "auto"]
    search += ["--gpus-per-trial", "1", "--cpus-per-trial", "4", "--config", option]
    assert arguments[:-1] == search


REAL_SEARCH = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path

import ray

ray.init(address="auto", log_to_driver=False)
found = {{"words": sys.argv[1:], "resources": ray.cluster_resources()}}
Path(os.environ["NOTES"]).write_text(json.dumps(found))
"""
OWN = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _own_namespaces() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*OWN, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0


@pytest.mark.cluster
@pytest.mark.skipif(not _own_namespaces(), reason="it stops all Rays that it sees, so it needs namespaces")
def test_real_ray_takes_what_the_batch_script_says_and_ends_with_the_search(desk: Desk) -> None:
    (desk.folder / "bin/ray").unlink()
    (desk.folder / "bin/captune").write_text(REAL_SEARCH)
    (desk.folder / "bin/srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    for name, answer in (("scontrol", "node7"), ("getent", "10.9.8.7 STREAM node7")):
        (desk.folder / "bin" / name).write_text(f"#!/bin/sh\necho {answer}\n")
    options = replace(BATCH, gpus_per_node=0, gpus_per_trial=0.0, cpus_per_task=1, cpus_per_trial=1.0)
    (desk.folder / "job.sh").write_text(slurm(options))
    path = f"{desk.folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"
    inside = "ip link set lo up && ip addr add 10.9.8.7/32 dev lo && exec bash job.sh"
    process = subprocess.Popen(
        [*OWN, "bash", "-c", inside],
        cwd=desk.folder,
        env={**desk.environment, "PATH": path, "SLURM_JOB_NUM_NODES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, out
    note = json.loads((desk.folder / "notes").read_text())
    assert note["words"][:4] == ["search", "data", "--run", "runs/one"]
    assert note["resources"]["CPU"] == 1
    assert note["resources"]["node:10.9.8.7"] == 1
    assert not Path(f"/tmp/captune-{desk.number}").exists()
    assert not list(desk.folder.glob(".captune-*"))


def _until(happened: Any) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
