"""What all files have in common that start clusters: nothing breaks out of them, what cannot work is refused."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from importlib.metadata import version
from typing import Any

import pytest
from templates import AWS, BATCH, FULL_JOB, GCP, IMAGE, JOB, LOCAL, TASK

from captune.cluster.launch.docker import docker
from captune.cluster.launch.kuberay import kuberay
from captune.cluster.launch.options import TemplateError
from captune.cluster.launch.ray_up import ray_up
from captune.cluster.launch.skypilot import skypilot
from captune.cluster.launch.slurm import slurm


@pytest.mark.parametrize("text", [ray_up(AWS), ray_up(LOCAL), kuberay(FULL_JOB), slurm(BATCH), skypilot(TASK)])
def test_file_says_what_it_is_how_it_was_made_and_how_it_is_started_watched_and_stopped(text: str) -> None:
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    assert comments[0].endswith(".")
    assert comments[1].startswith(f"# Made by captune {version('captune')}: captune cluster template ")
    for what in ("Start:", "Dashboard:", "Stop:"):
        assert any(line.startswith(f"# {what}") for line in comments)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (ray_up(GCP), GCP),
        (ray_up(LOCAL), LOCAL),
        (kuberay(FULL_JOB), FULL_JOB),
        (skypilot(TASK), TASK),
        (docker(IMAGE), IMAGE),
    ],
)
def test_command_in_the_file_names_every_option_that_is_not_a_default(text: str, options: Any) -> None:
    words = shlex.split(text.splitlines()[1].partition(": ")[2])
    written = dict(zip(words[4::2], words[5::2], strict=True))
    for option in fields(options):
        value = getattr(options, option.name)
        text = written.pop("--" + option.name.replace("_", "-"), None)
        if text is None:
            assert value in (option.default, version("ray"))
        else:
            assert text == (",".join(value) if isinstance(value, tuple) else str(value))
    assert not written


@pytest.mark.parametrize(("make", "options"), [(ray_up, LOCAL), (kuberay, FULL_JOB), (slurm, BATCH)])
def test_file_is_the_same_every_time_and_options_stay_as_they_are(make: Any, options: Any) -> None:
    assert make(options) == make(replace(options))
    with pytest.raises(FrozenInstanceError):
        options.name = "other"


LINES = ["a\nb", "a\rb", "a\x85b", "a\u2028b", "a\u2029b", "a\0b", "a\x1b[0m", "a\tb", "a\u202eb"]


@pytest.mark.parametrize("text", LINES)
@pytest.mark.parametrize(
    ("base", "option"),
    [
        *((LOCAL, name) for name in ("token", "captune", "python", "ssh_key", "ssh_user")),
        *((JOB, name) for name in ("data", "run", "image", "claim_path", "search_options")),
        *((TASK, name) for name in ("data", "run", "python", "captune", "search_options")),
        (IMAGE, "captune"),
        *((BATCH, name) for name in ("data", "run", "venv", "search_options")),
    ],
)
def test_value_of_more_than_one_line_is_refused(base: Any, option: str, text: str) -> None:
    with pytest.raises(TemplateError, match="--" + option.replace("_", "-")) as caught:
        replace(base, **{option: text})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "changes", "name"),
    [
        (LOCAL, {"provider": "azure"}, "--provider"),
        (LOCAL, {"head_host": None}, "--head-host"),
        (LOCAL, {"worker_hosts": ("10.0.0.2", "10.0.0.2")}, "twice"),
        (LOCAL, {"worker_hosts": ("10.0.0.1",)}, "twice"),
        (LOCAL, {"worker_hosts": ("a b",)}, "--worker-hosts"),
        (LOCAL, {"worker_hosts": ("-oProxyCommand=x",)}, "--worker-hosts"),
        (LOCAL, {"ssh_key": None}, "--ssh-key"),
        (LOCAL, {"region": "us-west-2"}, "--region is for --provider aws and gcp"),
        (LOCAL, {"max_workers": 3}, "--max-workers"),
        (LOCAL, {"idle_minutes": 3}, "--idle-minutes"),
        (LOCAL, {"ray": "2.60"}, "--ray"),
        (LOCAL, {"name": "Cap Tune"}, "--name"),
        (LOCAL, {"captune": "--index-url=http://elsewhere"}, "--captune"),
        (LOCAL, {"token": ""}, "--token"),
        (AWS, {"region": None}, "--region"),
        (AWS, {"worker_cpus": None}, "--worker-cpus"),
        (AWS, {"worker_cpus": 0}, "--worker-cpus"),
        (AWS, {"worker_gpus": -1}, "--worker-gpus"),
        (AWS, {"worker_gpus": None}, "--worker-gpus"),
        (AWS, {"workers": 0}, "--workers"),
        (AWS, {"workers": 3, "max_workers": 2}, "--max-workers"),
        (AWS, {"idle_minutes": 0}, "--idle-minutes"),
        (AWS, {"disk_gb": 1}, "--disk-gb"),
        (AWS, {"ssh_key": "~/.ssh/id"}, "--key-name"),
        (AWS, {"key_name": "pair"}, "--ssh-key"),
        (AWS, {"project": "p"}, "--project is for --provider gcp"),
        (AWS, {"head_host": "10.0.0.1"}, "--head-host"),
        (GCP, {"zone": None}, "--zone"),
        (GCP, {"image": None}, "--image"),
        (GCP, {"accelerator": None}, "--accelerator"),
        (GCP, {"worker_gpus": 0}, "--accelerator"),
        (GCP, {"key_name": "pair"}, "--key-name"),
        (JOB, {"image": "two words"}, "--image"),
        (JOB, {"queue": "A"}, "--queue"),
        (JOB, {"priority": "low"}, "--priority"),
        (JOB, {"queue": "gpus", "max_workers": 9}, "--queue"),
        (JOB, {"retries": -1}, "--retries"),
        (JOB, {"start_seconds": 0}, "--start-seconds"),
        (JOB, {"run_as_user": 0}, "--run-as-user"),
        (JOB, {"disk": "100"}, "--disk"),
        (JOB, {"submitter_cpus": "0.5 m"}, "--submitter-cpus"),
        (JOB, {"worker_selector": ("pool",)}, "--worker-selector"),
        (JOB, {"head_selector": ("a=b c",)}, "--head-selector"),
        (JOB, {"head_selector": ("a=b", "a=c")}, "--head-selector names a twice"),
        (JOB, {"worker_tolerations": ("a:Never",)}, "--worker-tolerations"),
        (JOB, {"head_tolerations": ("",)}, "--head-tolerations"),
        (JOB, {"annotations": ("a b=c",)}, "--annotations"),
        (JOB, {"env": ("A-B=1",)}, "--env"),
        (JOB, {"env": ("A=1", "A=2")}, "--env names A twice"),
        (JOB, {"env": ("A=$(HOME)",)}, "Kubernetes replaces"),
        (JOB, {"env": ("AWS_ENDPOINT_URL=http://a",)}, "--s3-endpoint"),
        (JOB, {"pull_secrets": ("A",)}, "--pull-secrets"),
        (JOB, {"name": "a" * 48}, "--name"),
        (JOB, {"name": "-a"}, "--name"),
        (JOB, {"namespace": "a/b"}, "--namespace"),
        (JOB, {"auth_secret": "A"}, "--auth-secret"),
        (JOB, {"claim": "a b"}, "--claim"),
        (JOB, {"head_memory": "16 GB"}, "--head-memory"),
        (JOB, {"worker_memory": "0Gi"}, "--worker-memory"),
        (JOB, {"worker_cpus": 0}, "--worker-cpus"),
        (JOB, {"worker_gpus": -1}, "--worker-gpus"),
        (JOB, {"ttl_seconds": -1}, "--ttl-seconds"),
        (JOB, {"deadline_seconds": 0}, "--deadline-seconds"),
        (JOB, {"max_workers": 1}, "--max-workers"),
        (JOB, {"claim_path": "/mnt"}, "--claim"),
        (JOB, {"claim": "a", "claim_path": "mnt"}, "--claim-path"),
        (JOB, {"s3_endpoint": "minio:9000"}, "--s3-endpoint"),
        (JOB, {"s3_endpoint": "http://$(TOKEN)"}, "--s3-endpoint"),
        (JOB, {"data": "s3://$(RAY_AUTH_TOKEN)"}, "Kubernetes replaces"),
        (JOB, {"run": "s3://a$$b"}, "Kubernetes replaces"),
        (JOB, {"search_options": "--seed '$(X)'"}, "Kubernetes replaces"),
        (JOB, {"gpus_per_trial": 2.0}, "--gpus-per-trial"),
        (JOB, {"gpus_per_trial": float("nan")}, "trial"),
        (JOB, {"cpus_per_trial": 9.0}, "--cpus-per-trial"),
        (JOB, {"search_options": "--run other"}, "--run"),
        (JOB, {"search_options": "--resume-if-there"}, "--resume-if-there"),
        (JOB, {"search_options": "--address=1.2.3.4:6379"}, "--address"),
        (JOB, {"search_options": "'open"}, "--search-options"),
        (TASK, {"data": "/data"}, "--data"),
        (TASK, {"run": "run"}, "--run"),
        (TASK, {"gpu": None}, "--gpus-per-node"),
        (TASK, {"gpu": "L4 A10"}, "--gpu"),
        (TASK, {"infra": "aws us"}, "--infra"),
        (TASK, {"cpus_per_trial": 9.0}, "--cpus-per-trial"),
        (IMAGE, {"base": "a b"}, "--base"),
        (IMAGE, {"user": 0}, "--user"),
        (IMAGE, {"captune": "a <<EOF"}, "--captune"),
        (IMAGE, {"captune": "dist/a b.whl"}, "--captune"),
        (BATCH, {"name": "a b"}, "--name"),
        (BATCH, {"partition": "gpu --uid=0"}, "--partition"),
        (BATCH, {"account": "a\\b"}, "--account"),
        (BATCH, {"time": "8h"}, "--time"),
        (BATCH, {"nodes": 0}, "--nodes"),
        (BATCH, {"gpus_per_node": -1}, "--gpus-per-node"),
        (BATCH, {"cpus_per_task": 2}, "--cpus-per-trial"),
        (BATCH, {"modules": ("cuda;id",)}, "--modules"),
        (BATCH, {"venv": "/opt/a:b"}, "--venv"),
        (BATCH, {"data": "~/data"}, "--data"),
        (BATCH, {"run": "s3://bucket/run"}, "--run"),
        (BATCH, {"gpus_per_trial": 0.0, "cpus_per_trial": 0.0}, "trial"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line_that_names_them(
    base: Any, changes: Mapping[str, Any], name: str
) -> None:
    with pytest.raises(TemplateError) as caught:
        replace(base, **changes)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
