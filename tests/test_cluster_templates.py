"""Files that start clusters: what reads them takes them, nothing breaks out of them, no secret is in them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.template_kuberay import KubeRay, kuberay
from cluster.template_ray_up import RayUp, ray_up
from cluster.template_slurm import Slurm, slurm
from cluster.templates import TemplateError

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
)
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


# What all have in common


@pytest.mark.parametrize("text", [ray_up(AWS), ray_up(LOCAL), kuberay(FULL_JOB), slurm(BATCH)])
def test_file_says_what_it_is_how_it_was_made_and_how_it_is_started_watched_and_stopped(text: str) -> None:
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    assert comments[0].endswith(".")
    assert comments[1].startswith(f"# Made by captune {version('captune')}: captune cluster template ")
    for what in ("Start:", "Dashboard:", "Stop:"):
        assert any(line.startswith(f"# {what}") for line in comments)


@pytest.mark.parametrize(
    ("text", "options"), [(ray_up(GCP), GCP), (ray_up(LOCAL), LOCAL), (kuberay(FULL_JOB), FULL_JOB)]
)
def test_command_in_the_file_names_every_option_that_is_not_a_default(text: str, options: Any) -> None:
    words = shlex.split(text.splitlines()[1].partition(": ")[2])
    named = dict(zip(words[4::2], words[5::2], strict=True))
    for option in fields(options):
        value = getattr(options, option.name)
        shown = named.pop("--" + option.name.replace("_", "-"), None)
        if shown is None:
            assert value in (option.default, version("ray"))
        else:
            assert shown == (",".join(value) if isinstance(value, tuple) else str(value))
    assert not named


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
        *((BATCH, name) for name in ("data", "run", "venv", "search_options")),
    ],
)
def test_value_of_more_than_one_line_is_refused(base: Any, option: str, text: str) -> None:
    with pytest.raises(TemplateError, match="--" + option.replace("_", "-")) as caught:
        replace(base, **{option: text})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "changes", "named"),
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
        (JOB, {"image": "1e3"}, "--image"),
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
        (JOB, {"search_options": "--address=1.2.3.4:6379"}, "--address"),
        (JOB, {"search_options": "'open"}, "--search-options"),
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
    base: Any, changes: Mapping[str, Any], named: str
) -> None:
    with pytest.raises(TemplateError) as caught:
        replace(base, **changes)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


# ray up


@pytest.mark.parametrize(
    "options",
    [
        AWS,
        replace(AWS, zone="us-west-2a,us-west-2b", ssh_key="~/.ssh/id.pem", key_name="pair", image="ami-1", workers=1),
        replace(AWS, worker_gpus=0, max_workers=9, idle_minutes=3, disk_gb=50),
        GCP,
        replace(GCP, worker_gpus=0, accelerator=None),
        LOCAL,
        replace(LOCAL, worker_hosts=(), head_host="localhost"),
    ],
)
def test_ray_takes_the_file_as_ray_up_reads_it(options: RayUp) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = ray_up(options)
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    assert config["cluster_name"] == "captune"
    head = config["available_node_types"][config["head_node_type"]]
    if options.provider == "local":
        assert config["max_workers"] == head["min_workers"] == len(options.worker_hosts)
    else:
        worker = config["available_node_types"]["worker"]
        assert head["resources"] == {"CPU": 0}
        assert worker["resources"].get("GPU", 0) == options.worker_gpus
        assert (worker["min_workers"], worker["max_workers"]) == (options.first_workers, options.most_workers)
        assert config["max_workers"] == options.most_workers


@pytest.mark.parametrize("options", [AWS, GCP, LOCAL])
def test_every_ray_of_ray_up_asks_for_the_token_and_shows_its_dashboard_to_loopback_only(options: RayUp) -> None:
    config = yaml.safe_load(ray_up(options))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token;" in command for command in starts if " start " in command)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


def test_token_itself_is_in_no_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    assert "0123456789abcdef" not in ray_up(replace(LOCAL, token=str(token)))


def test_versions_are_pinned_to_those_installed_here() -> None:
    for options, wanted in ((AWS, f"captune[gpu]=={version('captune')}"), (LOCAL, f"captune=={version('captune')}")):
        words = shlex.split(yaml.safe_load(ray_up(options))["setup_commands"][2])
        assert words[-2:] == [wanted, f"ray[default,tune]=={version('ray')}"]
    assert yaml.safe_load(kuberay(JOB))["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


@pytest.mark.parametrize("captune", ["captune @ git+https://git.lan/captune@v1", "https://git.lan/captune.whl", *ODD])
def test_setup_commands_hand_pip_the_requirement_as_it_was_given(tmp_path: Path, captune: str) -> None:
    bin_ = tmp_path / "captune-env/bin"
    bin_.mkdir(parents=True)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").touch()
    (bin_ / "python").write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$HOME/given"\n')
    (bin_ / "python").chmod(0o755)
    config = yaml.safe_load(ray_up(replace(LOCAL, captune=captune)))
    for command in config["setup_commands"]:
        # Ray hands commands to a shell like this.
        subprocess.run(["bash", "-c", f"true && ({command})"], check=True, env=_home(tmp_path), cwd=tmp_path)
    found = (tmp_path / "given").read_text().split("\0")[:-1]
    assert found == ["-m", "pip", "install", "--quiet", captune, f"ray[default,tune]=={version('ray')}"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".ray", "captune-env", "given"]
    assert stat.S_IMODE((tmp_path / ".ray/auth_token").stat().st_mode) == 0o600


@pytest.mark.parametrize("options", [AWS, GCP, LOCAL])
def test_commands_of_ray_up_are_shell(options: RayUp) -> None:
    config = yaml.safe_load(ray_up(options))
    for name, commands in config.items():
        for command in commands if name.endswith("_commands") else ():
            subprocess.run(["bash", "-n", "-c", f"true && ({command})"], check=True)


@settings(deadline=None)
@given(values, values, values)
def test_no_value_changes_the_rest_of_the_file_of_ray_up(captune: str, token: str, key: str) -> None:
    try:
        options = replace(LOCAL, captune=captune, token=token, ssh_key=key)
    except TemplateError:
        return
    text = ray_up(options)
    found, plain = yaml.safe_load(text), yaml.safe_load(ray_up(LOCAL))
    assert found["auth"]["ssh_private_key"] == key
    assert found["file_mounts"] == {"~/.ray/auth_token": token}
    assert shlex.split(found["setup_commands"][2])[5] == captune
    for config in (found, plain):
        del config["auth"]["ssh_private_key"], config["file_mounts"], config["setup_commands"][2]
    assert found == plain
    assert _header(text) == len(_comments(ray_up(LOCAL)))


# KubeRay


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """An object that has these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
QUANTITIES = closed("cpu", "memory", cpu=TEXT, memory=TEXT, **{"nvidia.com/gpu": TEXT})
POD = closed(
    "spec",
    spec=closed(
        "containers",
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        serviceAccountName=TEXT,
        volumes=array(closed("name", name=TEXT, persistentVolumeClaim=closed("claimName", claimName=TEXT))),
        containers=array(
            closed(
                "name",
                name=TEXT,
                image=TEXT,
                resources=closed(limits=QUANTITIES, requests=QUANTITIES),
                env=array(closed("name", "value", name=TEXT, value=TEXT)),
                envFrom=array(closed(secretRef=closed("name", name=TEXT))),
                volumeMounts=array(closed("name", "mountPath", name=TEXT, mountPath=TEXT)),
            )
        ),
    ),
)
PARAMETERS = {"type": "object", "additionalProperties": TEXT}
RAY_JOB = closed(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed("name", "namespace", name=TEXT, namespace=TEXT),
    spec=closed(
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=NUMBER,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=NUMBER,
        activeDeadlineSeconds=NUMBER,
        rayClusterSpec=closed(
            "headGroupSpec",
            rayVersion=TEXT,
            authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
            enableInTreeAutoscaling=FLAG,
            autoscalerOptions=closed(idleTimeoutSeconds=NUMBER),
            headGroupSpec=closed(
                "template",
                serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                enableIngress=FLAG,
                rayStartParams=PARAMETERS,
                template=POD,
            ),
            workerGroupSpecs=array(
                closed(
                    "groupName",
                    "minReplicas",
                    "maxReplicas",
                    "template",
                    groupName=TEXT,
                    replicas=NUMBER,
                    minReplicas=NUMBER,
                    maxReplicas=NUMBER,
                    rayStartParams=PARAMETERS,
                    template=POD,
                )
            ),
        ),
    ),
)
JOBS = [JOB, FULL_JOB, replace(JOB, worker_gpus=0, gpus_per_trial=0.0, workers=1)]


