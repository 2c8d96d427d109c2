"""A Dockerfile: the image that `kuberay` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from captune.cluster.launch.filling import script
from captune.cluster.launch.options import Option, Options, Package, RayVersion, TemplateError, install, ray_version


@dataclass(frozen=True, kw_only=True)
class Docker(Options):
    """A container image with captune and Ray, for Kubernetes and for machines with Docker."""

    kind: ClassVar[str] = "docker"

    base: Annotated[
        str,
        Option(
            "image of Debian with Python, the same version everywhere", pattern=r"[\w./:@-]+", rule="an image's name"
        ),
    ] = "python:3.11-slim"
    gpus: Annotated[int, Option("0 leaves out what only GPUs need", least=0)] = 1
    user: Annotated[int, Option("number of the user that it runs as, see --run-as-user of kuberay", least=1)] = 1000
    captune: Package = None
    ray: RayVersion = None

    def check_together(self) -> None:
        if install(self.captune, gpus=False).wheel is None and self.captune is not None and "<<" in self.captune:
            raise TemplateError(f"--captune must not hold <<, which Docker reads itself, got {self.captune!r}")


def docker(options: Docker) -> str:
    """The Dockerfile."""
    package = install(options.captune, gpus=bool(options.gpus))
    return script(
        "Dockerfile",
        options,
        {
            "base": options.base,
            "user": options.user,
            "wheel": package.wheel,
            "name": package.name,
            "folder": ((package.wheel or "").rpartition("/")[0] or ".") if package.wheel else None,
            "no_folder": None if package.wheel else ".",
            "requirements": (package.requirement, f"ray[default,tune]=={ray_version(options)}"),
            "nvidia": "compute,utility" if options.gpus else None,
        },
    )
