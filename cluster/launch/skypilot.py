"""A file for SkyPilot: a search on machines of any cloud that it reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from captune.cluster.launch.filling import document
from captune.cluster.launch.options import (
    LABEL,
    LABEL_RULE,
    Option,
    Package,
    Python,
    RayVersion,
    Search,
    TemplateError,
    install,
    ray_version,
)


@dataclass(frozen=True, kw_only=True)
class SkyPilot(Search):
    """A search as a task of SkyPilot. The first machine runs the search, and trials as all others do."""

    kind: ClassVar[str] = "skypilot"

    name: Annotated[str, Option("of the task", pattern=LABEL, rule=LABEL_RULE)] = "captune"
    nodes: Annotated[int, Option("how many machines", least=1)] = 1
    infra: Annotated[
        str | None,
        Option(
            "where, e.g. aws/us-east-1, gcp or k8s; what is cheapest if left out",
            pattern=r"[\w/*.@:-]+",
            rule="a cloud",
        ),
    ] = None
    gpu: Annotated[
        str | None,
        Option(
            "kind of the GPUs of each machine, e.g. L4; none if left out", pattern=r"[\w.-]+", rule="a kind, e.g. L4"
        ),
    ] = None
    gpus_per_node: Annotated[int, Option("how many of --gpu each machine has", least=1)] = 1
    cpus_per_node: Annotated[int, Option("CPUs that each machine has at least", least=1)] = 8
    memory_gb: Annotated[int, Option("memory that each machine has at least", least=1)] = 32
    disk_gb: Annotated[int, Option("disk of each machine", least=30)] = 100
    python: Python = "python3"
    captune: Package = None
    ray: RayVersion = None

    def check_together(self) -> None:
        for name in ("data", "run"):
            if "://" not in getattr(self, name):
                raise TemplateError(f"--{name} must be an address that all machines reach, got {getattr(self, name)!r}")
        install(self.captune, gpus=False)
        if self.gpu is None and self.gpus_per_node != 1:
            raise TemplateError("--gpus-per-node counts those of --gpu; give --gpu, or leave it out")
        self.check_trial(self.cpus_per_node, self.gpus_per_node if self.gpu else 0)


def skypilot(options: SkyPilot) -> str:
    """The task that `sky launch` starts a search from."""
    package = install(options.captune, gpus=options.gpu is not None)
    return document(
        "skypilot.yaml",
        options,
        vars(options)
        | {
            "accelerators": f"{options.gpu}:{options.gpus_per_node}" if options.gpu else None,
            "cpus": f"{options.cpus_per_node}+",
            "memory": f"{options.memory_gb}+",
            "wheel": package.wheel,
            "file_mounts": {f"~/{package.name}": package.wheel} if package.wheel else None,
            "secrets": {"RAY_AUTH_TOKEN": None},
            "requirements": (package.requirement, f"ray[default,tune]=={ray_version(options)}"),
            "search_words": tuple(options.search_command()),
        },
    )