@pytest.mark.parametrize("options", JOBS)
def test_ray_job_has_known_fields_of_the_right_kind_only(options: KubeRay) -> None:
    jsonschema.validate(yaml.safe_load(kuberay(options)), RAY_JOB)


@pytest.mark.skipif("CAPTUNE_RAYJOB_CRD" not in os.environ, reason="CAPTUNE_RAYJOB_CRD names no file of KubeRay")
@pytest.mark.parametrize("options", JOBS)
def test_ray_job_is_as_kuberays_own_definition_demands(options: KubeRay) -> None:
    definition = yaml.safe_load(Path(os.environ["CAPTUNE_RAYJOB_CRD"]).read_text())
    [schema] = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == "v1"]
    jsonschema.validate(yaml.safe_load(kuberay(options)), _strict(schema))


def _strict(schema: Any) -> Any:
    """The same definition, refusing fields that it does not name: an API server drops those without a word."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: {key: _strict(each) for key, each in value.items()} if name == "properties" else _strict(value)
        for name, value in schema.items()
    }
    if "properties" in schema and "additionalProperties" not in schema:
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return found


def test_strict_definition_refuses_what_an_api_server_would_drop() -> None:
    definition = {"properties": {"a": {"type": "array", "items": {"properties": {"properties": {"type": "string"}}}}}}
    jsonschema.validate({"a": [{"properties": "x"}]}, _strict(definition))
    for wrong in ({"b": 1}, {"a": [{"other": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, _strict(definition))


def test_ray_job_gives_workers_what_was_asked_and_the_head_no_trials() -> None:
    cluster = yaml.safe_load(kuberay(FULL_JOB))["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    [worker] = workers["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (2, 2, 6)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {"name": "AWS_ENDPOINT_URL", "value": "https://minio.lan:9000"} in worker["env"]
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    for container in (head, worker):
        assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
        assert container["volumeMounts"] == [{"name": "storage", "mountPath": "/mnt/pictures"}]


def test_ray_job_asks_for_a_token_and_is_reached_inside_its_cluster_only() -> None:
    for options, auth in ((JOB, {"mode": "token"}), (FULL_JOB, {"mode": "token", "secretName": "ray-token"})):
        cluster = yaml.safe_load(kuberay(options))["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == auth
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert cluster["headGroupSpec"]["enableIngress"] is False


def test_ray_job_runs_the_search_once_and_takes_its_cluster_down() -> None:
    spec = yaml.safe_load(kuberay(FULL_JOB))["spec"]
    assert shlex.split(spec["entrypoint"]) == shlex.split(
        "captune search s3://bucket/data --run s3://bucket/run --address auto --gpus-per-trial 0.5 --cpus-per-trial 4 "
        "--preset full --trials 50"
    )
    assert spec["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] == 86_400


@settings(deadline=None, max_examples=40)
@given(values, values, values)
def test_entrypoint_survives_the_shells_of_submitter_and_head(data: str, run: str, option: str) -> None:
    try:
        options = replace(JOB, data=data, run=run, search_options=f"--config {shlex.quote(option)}")
    except TemplateError:
        return
    text = kuberay(options)
    entrypoint = yaml.safe_load(text)["spec"]["entrypoint"]
    wanted = ["captune", "search", data, "--run", run, "--address", "auto"]
    wanted += ["--gpus-per-trial", "1", "--cpus-per-trial", "4", "--config", option]
    assert _words(shlex.join(_words(entrypoint))) == wanted  # `ray job submit` joins what its shell split
    assert _header(text) == len(_comments(kuberay(JOB)))


# SLURM

STUB = f"""#!{sys.executable}
import json, os, signal, sys, time
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
    os.execvp(words[0], words)
