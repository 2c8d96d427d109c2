"""What a tool that keeps experiments is told of a run, and in which words: the same for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from captune.errors import WorkError
from captune.model.metrics import Epoch
from captune.results.records import Record
from captune.results.run_facts import RunFacts

SinkName = Literal["tensorboard", "mlflow", "wandb"]
SINKS: tuple[SinkName, ...] = get_args(SinkName)
PACKAGES: dict[SinkName, str] = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""What a sink imports; its extra has the sink's name."""


class SinkError(WorkError):
    """A sink could not be written."""


class Sink(Protocol):
    """Takes trials one report after another; whatever it raises ends it, and it alone."""

    def report(self, record: Record, points: Sequence[Point]) -> None:
        """Epochs of a trial that were not told before, at least one unless the trial has ended without any."""

    def end(self, record: Record) -> None:
        """A trial has its fate, after all its epochs were told."""

    def close(self) -> None:
        """Nothing follows."""


@dataclass(frozen=True)
class Point:
    """One epoch. second: since 1970, the same however often a run is written. values: by name, all of them finite."""

    epoch: int
    second: float
    values: dict[str, float]


def points_of(record: Record) -> list[Point]:
    """The curve of a trial."""
    points, second = [], record.began
    for epoch in record.curve:
        second += sum(epoch.seconds().values())
        points.append(Point(epoch.epoch, second, _values(epoch)))
    return points


def _values(epoch: Epoch) -> dict[str, float]:
    values = {"loss": epoch.loss, **epoch.metrics()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def settings_of(record: Record) -> dict[str, Any]:
    """The configuration, without what is not set."""
    return {name: value for name, value in record.config.items() if value is not None}


def outcome_of(record: Record) -> dict[str, float]:
    """Numbers of a trial as the table has them: scores of its best epoch, size, cost."""
    best = {} if record.best is None else {f"best_{name}": v for name, v in record.best.metrics().items()}
    numbers = {
        **best,
        "best_epoch": record.best_epoch,
        "epochs": record.epochs,
        "weights_bytes": record.weights_bytes,
        "bundle_bytes": record.bundle_bytes,
        "seconds": record.seconds,
    }
    return {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}


def words_of(record: Record) -> dict[str, str]:
    """Texts of a trial as the table has them."""
    texts = {"fate": record.fate, "node": record.node, "reason": record.reason}
    return {name: text for name, text in texts.items() if text is not None}


def open_sink(name: SinkName, out: Path, facts: RunFacts) -> Sink:
    """A sink that writes in a folder, which it makes when there is something to write."""
    match name:
        case "tensorboard":
            from captune.results.sinks.tensorboard import TensorBoard

            return TensorBoard(out / name)
        case "mlflow":
            from captune.results.sinks.mlflow import MLflow

            return MLflow(out / "mlflow.db", facts)
        case "wandb":
            from captune.results.sinks.wandb import WeightsAndBiases

            return WeightsAndBiases(out, facts)
