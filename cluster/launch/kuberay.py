"""A file for KubeRay: a search as a RayJob on Kubernetes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated, ClassVar

from captune.cluster.launch.filling import document
from captune.cluster.launch.options import (
    LABEL,
    LABEL_RULE,
    Option,
    RayVersion,
    Search,
    TemplateError,
    check_workers,
    ray_version,
)

_LONGEST_NAME = 47  # KubeRay appends to it, and Kubernetes ends names at 63


def _label(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=LABEL, rule=LABEL_RULE)


def _memory(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=r"[1-9][0-9]*(Mi|Gi|Ti)", rule="a number with Mi, Gi or Ti, e.g. 16Gi")


@dataclass(frozen=True, kw_only=True)
class KubeRay(Search):
    """A search as a RayJob: KubeRay starts a cluster for it, runs it, and takes the cluster down."""

    kind: ClassVar[str] = "kuberay"

    # A YAML reader may take a name such as 1e3 for a number, though PyYAML does not.
    image: Annotated[
        str,
        Option(
            "container image with captune, and the Ray of --ray",
            pattern=r"[A-Za-z]\S*|\S*[/:]\S*",
            rule="an image's name without blanks",
        ),
    ]
    name: Annotated[str, _label("of the RayJob")] = "captune"
    namespace: Annotated[str, _label("of Kubernetes")] = "default"
    head_cpus: Annotated[int, Option("of the head, which runs the search and no trials", least=1)] = 4
    head_memory: Annotated[str, _memory("of the head, e.g. 16Gi")] = "16Gi"
    worker_cpus: Annotated[int, Option("of each worker", least=1)] = 8
    worker_gpus: Annotated[int, Option("of each worker", least=0)] = 1
    worker_memory: Annotated[str, _memory("of each worker, e.g. 32Gi")] = "32Gi"
    workers: Annotated[int, Option("pods at first, besides the head", least=1)] = 2
    max_workers: Annotated[int | None, Option("pods at most, besides the head; as --workers if left out")] = None
    idle_seconds: Annotated[
        int, Option("a worker above the first ones is given back after so long without work", least=1)
    ] = 300
    auth_secret: Annotated[
        str | None, _label("Secret whose key auth_token holds Ray's token; the operator makes one if it is left out")
    ] = None
    storage_secret: Annotated[
        str | None, _label("Secret whose keys become environment variables of all pods, e.g. AWS_ACCESS_KEY_ID")
    ] = None
    s3_endpoint: Annotated[
        str | None,
        Option(
            "URL of the S3 service, where it is not AWS's own",
            pattern=r"https?://[A-Za-z0-9.:/_-]+",
            rule="a URL of http or https",
        ),
    ] = None
    claim: Annotated[str | None, _label("a PersistentVolumeClaim that all pods mount")] = None
    claim_path: Annotated[str, Option("where --claim is mounted", pattern=r"/.*", rule="a whole path")] = "/data"
    service_account: Annotated[str | None, _label("of all pods")] = None
    ttl_seconds: Annotated[int, Option("the cluster stays for so long after the end of the search", least=0)] = 600
    deadline_seconds: Annotated[int | None, Option("the RayJob is ended after so long", least=1)] = None
    ray: RayVersion = None

    def check_together(self) -> None:
        if len(self.name) > _LONGEST_NAME:
            raise TemplateError(f"--name must have {_LONGEST_NAME} characters at most, got {len(self.name)}")
        check_workers(self.workers, self.most_workers)
        if self.claim is None and self.claim_path != "/data":
            raise TemplateError("--claim-path is where --claim is mounted; give --claim, or leave it out")
        self.check_trial(self.worker_cpus, self.worker_gpus)
        # Kubernetes does so in every command, whatever its quotes.
        for replaced in ("$(", "$$"):
            if replaced in shlex.join(self.search_command()):
                raise TemplateError(
                    f"Kubernetes replaces {replaced} in commands; choose other names for --data and --run"
                )

    @property
    def most_workers(self) -> int:
        """Workers that the cluster may grow to."""
        return self.workers if self.max_workers is None else self.max_workers


def kuberay(options: KubeRay) -> str:
    """The RayJob that `kubectl create` starts a search from."""
    grows = options.most_workers > options.workers
    return document(
        "kuberay.yaml",
        options,
        vars(options)
        | {
            "search_command": shlex.join(options.search_command()),
            "resume_command": tuple(options.resume_command()),
            "name_without_secret": options.name if options.auth_secret is None else None,
            "ray_version": ray_version(options),
            "grows": grows,
            "idle_timeout": options.idle_seconds if grows else None,
            "head_cpus": str(options.head_cpus),
            "worker_cpus": str(options.worker_cpus),
            "worker_gpus": str(options.worker_gpus) if options.worker_gpus else None,
            "most_workers": options.most_workers,
        },
    )
