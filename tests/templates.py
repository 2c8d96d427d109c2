"""Options of launch files, names that break out of careless ones, and how the files are read."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from captune.cluster.launch.docker import Docker
from captune.cluster.launch.kuberay import KubeRay
from captune.cluster.launch.ray_up import RayUp
from captune.cluster.launch.skypilot import SkyPilot
from captune.cluster.launch.slurm import Slurm

AWS = RayUp(
    provider="aws",
    region="us-west-2",
    head_type="m5.xlarge",
    worker_type="g5.2xlarge",
    worker_cpus=8,
    worker_gpus=1,
)
GCP = RayUp(
    provider="gcp",
    region="us-west1",
    zone="us-west1-a",
    project="pictures-1",
    image="projects/pictures-1/global/images/family/captune",
    head_type="n1-standard-4",
    worker_type="n1-standard-8",
    worker_cpus=8,
    worker_gpus=1,
    accelerator="nvidia-tesla-t4",
)
LOCAL = RayUp(provider="local", head_host="10.0.0.1", worker_hosts=("10.0.0.2", "node-3.lan"), ssh_key="~/.ssh/id")
JOB = KubeRay(data="s3://bucket/data", run="s3://bucket/run", image="registry.lan/captune:0.1")
FULL_JOB = replace(
    JOB,
    name="coco-search",
    namespace="vision",
    search_options="--preset full --trials 50",
    gpus_per_trial=0.5,
    max_workers=6,
    auth_secret="ray-token",
    storage_secret="bucket",
    s3_endpoint="https://minio.lan:9000",
    claim="pictures",
    claim_path="/mnt/pictures",
    service_account="searcher",
    deadline_seconds=86_400,
    start_seconds=1_800,
    retries=5,
    disk="100Gi",
    submitter_cpus="250m",
    submitter_memory="512Mi",
    head_selector=("pool=system",),
    worker_selector=("pool=gpu", "cloud.google.com/gke-accelerator=nvidia-l4"),
    head_tolerations=("system",),
    worker_tolerations=("nvidia.com/gpu:NoSchedule", "team=vision:NoExecute"),
    annotations=("cluster-autoscaler.kubernetes.io/safe-to-evict=false",),
    env=("CAPTUNE_CACHE=/tmp/data", "LEVEL=1e3"),
    pull_secrets=("registry",),
    run_as_user=1000,
)
QUEUED_JOB = replace(JOB, queue="gpu-queue", priority="low")
TASK = SkyPilot(
    data="s3://bucket/data", run="s3://bucket/run", nodes=3, infra="aws/us-east-1", gpu="L4", gpus_per_node=2
)
IMAGE = Docker(base="python:3.12-slim", user=1234)
BATCH = Slurm(data="data", run="runs/one")

# What breaks out of quotes, comments, expansions and lines that are not as careful as they should be.
ODD = [
    "two words",
    "it's",
    'a "quoted" one',
    "$HOME",
    "$(touch broken)",
    "`touch broken`",
    "a;touch broken",
    "a # b",
    "a: b",
    "{a: [b]}",
    "&a *b !c %d @e",
    "back\\slash \\n",
    "'\"'\"'",
    "*",
    "ünïcödé 图片 🖼",
    "@SEARCH@ {token} %s",
]
marks = st.sampled_from("aZ9 '\"$`\\;&|<>(){}[]*?!#~%@:=,./-_é图")
values = st.text(marks, min_size=1, max_size=12) | st.text(max_size=4)


def home(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder)}


def words(command: str) -> list[str]:
    """What a shell makes of a command's words."""
    script = f'set -f; take() {{ printf "%s\\0" "$@"; }}; take {command}'
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split("\0")[:-1]


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def header(text: str) -> int:
    """Comment lines, all of which stand at the top."""
    found = comments(text)
    assert text.splitlines()[: len(found)] == found
    return len(found)
