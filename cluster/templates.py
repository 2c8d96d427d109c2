"""Files that start a cluster: for Ray's launcher, for KubeRay, for SLURM. Text from options; nothing is started. Pure.

Options are frozen values that are checked when they are made. A name that could be read as something else by YAML, by a
shell or by a comment is quoted where quoting holds, and refused where it does not.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import version
from typing import Any, Literal

import yaml

from cluster.resources import Request, ResourceError

_LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"  # a name that AWS, GCP and Kubernetes take alike
_WORD = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # SLURM splits its comment lines by rules of its own
_MODULE = r"[A-Za-z0-9][A-Za-z0-9._+/-]*"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?"
_MEMORY = r"[1-9][0-9]*(Mi|Gi|Ti)"
_SLURM_TIME = r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}"
_LONGEST_RAYJOB_NAME = 47  # KubeRay appends to it, and Kubernetes ends names at 63
_DASHBOARD = 8265
_NODE_ENV = "~/captune-env"
_NODE_TOKEN = "~/.ray/auth_token"  # where Ray looks for its token unless told otherwise
_ON_NODE = f"export RAY_AUTH_MODE=token; ulimit -n 65536; {_NODE_ENV}/bin/ray"


class TemplateError(ValueError):
    """Options that no file can be made of."""


@dataclass(frozen=True, kw_only=True)
class _Options(ABC):
    """Values of a command line: each field is the option of its name."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and option.name != "search_options":
                    _check_text(_flag(option.name), text)
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raises TemplateError where values do not suit each other."""


@dataclass(frozen=True, kw_only=True)
class RayUp(_Options):
    """A cluster for `ray up`, on AWS, on GCP, or on machines that are there.

    Attributes:
        provider: aws, gcp, or local for machines that are there.
        name: of the cluster; lower case letters, digits and dashes.
        region, zone: where, for the clouds; AWS takes several zones, separated by commas, GCP needs one.
        project: GCP project.
        image: AWS: image id, Ray's own choice if left out. GCP: path of an image or of a family.
        head_type, worker_type: instance types of the clouds.
        worker_cpus, worker_gpus: what one worker of the clouds offers.
        accelerator: GCP: type of the workers' GPUs.
        disk_gb: disk of each cloud machine, GB.
        workers, max_workers: machines at first and at most, besides the head, which runs no trials; for the clouds.
        idle_minutes: a cloud worker without work is given back after so long.
        head_host, worker_hosts: machines of a local cluster.
        ssh_user, ssh_key: who logs in, and the private key's file; the clouds make a key if it is left out.
        key_name: AWS: name of the key pair that `ssh_key` belongs to.
        token: file on this machine that holds Ray's token.
        python: command that makes the virtual environment; the same version everywhere, 3.11 or newer.
        captune: what pip installs: a requirement, a wheel's URL or `captune @ git+https://...`; the installed version
            if left out, with its `gpu` extra where workers have GPUs.
        ray: version of Ray.
    """

    provider: Literal["aws", "gcp", "local"]
    name: str = "captune"
    region: str | None = None
    zone: str | None = None
    project: str | None = None
    image: str | None = None
    head_type: str | None = None
    worker_type: str | None = None
    worker_cpus: int | None = None
    worker_gpus: int | None = None
    accelerator: str | None = None
    disk_gb: int | None = None
    workers: int | None = None
    max_workers: int | None = None
    idle_minutes: int | None = None
    head_host: str | None = None
    worker_hosts: tuple[str, ...] = ()
    ssh_user: str = "ubuntu"
    ssh_key: str | None = None
    key_name: str | None = None
    token: str = _NODE_TOKEN
    python: str = "python3"
    captune: str | None = None
    ray: str = field(default_factory=lambda: version("ray"))

    def _check(self) -> None:
        if self.provider not in _NEEDED:
            raise TemplateError(f"--provider must be aws, gcp or local, got {self.provider!r}")
        for option in fields(self):
            of = _ONLY_FOR.get(option.name)
            given = getattr(self, option.name) != option.default
            if of and given and self.provider not in of:
                raise TemplateError(
                    f"{_flag(option.name)} is for --provider {' and '.join(of)}, not for {self.provider}; leave it out"
                )
            if option.name in _NEEDED[self.provider] and not given:
                raise TemplateError(f"--provider {self.provider} needs {_flag(option.name)}")
        _check_pattern("--name", self.name, _LABEL, "lower case letters, digits and dashes")
        _check_pattern("--ray", self.ray, r"[0-9]+\.[0-9]+\.[0-9]+", "a version, e.g. 2.60.0")
        if self.provider == "local":
            self._check_hosts()
        else:
            self._check_cloud()

    def _check_hosts(self) -> None:
        assert self.head_host is not None
        hosts = (self.head_host, *self.worker_hosts)
        for host in hosts:
            _check_pattern("--head-host and --worker-hosts", host, _HOST, "names or addresses of machines")
        if len(set(hosts)) < len(hosts):
            raise TemplateError(f"a machine stands twice among --head-host and --worker-hosts: {', '.join(hosts)}")
        if self.ssh_key is None:
            raise TemplateError("--provider local needs --ssh-key, the file of a private key that all machines take")

    def _check_cloud(self) -> None:
        _at_least("--worker-cpus", self.worker_cpus, 1)
        _at_least("--worker-gpus", self.worker_gpus, 0)
        _at_least("--disk-gb", self.disk_gb, 30)
        _at_least("--idle-minutes", self.idle_minutes, 1)
        _check_workers(self.first_workers, self.most_workers)
        if self.provider == "aws" and (self.ssh_key is None) != (self.key_name is None):
            raise TemplateError("--ssh-key and --key-name belong together: the file, and the name of its pair at AWS")
        if self.provider == "gcp" and bool(self.worker_gpus) != bool(self.accelerator):
            raise TemplateError("--accelerator and --worker-gpus belong together, e.g. nvidia-tesla-t4 and 1")

    @property
    def first_workers(self) -> int:
        """Workers that the cluster starts with."""
        return 2 if self.workers is None else self.workers

    @property
    def most_workers(self) -> int:
        """Workers that the cluster may grow to."""
        return self.first_workers if self.max_workers is None else self.max_workers


_CLOUD = ("aws", "gcp")
_ONLY_FOR: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("region", "zone", "image", "head_type", "worker_type", "worker_cpus", "worker_gpus"), _CLOUD),
    **dict.fromkeys(("disk_gb", "workers", "max_workers", "idle_minutes"), _CLOUD),
    **dict.fromkeys(("project", "accelerator"), ("gcp",)),
    **dict.fromkeys(("head_host", "worker_hosts"), ("local",)),
    "key_name": ("aws",),
}
_NEEDED: Mapping[str, Sequence[str]] = {
    "aws": ("region", "head_type", "worker_type", "worker_cpus", "worker_gpus"),
    "gcp": ("region", "zone", "project", "image", "head_type", "worker_type", "worker_cpus", "worker_gpus"),
    "local": ("head_host",),
}
_CLIENTS: Mapping[str, Sequence[str]] = {  # what Ray's autoscaler on the head imports
    "aws": ("boto3",),
    "gcp": ("google-api-python-client", "google-auth", "google-auth-httplib2", "cryptography"),
    "local": (),
}


@dataclass(frozen=True, kw_only=True)
class _Search(_Options):
    """A search on a cluster."""

    data: str
    run: str
    gpus_per_trial: float = 1.0
    cpus_per_trial: float = 4.0
    search_options: str = ""

    def words(self) -> list[str]:
        """The command that searches."""
        each = ["--gpus-per-trial", f"{self.gpus_per_trial:g}", "--cpus-per-trial", f"{self.cpus_per_trial:g}"]
        return ["captune", "search", self.data, "--run", self.run, "--address", "auto", *each, *self._further()]

    def resume_words(self) -> list[str]:
        """The command that goes on with the same run."""
        return ["captune", "resume", self.run, "--address", "auto"]

    def _further(self) -> list[str]:
        _one_line("--search-options", self.search_options)
        try:
            words = shlex.split(self.search_options)
        except ValueError as error:
            raise TemplateError(f"--search-options {self.search_options!r}: {str(error).lower()}") from error
        for word in words:
            if word.partition("=")[0] in ("--run", "--address", "--gpus-per-trial", "--cpus-per-trial"):
                raise TemplateError(f"--search-options holds {word}, which the template sets itself; leave it out")
        return words

    def _check_trial(self, cpus: int, gpus: int) -> None:
        self._further()
        try:
            Request(self.cpus_per_trial, self.gpus_per_trial)
        except ResourceError as error:
            raise TemplateError(str(error)) from error
        for option, asked, there in (
            ("--cpus-per-trial", self.cpus_per_trial, cpus),
            ("--gpus-per-trial", self.gpus_per_trial, gpus),
        ):
            if asked > there:
                raise TemplateError(f"{option} must be {there} or less, as one node has no more, got {asked:g}")


@dataclass(frozen=True, kw_only=True)
class KubeRay(_Search):
    """A search as a RayJob: KubeRay starts a cluster for it, runs it, and takes the cluster down.

    Attributes:
        data, run: paths in the pods.
        image: container image with captune, and the Ray of `ray`.
        name: of the RayJob.
        namespace: of Kubernetes.
        gpus_per_trial, cpus_per_trial: what one trial asks for.
        search_options: further options of `captune search`, as on its command line.
        head_cpus, head_memory: of the head, which runs the search and no trials; memory as 16Gi.
        worker_cpus, worker_gpus, worker_memory: of each worker.
        workers, max_workers: pods at first and at most, besides the head.
        idle_seconds: a worker above the first ones is given back after so long without work.
        auth_secret: Secret whose key auth_token holds Ray's token; the operator makes one if it is left out.
        storage_secret: Secret whose keys become environment variables of all pods, e.g. AWS_ACCESS_KEY_ID.
        s3_endpoint: URL of the S3 service, where it is not AWS's own.
        claim, claim_path: a PersistentVolumeClaim that all pods mount, and where.
        service_account: of all pods.
        ttl_seconds: the cluster stays for so long after the end of the search.
        deadline_seconds: the RayJob is ended after so long.
        ray: version of Ray in the image.
    """

    image: str
    name: str = "captune"
    namespace: str = "default"
    head_cpus: int = 4
    head_memory: str = "16Gi"
    worker_cpus: int = 8
    worker_gpus: int = 1
    worker_memory: str = "32Gi"
    workers: int = 2
    max_workers: int | None = None
    idle_seconds: int = 300
    auth_secret: str | None = None
    storage_secret: str | None = None
    s3_endpoint: str | None = None
    claim: str | None = None
    claim_path: str = "/data"
    service_account: str | None = None
    ttl_seconds: int = 600
    deadline_seconds: int | None = None
    ray: str = field(default_factory=lambda: version("ray"))

    def _check(self) -> None:
        for option in ("name", "namespace", "auth_secret", "storage_secret", "claim", "service_account"):
            if (value := getattr(self, option)) is not None:
                _check_pattern(_flag(option), value, _LABEL, "lower case letters, digits and dashes")
        if len(self.name) > _LONGEST_RAYJOB_NAME:
            raise TemplateError(f"--name must have {_LONGEST_RAYJOB_NAME} characters at most, got {len(self.name)}")
        for option in ("head_memory", "worker_memory"):
            _check_pattern(_flag(option), getattr(self, option), _MEMORY, "a number with Mi, Gi or Ti, e.g. 16Gi")
        for option in ("head_cpus", "worker_cpus", "idle_seconds", "deadline_seconds"):
            _at_least(_flag(option), getattr(self, option), 1)
        for option in ("worker_gpus", "ttl_seconds"):
            _at_least(_flag(option), getattr(self, option), 0)
        _check_pattern("--ray", self.ray, r"[0-9]+\.[0-9]+\.[0-9]+", "a version, e.g. 2.60.0")
        # A YAML reader may take a name such as 1e3 for a number, though PyYAML does not.
        _check_pattern("--image", self.image, r"[A-Za-z]\S*|\S*[/:]\S*", "an image's name without blanks")
        if self.s3_endpoint is not None:
            _check_pattern("--s3-endpoint", self.s3_endpoint, r"https?://[A-Za-z0-9.:/_-]+", "a URL of http or https")
        _check_workers(self.workers, self.most_workers)
        if not self.claim_path.startswith("/"):
            raise TemplateError(f"--claim-path must be a whole path, got {self.claim_path!r}")
        if self.claim is None and self.claim_path != "/data":
            raise TemplateError("--claim-path is where --claim is mounted; give --claim, or leave it out")
        self._check_trial(self.worker_cpus, self.worker_gpus)
        # Kubernetes does so in every command, whatever its quotes.
        for odd in ("$(", "$$"):
            if odd in shlex.join(self.words()):
                raise TemplateError(f"Kubernetes replaces {odd} in commands; choose other names for --data and --run")

    @property
    def most_workers(self) -> int:
        """Workers that the cluster may grow to."""
        return self.workers if self.max_workers is None else self.max_workers


@dataclass(frozen=True, kw_only=True)
class Slurm(_Search):
    """A search as a batch job of SLURM, on whole nodes.

    Attributes:
        data: path that all nodes see.
        run: folder that all nodes see; a run that is there already is resumed.
        name: of the job.
        gpus_per_trial, cpus_per_trial: what one trial asks for.
        search_options: further options of `captune search`, as on its command line.
        nodes: how many; the first runs the search, and trials as all others do.
        gpus_per_node, cpus_per_task: of each node; SLURM runs one task on each.
        time: limit of the job, [DAYS-]HOURS:MINUTES:SECONDS.
        partition, account: of SLURM.
        modules: environment modules that are loaded first.
        venv: folder of the virtual environment with captune; whatever is on the path if left out.
    """

    name: str = "captune"
    nodes: int = 1
    gpus_per_node: int = 1
    cpus_per_task: int = 8
    time: str = "08:00:00"
    partition: str | None = None
    account: str | None = None
    modules: tuple[str, ...] = ()
    venv: str | None = None

    def _check(self) -> None:
        for option in ("name", "partition", "account"):
            if (value := getattr(self, option)) is not None:
                _check_pattern(_flag(option), value, _WORD, "letters, digits and ._+-")
        for module in self.modules:
            _check_pattern("--modules", module, _MODULE, "letters, digits and ._+/-")
        _check_pattern("--time", self.time, _SLURM_TIME, "[DAYS-]HOURS:MINUTES:SECONDS, e.g. 08:00:00")
        _at_least("--nodes", self.nodes, 1)
        _at_least("--gpus-per-node", self.gpus_per_node, 0)
        _at_least("--cpus-per-task", self.cpus_per_task, 1)
        for option in ("data", "run", "venv"):
            if (getattr(self, option) or "").startswith("~"):
                raise TemplateError(f"{_flag(option)} must be written out, as ~ is quoted in the file")
        if "://" in self.run:
            raise TemplateError(f"--run must be a folder that all nodes see, got {self.run!r}")
        if self.venv is not None and ":" in self.venv:
            raise TemplateError(f"--venv must have no colon, which ends a folder in PATH, got {self.venv!r}")
        self._check_trial(self.cpus_per_task, self.gpus_per_node)


def ray_up(options: RayUp) -> str:
    """The YAML that `ray up` starts a cluster from."""
    config: dict[str, Any] = {
        "cluster_name": options.name,
        **(_hosts(options) if options.provider == "local" else _instances(options)),
        "file_mounts": {_NODE_TOKEN: options.token},
        "setup_commands": _setup(options),
        "head_setup_commands": _head_setup(options),
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            f"{_NODE_ENV}/bin/ray stop",
            f"{_ON_NODE} start --head --port=6379 --object-manager-port=8076 --dashboard-host=127.0.0.1"
            f" --dashboard-port={_DASHBOARD} --disable-usage-stats --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            f"{_NODE_ENV}/bin/ray stop",
            f"{_ON_NODE} start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076",
        ],
    }
    notes = _RAY_UP_NOTES.format(
        token=shlex.quote(options.token), port=_DASHBOARD, env=_NODE_ENV, user=options.ssh_user
    )
    return _header("ray-up", options, notes) + _yaml(config)


def kuberay(options: KubeRay) -> str:
    """The RayJob that `kubectl create` starts a search from."""
    grows = options.most_workers > options.workers
    auth = {"mode": "token"} | ({} if options.auth_secret is None else {"secretName": options.auth_secret})
    cluster: dict[str, Any] = {
        "rayVersion": options.ray,
        "authOptions": auth,
        "enableInTreeAutoscaling": grows,
        **({"autoscalerOptions": {"idleTimeoutSeconds": options.idle_seconds}} if grows else {}),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "enableIngress": False,
            # Within the pod's network only: the operator and the submitter talk to it through the service.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": _pod("ray-head", options, options.head_cpus, 0, options.head_memory),
        },
        "workerGroupSpecs": [
            {
                "groupName": "trials",
                "replicas": options.workers,
                "minReplicas": options.workers,
                "maxReplicas": options.most_workers,
                "rayStartParams": {},
                "template": _pod(
                    "ray-worker", options, options.worker_cpus, options.worker_gpus, options.worker_memory
                ),
            }
        ],
    }
    deadline = {} if options.deadline_seconds is None else {"activeDeadlineSeconds": options.deadline_seconds}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": options.name, "namespace": options.namespace},
        "spec": {
            "entrypoint": shlex.join(options.words()),
            "submissionMode": "K8sJobMode",
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": options.ttl_seconds,
            **deadline,
            "rayClusterSpec": cluster,
        },
    }
    return _header("kuberay", options, _kuberay_notes(options)) + _yaml(job)


def slurm(options: Slurm) -> str:
    """The batch script that `sbatch` starts a search from."""
    directives = {
        "job-name": options.name,
        "output": "%x-%j.log",
        "time": options.time,
        "nodes": options.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": options.cpus_per_task,
        "gpus-per-node": options.gpus_per_node or None,
        "mem": 0,
        "partition": options.partition,
        "account": options.account,
        "signal": "B:TERM@120",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    parts = [
        "#!/bin/bash\n" + _header("slurm", options, _SLURM_NOTES),
        # Symmetric-run refuses a node on which a Ray runs, and stops every Ray of its user when it ends.
        "\n".join([*lines, "#SBATCH --exclusive", ""]),
        _slurm_values(options),
        _SLURM_SCRIPT,
    ]
    return "\n".join(parts)


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=1_000_000, allow_unicode=True)


def _header(verb: str, options: _Options, notes: str) -> str:
    """Comments: what the file is, how it was made, how it is used. Values are one line each, so they stay comments."""
    made = f"Made by captune {version('captune')}: {_command(verb, options)}"
    first, _, rest = textwrap.dedent(notes).strip().partition("\n")
    return "".join(f"# {line}".rstrip() + "\n" for line in [first, made, *rest.splitlines()])


def _command(verb: str, options: _Options) -> str:
    """The command that makes the same file again."""
    words = ["captune", "cluster", "template", verb]
    for option in fields(options):
        value = getattr(options, option.name)
        default = option.default_factory() if option.default_factory is not MISSING else option.default
        if value != default:
            text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
            words += [_flag(option.name), str(text)]
    return shlex.join(words)


def _instances(options: RayUp) -> dict[str, Any]:
    """Provider, login and machines of a cloud."""
    gpus = options.worker_gpus or 0
    node = _aws_node if options.provider == "aws" else _gcp_node
    where = {"region": options.region, "availability_zone": options.zone, "project_id": options.project}
    return {
        "max_workers": options.most_workers,
        "idle_timeout_minutes": options.idle_minutes or 10,
        "provider": {
            "type": options.provider,
            **{name: value for name, value in where.items() if value is not None},
            **({"cache_stopped_nodes": False} if options.provider == "aws" else {}),
        },
        "auth": _login(options),
        "head_node_type": "head",
        "available_node_types": {
            "head": {
                "resources": {"CPU": 0},
                "max_workers": 0,
                "node_config": node(options, options.head_type, 0),
            },
            "worker": {
                "resources": {"CPU": options.worker_cpus} | ({"GPU": gpus} if gpus else {}),
                "min_workers": options.first_workers,
                "max_workers": options.most_workers,
                "node_config": node(options, options.worker_type, gpus),
            },
        },
    }


def _aws_node(options: RayUp, machine: str | None, _gpus: int) -> dict[str, Any]:
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": options.disk_gb or 100, "VolumeType": "gp3"}}
    return {
        "InstanceType": machine,
        **({} if options.image is None else {"ImageId": options.image}),
        **({} if options.key_name is None else {"KeyName": options.key_name}),
        "BlockDeviceMappings": [disk],
    }


def _gcp_node(options: RayUp, machine: str | None, gpus: int) -> dict[str, Any]:
    start = {"diskSizeGb": options.disk_gb or 100, "sourceImage": options.image}
    node: dict[str, Any] = {
        "machineType": machine,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": start}],
    }
    if gpus:
        node["guestAccelerators"] = [{"acceleratorType": options.accelerator, "acceleratorCount": gpus}]
        node["metadata"] = {"items": [{"key": "install-nvidia-driver", "value": "True"}]}
        node["scheduling"] = [{"onHostMaintenance": "TERMINATE"}]  # a machine with GPUs cannot be moved while it runs
    return node


def _hosts(options: RayUp) -> dict[str, Any]:
    """Provider and login of machines that are there."""
    return {
        "provider": {"type": "local", "head_ip": options.head_host, "worker_ips": list(options.worker_hosts)},
        "auth": _login(options),
    }


def _login(options: RayUp) -> dict[str, str]:
    return {"ssh_user": options.ssh_user} | ({} if options.ssh_key is None else {"ssh_private_key": options.ssh_key})


def _setup(options: RayUp) -> list[str]:
    """Commands for every machine; they may run again on one that is set up."""
    extra = "[gpu]" if options.worker_gpus else ""
    captune = options.captune or f"captune{extra}=={version('captune')}"
    return [
        f"chmod 600 {_NODE_TOKEN}",
        f"test -x {_NODE_ENV}/bin/python || {shlex.quote(options.python)} -m venv {_NODE_ENV}",
        _pip([captune, f"ray[default,tune]=={options.ray}"]),
    ]


def _head_setup(options: RayUp) -> list[str]:
    clients = _CLIENTS[options.provider]
    return [_pip(clients)] if clients else []


def _pip(requirements: Sequence[str]) -> str:
    return f"{_NODE_ENV}/bin/python -m pip install --quiet {shlex.join(requirements)}"


def _pod(container: str, options: KubeRay, cpus: int, gpus: int, memory: str) -> dict[str, Any]:
    """A pod template; requests are limits, as Ray schedules by what a pod has at most."""
    size = {"cpu": str(cpus), "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    env = {"RAY_USAGE_STATS_ENABLED": "0"}
    if options.s3_endpoint is not None:
        env["AWS_ENDPOINT_URL"] = options.s3_endpoint
    one: dict[str, Any] = {
        "name": container,
        "image": options.image,
        "resources": {"limits": dict(size), "requests": dict(size)},
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }
    if options.storage_secret is not None:
        one["envFrom"] = [{"secretRef": {"name": options.storage_secret}}]
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [one]}
    if options.service_account is not None:
        spec["serviceAccountName"] = options.service_account
    if options.claim is not None:
        one["volumeMounts"] = [{"name": "storage", "mountPath": options.claim_path}]
        spec["volumes"] = [{"name": "storage", "persistentVolumeClaim": {"claimName": options.claim}}]
    return {"spec": spec}


def _slurm_values(options: Slurm) -> str:
    """Every value of the user, once, as quoted assignments: the script behind them is the same for all."""
    load = f"set +u  # modules read what is not set\nmodule load {shlex.join(options.modules)}\nset -u\n"
    path = "" if options.venv is None else f"export PATH={shlex.quote(options.venv.rstrip('/') + '/bin')}:$PATH\n"
    return (
        "set -euo pipefail\n"
        + (load if options.modules else "")
        + path
        + f"cpus={options.cpus_per_task}\n"
        + f"gpus={options.gpus_per_node}\n"
        + f"record={shlex.quote(options.run.rstrip('/') + '/run.json')}\n"
        + f"search=({shlex.join(options.words())})\n"
        + f"resume=({shlex.join(options.resume_words())})\n"
        + f"again={shlex.quote(shlex.join(options.resume_words()))}\n"
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_line(option: str, text: str) -> None:
    """Also keeps out what only YAML takes for the end of a line, and signs that change the direction of writing."""
    if not text.isprintable():
        raise TemplateError(f"{option} must be one line of printable characters, got {text!r}")


def _check_text(option: str, text: str) -> None:
    _one_line(option, text)
    if not text.strip() or text.startswith("-"):
        raise TemplateError(f"{option} must not be empty nor start with a dash, got {text!r}")


def _check_pattern(option: str, text: str, pattern: str, rule: str) -> None:
    if re.fullmatch(pattern, text) is None:
        raise TemplateError(f"{option} must be {rule}, got {text!r}")


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise TemplateError(f"{option} must be {least} or more, got {value}")


def _check_workers(first: int, most: int) -> None:
    _at_least("--workers", first, 1)
    if most < first:
        raise TemplateError(f"--max-workers must be {first}, as --workers, or more, got {most}")


_RAY_UP_NOTES = """
    A Ray cluster for captune, started with `ray up`. FILE stands for this file.
    Before:     Ray's token must be in {token}; `ray get-auth-token --generate` puts one into ~/.ray/auth_token
    Start:      ray up FILE
    Dashboard:  ray dashboard FILE, then http://127.0.0.1:{port}, with the token; it listens on the head's loopback only
    Search:     ray exec FILE 'RAY_AUTH_MODE=token {env}/bin/captune search DATA --run RUN --address auto'
    Stop:       ray down FILE
    Data and run must be at a place that all machines reach. Any Ray that {user} runs on them is stopped first.
