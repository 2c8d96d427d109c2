"""A file for Ray's own launcher: a cluster on AWS, on GCP, or on machines that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from captune.cluster.launch.filling import document, part
from captune.cluster.launch.options import (
    LABEL,
    LABEL_RULE,
    Option,
    Options,
    Package,
    Python,
    RayVersion,
    TemplateError,
    check_workers,
    flag,
    install,
    ray_version,
)

_CLOUD = ("aws", "gcp")
_OF_CLOUDS = ("cluster_workers", "idle_timeout", "head_node_type", "node_types")  # keys that are left out for machines


def _host(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", rule="the name or address of a machine")


@dataclass(frozen=True, kw_only=True)
class RayUp(Options):
    """A cluster for `ray up`, on AWS, on GCP, or on machines that are there."""

    kind: ClassVar[str] = "ray-up"

    provider: Annotated[
        str, Option("aws, gcp, or local for machines that are there", pattern="aws|gcp|local", rule="aws, gcp or local")
    ]
    name: Annotated[str, Option("of the cluster", pattern=LABEL, rule=LABEL_RULE)] = "captune"
    region: Annotated[str | None, Option("where, for the clouds")] = None
    zone: Annotated[str | None, Option("AWS takes several, separated by commas; GCP needs one")] = None
    project: Annotated[str | None, Option("GCP project")] = None
    image: Annotated[
        str | None, Option("AWS: image id, Ray's own choice if left out. GCP: path of an image or of a family")
    ] = None
    head_type: Annotated[str | None, Option("instance type of the head, for the clouds")] = None
    worker_type: Annotated[str | None, Option("instance type of the workers, for the clouds")] = None
    worker_cpus: Annotated[int | None, Option("that one worker of the clouds offers", least=1)] = None
    worker_gpus: Annotated[int | None, Option("that one worker of the clouds offers", least=0)] = None
    accelerator: Annotated[str | None, Option("GCP: type of the workers' GPUs")] = None
    disk_gb: Annotated[int | None, Option("disk of each cloud machine, GB; 100 if left out", least=30)] = None
    workers: Annotated[
        int | None,
        Option("machines at first, besides the head, which runs no trials; for the clouds, 2 if left out", least=1),
    ] = None
    max_workers: Annotated[int | None, Option("machines at most, besides the head; as --workers if left out")] = None
    idle_minutes: Annotated[
        int | None, Option("a cloud worker without work is given back after so long; 10 if left out", least=1)
    ] = None
    head_host: Annotated[str | None, _host("head of a local cluster")] = None
    worker_hosts: Annotated[tuple[str, ...], _host("other machines of a local cluster, separated by commas")] = ()
    ssh_user: Annotated[str, Option("who logs in")] = "ubuntu"
    ssh_key: Annotated[str | None, Option("the private key's file; the clouds make a key if it is left out")] = None
    key_name: Annotated[str | None, Option("AWS: name of the key pair that --ssh-key belongs to")] = None
    token: Annotated[str, Option("file on this machine that holds Ray's token")] = "~/.ray/auth_token"
    python: Python = "python3"
    captune: Package = None
    ray: RayVersion = None

    def check_together(self) -> None:
        for field in fields(self):
            providers = _ONLY_FOR.get(field.name, tuple(_NEEDED))
            is_default = getattr(self, field.name) == field.default
            if not is_default and self.provider not in providers:
                names = " and ".join(providers)
                raise TemplateError(
                    f"{flag(field.name)} is for --provider {names}, not for {self.provider}; leave it out"
                )
            if is_default and field.name in _NEEDED[self.provider]:
                raise TemplateError(f"--provider {self.provider} needs {flag(field.name)}")
        hosts = (self.head_host, *self.worker_hosts)
        if len(set(hosts)) < len(hosts):
            raise TemplateError(f"a machine stands twice among --head-host and --worker-hosts: {', '.join(hosts)}")  # type: ignore[arg-type]
        check_workers(self.first_workers, self.most_workers)
        install(self.captune, gpus=bool(self.worker_gpus))
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
    "local": ("head_host", "ssh_key"),
}


def ray_up(options: RayUp) -> str:
    """The YAML that `ray up` starts a cluster from."""
    package = install(options.captune, gpus=bool(options.worker_gpus))
    values = (
        dict.fromkeys(_OF_CLOUDS)
        | vars(options)
        | {
            "first_workers": options.first_workers,
            "most_workers": options.most_workers,
            "idle_minutes": options.idle_minutes or 10,
            "disk_gb": options.disk_gb or 100,
            "gpus": options.worker_gpus or None,
            "worker_hosts": list(options.worker_hosts),
            "requirements": (package.requirement, f"ray[default,tune]=={ray_version(options)}"),
            "wheel": package.wheel,
            "file_mounts": {"~/.ray/auth_token": options.token}
            | ({f"~/{package.name}": package.wheel} if package.wheel else {}),
            # The second version has no machines of its own to start, and waits for ever for those that are there.
            "autoscaler": ("RAY_enable_autoscaler_v2=0",) if options.provider == "local" else (),
            "on_machines": () if options.provider == "local" else None,
            "on_clouds": None if options.provider == "local" else (),
        }
    )
    return document("ray_up.yaml", options, values | part(f"ray_up_{options.provider}.yaml", values))