if name == "ray":
    words = words[words.index("--") + 1 :]
    os.execvp(words[0], words)
if name == "scontrol":
    print("node7\\nnode8")
if name == "getent":
    print(os.environ["GETENT"])
if name == "hostname":
    print("10.1.2.3 192.168.0.1 ")
if name == "captune":
    if "WAIT" in os.environ:
        signal.signal(signal.SIGINT, lambda *_: (print("interrupted"), sys.exit(0)))
        Path(os.environ["WAIT"]).touch()
        time.sleep(60)
    sys.exit(int(os.environ.get("STATUS", "0")))
"""


class Desk:
    """A folder from which a batch script is run, with stubs of all that it calls."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.environment = {
            **_home(folder),
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
        return [note for note in notes if note["name"] == name]


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
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert set(asked) >= {"nodes=3", "gpus-per-node=4", "cpus-per-task=32", "time=2-00:00:00", "partition=gpu"}
    assert set(asked) >= {"ntasks-per-node=1", "exclusive", "signal=B:TERM@120"}
    assert not any(line.startswith("account") for line in asked)
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    assert lines[first] == "set -euo pipefail"


def test_batch_job_starts_ray_on_all_nodes_at_the_first_ones_address_and_searches_on_it(desk: Desk) -> None:
    options = replace(BATCH, nodes=2, gpus_per_node=2, search_options="--preset 'my own'")
    status, out, error = desk.run(options)
    assert (status, error) == (0, "")
    [ray] = desk.notes("ray")
    own, search = ray["words"][: ray["words"].index("--")], desk.notes("captune")[0]["words"]
    port = 20_000 + desk.number % 10_000
    assert own[:5] == ["symmetric-run", "--address", f"10.9.8.7:{port}", "--min-nodes", "2"]
    assert set(own[5:]) == {"--num-cpus=8", "--num-gpus=2", "--dashboard-host=127.0.0.1", "--dashboard-port=8265"}
    assert search == shlex.split(
        "search data --run runs/one --address auto --gpus-per-trial 1 --cpus-per-trial 4 --preset 'my own'"
    )
    assert all({"--nodes=2", "--ntasks-per-node=1"} <= set(note["words"]) for note in desk.notes("srun"))
    assert "ssh -N -L 8265:127.0.0.1:8265 node7" in out


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