"""


def _kuberay_notes(options: KubeRay) -> str:
    kubectl = f"kubectl -n {options.namespace}"
    job = f"{kubectl} get rayjob {options.name} -o jsonpath="
    secret = options.auth_secret or f'"$({job}{{.status.rayClusterName}})"'
    before = (
        ""
        if options.auth_secret is None
        else (
            f"Before:     {kubectl} create secret generic {options.auth_secret} "
            '--from-literal=auth_token="$(openssl rand -hex 32)"\n'
        )
    )
    return f"""
A search by captune as a RayJob; needs KubeRay 1.6 or newer. FILE stands for this file.
{before}Start:      kubectl create -f FILE
Watch:      {kubectl} logs -f job/{options.name}
Dashboard:  {kubectl} port-forward "service/$({job}{{.status.rayClusterStatus.head.serviceName}})" {_DASHBOARD}
            then http://127.0.0.1:{_DASHBOARD}; outside the cluster there is no other way to it
Token:      {kubectl} get secret {secret} -o jsonpath={{.data.auth_token}} | base64 -d
Stop:       kubectl delete -f FILE
Go on:      kubectl delete -f FILE, put this into entrypoint, and create again: {shlex.join(options.resume_words())}
"""


_SLURM_NOTES = """
    A search by captune as a batch job of SLURM. FILE stands for this file, JOB for the job's number.
    Start:      sbatch FILE
    Dashboard:  the job's log says the ssh command and where the token is; it listens on the first node's loopback only
    Stop:       scancel --batch --signal=TERM JOB ends the search as the time limit does; scancel JOB ends it at once
    Go on:      sbatch FILE again; a run that is there already is resumed
