"""A file for Ray's own launcher: a cluster on AWS, on GCP, or on machines that are there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any, Literal

from captune.cluster.launch.options import (
    DASHBOARD,
    LABEL,
    Options,
    TemplateError,
    as_yaml,
    at_least,
    check_pattern,
    check_workers,
    flag,
    header,
)

_HOST = r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?"
_NODE_ENV = "~/captune-env"
_NODE_TOKEN = "~/.ray/auth_token"  # where Ray looks for its token unless told otherwise
_ON_NODE = f"export RAY_AUTH_MODE=token; ulimit -n 65536; {_NODE_ENV}/bin/ray"


@dataclass(frozen=True, kw_only=True)
class RayUp(Options):
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
                    f"{flag(option.name)} is for --provider {' and '.join(of)}, not for {self.provider}; leave it out"
                )
            if option.name in _NEEDED[self.provider] and not given:
                raise TemplateError(f"--provider {self.provider} needs {flag(option.name)}")
        check_pattern("--name", self.name, LABEL, "lower case letters, digits and dashes")
        check_pattern("--ray", self.ray, r"[0-9]+\.[0-9]+\.[0-9]+", "a version, e.g. 2.60.0")
        if self.provider == "local":
            self._check_hosts()
        else:
            self._check_cloud()

    def _check_hosts(self) -> None:
        assert self.head_host is not None
        hosts = (self.head_host, *self.worker_hosts)
        for host in hosts:
            check_pattern("--head-host and --worker-hosts", host, _HOST, "names or addresses of machines")
        if len(set(hosts)) < len(hosts):
            raise TemplateError(f"a machine stands twice among --head-host and --worker-hosts: {', '.join(hosts)}")
        if self.ssh_key is None:
            raise TemplateError("--provider local needs --ssh-key, the file of a private key that all machines take")

    def _check_cloud(self) -> None:
        at_least("--worker-cpus", self.worker_cpus, 1)
        at_least("--worker-gpus", self.worker_gpus, 0)
        at_least("--disk-gb", self.disk_gb, 30)
        at_least("--idle-minutes", self.idle_minutes, 1)
        check_workers(self.first_workers, self.most_workers)
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
            f" --dashboard-port={DASHBOARD} --disable-usage-stats --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            f"{_NODE_ENV}/bin/ray stop",
            f"{_ON_NODE} start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076",
        ],
    }
    notes = _RAY_UP_NOTES.format(token=shlex.quote(options.token), port=DASHBOARD, env=_NODE_ENV, user=options.ssh_user)
    return header("ray-up", options, notes) + as_yaml(config)


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


_RAY_UP_NOTES = """
    A Ray cluster for captune, started with `ray up`. FILE stands for this file.
    Before:     Ray's token must be in {token}; `ray get-auth-token --generate` puts one into ~/.ray/auth_token
    Start:      ray up FILE
    Dashboard:  ray dashboard FILE, then http://127.0.0.1:{port}, with the token; it listens on the head's loopback only
    Search:     ray exec FILE 'RAY_AUTH_MODE=token {env}/bin/captune search DATA --run RUN --address auto'
    Stop:       ray down FILE
    Data and run must be at a place that all machines reach. Any Ray that {user} runs on them is stopped first.
"""