def test_name_of_the_first_node_that_is_its_loopback_is_not_its_address(desk: Desk) -> None:
    for answer in ("127.0.1.1 STREAM node7", ""):
        assert desk.run(BATCH, GETENT=answer)[0] == 0
    assert all(note["words"][2].startswith("10.1.2.3:") for note in desk.notes("ray"))


def test_batch_job_goes_on_with_a_run_that_is_there(desk: Desk) -> None:
    (desk.folder / "runs/one").mkdir(parents=True)
    (desk.folder / "runs/one/run.json").touch()
    assert desk.run(BATCH)[0] == 0
    assert desk.notes("captune")[0]["words"] == ["resume", "runs/one", "--address", "auto"]


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


def test_batch_job_fails_as_its_search_does_and_says_where_rays_logs_are(desk: Desk) -> None:
    status, _, error = desk.run(BATCH, STATUS="3")
    assert status == 3
    assert f"/tmp/captune-{desk.number}" in error
    assert not list(desk.folder.glob(".captune-*"))


def test_script_that_slurm_does_not_run_says_so(desk: Desk) -> None:
    del desk.environment["SLURM_JOB_ID"]
    status, _, error = desk.run(BATCH)
    assert status != 0
    assert "sbatch" in error
    assert not (desk.folder / "notes").exists()


def test_notice_of_the_time_limit_interrupts_the_search_and_says_how_to_go_on(desk: Desk) -> None:
    options = replace(BATCH, run="it's one")
    with desk.start(options, WAIT=str(desk.folder / "waiting")) as process:
        try:
            _until(lambda: (desk.folder / "waiting").exists())
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "interrupted" in out
    [line] = [line for line in error.splitlines() if "captune" in line]
    assert "captune resume 'it'\"'\"'s one' --address auto" in line
    assert not list(desk.folder.glob(".captune-*"))


@pytest.mark.parametrize("odd", ODD)
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
        "resume",
        "record",
        "again",
        f"# Made by captune {version('captune')}",
    }
    names = ("search=", "resume=", "record=", "again=")
    assignments = "\n".join(line for line in text.splitlines() if line.startswith(names))
    script = f'{assignments}\nprintf "%s\\0" "${{search[@]}}" "$record" "${{resume[@]}}" "$again"'
    found = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split("\0")[:-1]
    search = ["captune", "search", data, "--run", run, "--address", "auto"]
    search += ["--gpus-per-trial", "1", "--cpus-per-trial", "4", "--config", option]
    resume = ["captune", "resume", run, "--address", "auto"]
    assert found[:-1] == [*search, f"{run.rstrip('/')}/run.json", *resume]
    assert _words(found[-1]) == resume


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
@pytest.mark.skipif(not _own_namespaces(), reason="Symmetric-run stops all Rays that it sees, so it needs namespaces")
def test_real_symmetric_run_takes_what_the_batch_script_says_and_ends_with_the_search(desk: Desk) -> None:
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
    found = json.loads((desk.folder / "notes").read_text())
    assert found["words"][:4] == ["search", "data", "--run", "runs/one"]
    assert found["resources"]["CPU"] == 1
    assert found["resources"]["node:10.9.8.7"] == 1
    assert not Path(f"/tmp/captune-{desk.number}").exists()
    assert not list(desk.folder.glob(".captune-*"))


# Helpers


def _home(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder)}


def _words(command: str) -> list[str]:
    """What a shell makes of a command's words."""
    script = f'set -f; take() {{ printf "%s\\0" "$@"; }}; take {command}'
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split("\0")[:-1]


def _comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def _header(text: str) -> int:
    """Comment lines, all of which stand at the top."""
    found = _comments(text)
    assert text.splitlines()[: len(found)] == found
    return len(found)


def _until(happened: Any) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