"""

_SLURM_SCRIPT = r"""
: "${SLURM_JOB_ID:?start this file with sbatch}"

# In the folder that sbatch was called in, as all nodes have to see it.
folder=${SLURM_SUBMIT_DIR:-$PWD}/.captune-$SLURM_JOB_ID
mkdir -p "$folder"
chmod 700 "$folder"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$folder/token")
unset RAY_ADDRESS RAY_AUTH_TOKEN
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
export RAY_TMPDIR=/tmp/captune-$SLURM_JOB_ID RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

nodes=$SLURM_JOB_NUM_NODES
each=(srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --export=ALL)

clean() {
  status=$?
  rm -rf "$folder"
  if [ "$status" -eq 0 ]; then
    "${each[@]}" rm -rf "$RAY_TMPDIR" || true
  else
    echo "Ray's own logs are in $RAY_TMPDIR on each node" >&2
  fi
}
trap clean EXIT

# Made here, not by Ray, so that nobody else on a node has made it before.
"${each[@]}" bash -c 'rm -rf "$1" && mkdir -m 700 "$1"' make "$RAY_TMPDIR"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${head%%$'\n'*}
# This script runs on the first node. Its name may stand for its loopback, which other nodes cannot reach.
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }' || true)
if [ -z "$address" ]; then
  address=$(hostname -I)
  address=${address%% *}
