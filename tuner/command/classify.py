"""The verbs of a bundle: evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captune.tuner.command.arguments import AsJson, BundlePath, Pictures
from captune.tuner.command.console import fail, print_json, tell


def evaluate(
    bundle: BundlePath,
    csv: Annotated[Path, typer.Argument(help="CSV with Labels")],
    images: Pictures = None,
    as_json: AsJson = False,
) -> None:
    """Scores a bundle on labelled rows."""
    from captune.model.metrics import METRICS
    from captune.tuner.api.classifier import load

    classifier = load(bundle)
    scores = classifier.evaluate(csv, images)
    if as_json:
        print_json(scores)
        return
    for name in METRICS:
        tell(f"{name:9} {scores[name]:.4f}")
    for label, name in classifier.labels.items():
        tell(f"label {label:>3} {scores['per_label'][str(label)]:.4f}  {name}")
    tell(f"examples  {scores['examples']}")


def predict(
    bundle: BundlePath,
    csv: Annotated[Path, typer.Argument(help="CSV, with or without Labels")],
    images: Pictures = None,
    out: Annotated[Path, typer.Option(help="CSV to write: ImageID,Labels")] = ...,  # type: ignore[assignment]
) -> None:
    """Writes the labels that a bundle gives, one row for each row of the CSV."""
    from captune.tuner.api.classifier import load

    if out.exists():
        fail(f"{out} exists; name a file that does not")
    tell(f"{out}: {load(bundle).predict_file(csv, images, out=out)} rows")
