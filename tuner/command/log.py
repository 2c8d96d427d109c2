"""The verb that writes a run for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from captune.tuner.command.arguments import RunPath
from captune.tuner.command.console import tell


def log(
    run: RunPath,
    to: Annotated[Literal["tensorboard", "mlflow", "wandb"], typer.Option(help="the tool to write for")],
    out: Annotated[
        Path | None, typer.Option(help="a folder; by itself RUN/logs, or captune-logs here where RUN is an address")
    ] = None,
) -> None:
    """Writes the trials of a run for TensorBoard, MLflow or Weights & Biases.

    What was written of the run before is completed. MLFLOW_TRACKING_URI and WANDB_MODE=online send to servers instead.
    """
    from captune.tuner.api.logs import log as write
    from captune.tuner.api.logs import viewer

    trials, folder = write(run, to, out)
    tell(f"{trials} trials logged to {to}; {viewer(to, folder)}")