fi
port=$((20000 + SLURM_JOB_ID % 10000))

if [ -e "$record" ]; then
  search=("${resume[@]}")
fi
echo "dashboard: ssh -N -L 8265:127.0.0.1:8265 $head, then http://127.0.0.1:8265; token: $folder/token"

step=
notice() {
  echo "SLURM ends the job soon; the search stops. To go on: sbatch the same file again, or $again" >&2
  # The search alone, as one that Ctrl-C ends: a signal to the step would end Ray under it.
  if [ -s "$folder/pid" ]; then
    kill -INT "$(cat "$folder/pid")" || true
  elif [ -n "$step" ]; then
    kill -TERM "$step" || true
  else
    exit 143
  fi
}
trap notice TERM

"${each[@]}" ray symmetric-run --address "$address:$port" --min-nodes "$nodes" \
  --num-cpus="$cpus" --num-gpus="$gpus" --dashboard-host=127.0.0.1 --dashboard-port=8265 \
  -- bash -c 'echo "$$" > "$1/pid"; shift; exec "$@"' search "$folder" "${search[@]}" &
step=$!

status=0
wait "$step" || status=$?
while kill -0 "$step" 2> /dev/null; do # a signal ends a wait, not the step
  status=0
  wait "$step" || status=$?
done
exit "$status"
"""
