"""A file for KubeRay: a search as a RayJob on Kubernetes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from captune.cluster.launch.filling import document
from captune.cluster.launch.options import (
    LABEL,
    LABEL_RULE,
    Image,
    Option,
    RayVersion,
    Search,
    TemplateError,
    check_workers,
    flag,
    ray_version,
)

_LONGEST_NAME = 47  # KubeRay appends to it, and Kubernetes ends names at 63
_KEY = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_TOLERATION = re.compile(
    rf"(?P<key>{_KEY})(=(?P<value>{_LABEL_VALUE}))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
_OWN_VARIABLES = ("RAY_USAGE_STATS_ENABLED", "AWS_ENDPOINT_URL")


def _label(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=LABEL, rule=LABEL_RULE)


def _memory(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=r"[1-9][0-9]*(Mi|Gi|Ti)", rule="a number with Mi, Gi or Ti, e.g. 16Gi")


def _selector(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=f"{_KEY}={_LABEL_VALUE}", rule="KEY=VALUE, a label of nodes")


def _tolerations(help: str) -> Option:  # noqa: A002
    return Option(help, pattern=_TOLERATION.pattern, rule="KEY, KEY=VALUE or either with :NoSchedule or another effect")


@dataclass(frozen=True, kw_only=True)
class KubeRay(Search):
    """A search as a RayJob: KubeRay starts a cluster for it, runs it, and takes the cluster down."""

    kind: ClassVar[str] = "kuberay"

    image: Image
    name: Annotated[str, _label("of the RayJob")] = "captune"
    namespace: Annotated[str, _label("of Kubernetes")] = "default"
    head_cpus: Annotated[int, Option("of the head, which runs the search and no trials", least=1)] = 4
    head_memory: Annotated[str, _memory("of the head, e.g. 16Gi")] = "16Gi"
    worker_cpus: Annotated[int, Option("of each worker", least=1)] = 8
    worker_gpus: Annotated[int, Option("of each worker", least=0)] = 1
    worker_memory: Annotated[str, _memory("of each worker, e.g. 32Gi")] = "32Gi"
    disk: Annotated[
        str | None, _memory("ephemeral storage of head and workers each, which hold a copy of the data, e.g. 100Gi")
    ] = None
    submitter_cpus: Annotated[
        str, Option("of the pod that hands the search over", pattern=r"[1-9][0-9]*m?", rule="a number, e.g. 500m or 1")
    ] = "500m"
    submitter_memory: Annotated[str, _memory("of the pod that hands the search over")] = "1Gi"
    workers: Annotated[int, Option("pods at first, besides the head", least=1)] = 2
    max_workers: Annotated[int | None, Option("pods at most, besides the head; as --workers if left out")] = None
    idle_seconds: Annotated[
        int, Option("a worker above the first ones is given back after so long without work", least=1)
    ] = 300
    head_selector: Annotated[
        tuple[str, ...], _selector("KEY=VALUE labels of nodes for head and submitter, separated by commas")
    ] = ()
    worker_selector: Annotated[
        tuple[str, ...], _selector("KEY=VALUE labels of nodes for the workers, separated by commas")
    ] = ()
    head_tolerations: Annotated[
        tuple[str, ...], _tolerations("KEY[=VALUE][:EFFECT] taints that head and submitter bear, separated by commas")
    ] = ()
    worker_tolerations: Annotated[
        tuple[str, ...], _tolerations("KEY[=VALUE][:EFFECT] taints that the workers bear, separated by commas")
    ] = ()
    annotations: Annotated[
        tuple[str, ...], Option("KEY=VALUE of all pods, separated by commas", pattern=f"{_KEY}=.*", rule="KEY=VALUE")
    ] = ()
    env: Annotated[
        tuple[str, ...],
        Option(
            "NAME=VALUE environment variables of head and workers, separated by commas; secrets go by --storage-secret",
            pattern=r"[A-Za-z_][A-Za-z0-9_]*=.*",
            rule="NAME=VALUE",
        ),
    ] = ()
    pull_secrets: Annotated[tuple[str, ...], _label("Secrets that the image is pulled with, separated by commas")] = ()
    run_as_user: Annotated[
        int | None,
        Option("number of the image's user: all pods run as it, with no rights that Kubernetes can withhold", least=1),
    ] = None
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
    queue: Annotated[str | None, _label("LocalQueue of Kueue, which then starts the RayJob when there is room")] = None
    priority: Annotated[str | None, _label("WorkloadPriorityClass of Kueue, for --queue")] = None
    retries: Annotated[
        int, Option("times that a search that failed is resumed on a cluster of its own, as after a lost head", least=0)
    ] = 2
    ttl_seconds: Annotated[int, Option("the cluster stays for so long after the end of the search", least=0)] = 600
    deadline_seconds: Annotated[int | None, Option("the RayJob is ended after so long", least=1)] = None
    start_seconds: Annotated[
        int | None, Option("the RayJob is ended if its search has not begun after so long", least=1)
    ] = None
    ray: RayVersion = None

    def check_together(self) -> None:
        if len(self.name) > _LONGEST_NAME:
            raise TemplateError(f"--name must have {_LONGEST_NAME} characters at most, got {len(self.name)}")
        check_workers(self.workers, self.most_workers)
        if self.claim is None and self.claim_path != "/data":
            raise TemplateError("--claim-path is where --claim is mounted; give --claim, or leave it out")
        if self.queue is None and self.priority is not None:
            raise TemplateError("--priority is Kueue's; give --queue, or leave it out")
        if self.queue is not None and self.grows:
            raise TemplateError("--queue is for clusters that do not grow, as Kueue needs; leave out --max-workers")
        for option in ("head_selector", "worker_selector", "annotations", "env"):
            names = [text.partition("=")[0] for text in getattr(self, option)]
            if double := next((name for name in names if names.count(name) > 1), None):
                raise TemplateError(f"{flag(option)} names {double} twice")
            if option == "env" and (own := next((name for name in _OWN_VARIABLES if name in names), None)):
                raise TemplateError(f"--env holds {own}, which the template sets itself; see --s3-endpoint")
        self.check_trial(self.worker_cpus, self.worker_gpus)
        # Kubernetes does so in every command and variable, whatever its quotes.
        for replaced in ("$(", "$$"):
            if replaced in shlex.join(self.search_command()):
                raise TemplateError(
                    f"Kubernetes replaces {replaced} in commands; choose other names for --data and --run"
                )
            if any(replaced in variable for variable in self.env):
                raise TemplateError(f"Kubernetes replaces {replaced} in variables; leave it out of --env")

    @property
    def most_workers(self) -> int:
        """Workers that the cluster may grow to."""
        return self.workers if self.max_workers is None else self.max_workers

    @property
    def grows(self) -> bool:
        """Whether KubeRay starts more workers as trials wait."""
        return self.most_workers > self.workers


def kuberay(options: KubeRay) -> str:
    """The RayJob that `kubectl create` starts a search from."""
    return document(
        "kuberay.yaml",
        options,
        vars(options)
        | {
            "search_command": shlex.join(options.search_command()),
            "name_without_secret": options.name if options.auth_secret is None else None,
            "ray_version": ray_version(options),
            "grows": options.grows,
            "idle_timeout": options.idle_seconds if options.grows else None,
            "head_cpus": str(options.head_cpus),
            "worker_cpus": str(options.worker_cpus),
            "worker_gpus": str(options.worker_gpus) if options.worker_gpus else None,
            "most_workers": options.most_workers,
            "head_selector": _pairs(options.head_selector),
            "worker_selector": _pairs(options.worker_selector),
            "annotations": _pairs(options.annotations),
            "head_tolerations": _taints(options.head_tolerations),
            "worker_tolerations": _taints(options.worker_tolerations),
            "pull_secrets": [{"name": name} for name in options.pull_secrets] or None,
            "variables": [
                {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
                *([{"name": "AWS_ENDPOINT_URL", "value": options.s3_endpoint}] if options.s3_endpoint else []),
                *({"name": name, "value": value} for name, value in (_pairs(options.env) or {}).items()),
            ],
        },
    )


def _pairs(texts: Sequence[str]) -> dict[str, str] | None:
    return {key: value for key, _, value in (text.partition("=") for text in texts)} or None


def _taints(texts: Sequence[str]) -> list[dict[str, Any]] | None:
    matches = [match for text in texts if (match := _TOLERATION.fullmatch(text))]
    return [
        {"operator": "Exists" if match["value"] is None else "Equal"}
        | {name: value for name, value in match.groupdict().items() if value is not None}
        for match in matches
    ] or None
