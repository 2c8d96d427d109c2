"""A file for KubeRay: a search as a RayJob on Kubernetes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from captune.cluster.launch.options import (
    DASHBOARD,
    LABEL,
    Search,
    TemplateError,
    as_yaml,
    at_least,
    check_pattern,
    check_workers,
    flag,
    header,
)

_MEMORY = r"[1-9][0-9]*(Mi|Gi|Ti)"
_LONGEST_RAYJOB_NAME = 47  # KubeRay appends to it, and Kubernetes ends names at 63


@dataclass(frozen=True, kw_only=True)
class KubeRay(Search):
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
                check_pattern(flag(option), value, LABEL, "lower case letters, digits and dashes")
        if len(self.name) > _LONGEST_RAYJOB_NAME:
            raise TemplateError(f"--name must have {_LONGEST_RAYJOB_NAME} characters at most, got {len(self.name)}")
        for option in ("head_memory", "worker_memory"):
            check_pattern(flag(option), getattr(self, option), _MEMORY, "a number with Mi, Gi or Ti, e.g. 16Gi")
        for option in ("head_cpus", "worker_cpus", "idle_seconds", "deadline_seconds"):
            at_least(flag(option), getattr(self, option), 1)
        for option in ("worker_gpus", "ttl_seconds"):
            at_least(flag(option), getattr(self, option), 0)
        check_pattern("--ray", self.ray, r"[0-9]+\.[0-9]+\.[0-9]+", "a version, e.g. 2.60.0")
        # A YAML reader may take a name such as 1e3 for a number, though PyYAML does not.
        check_pattern("--image", self.image, r"[A-Za-z]\S*|\S*[/:]\S*", "an image's name without blanks")
        if self.s3_endpoint is not None:
            check_pattern("--s3-endpoint", self.s3_endpoint, r"https?://[A-Za-z0-9.:/_-]+", "a URL of http or https")
        check_workers(self.workers, self.most_workers)
        if not self.claim_path.startswith("/"):
            raise TemplateError(f"--claim-path must be a whole path, got {self.claim_path!r}")
        if self.claim is None and self.claim_path != "/data":
            raise TemplateError("--claim-path is where --claim is mounted; give --claim, or leave it out")
        self.check_trial(self.worker_cpus, self.worker_gpus)
        # Kubernetes does so in every command, whatever its quotes.
        for odd in ("$(", "$$"):
            if odd in shlex.join(self.words()):
                raise TemplateError(f"Kubernetes replaces {odd} in commands; choose other names for --data and --run")

    @property
    def most_workers(self) -> int:
        """Workers that the cluster may grow to."""
        return self.workers if self.max_workers is None else self.max_workers


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
    return header("kuberay", options, _kuberay_notes(options)) + as_yaml(job)


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
Dashboard:  {kubectl} port-forward "service/$({job}{{.status.rayClusterStatus.head.serviceName}})" {DASHBOARD}
            then http://127.0.0.1:{DASHBOARD}; outside the cluster there is no other way to it
Token:      {kubectl} get secret {secret} -o jsonpath={{.data.auth_token}} | base64 -d
Stop:       kubectl delete -f FILE
Go on:      kubectl delete -f FILE, put this into entrypoint, and create again: {shlex.join(options.resume_words())}
"""
