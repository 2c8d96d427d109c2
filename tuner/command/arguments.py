"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captune.cluster.object_storage.addresses import is_url
from captune.model.config import Storage


class Location(str):
    """A folder as a person names it: a path, or an address of object storage such as s3://bucket/folder."""

    @property
    def is_relative(self) -> bool:
        """Whether it means another folder elsewhere."""
        return not is_url(self) and not Path(self).is_absolute()


RunPath = Annotated[
    Location, typer.Argument(parser=Location, metavar="RUN", help="a run that `search` made: its folder or its address")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Address = Annotated[
    str | None, typer.Option(help="a running Ray cluster: auto or host:port, or its job server: http://head:8265")
]
BundlePath = Annotated[Path, typer.Argument(help="a bundle folder")]
Pictures = Annotated[Path | None, typer.Argument(help="folder of the pictures")]
StorageOption = Annotated[
    Storage | None,
    typer.Option("--storage", help="what kernels and embeddings are shipped as"),
]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOOL",
        help="log also to tensorboard, mlflow or wandb, into RUN/logs, or captune-logs here where RUN is an address; "
        "may be given several times. MLFLOW_TRACKING_URI and WANDB_MODE=online send to servers",
    ),
]
