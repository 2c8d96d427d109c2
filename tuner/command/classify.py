"""The verbs of a bundle: evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captune.tuner.api.progress import bar, say
from captune.tuner.command.arguments import AsJson, BundlePath, Pictures
from captune.tuner.command.console import NO_BETTER, print_json, tell

if TYPE_CHECKING:
    from captune.tuner.api.classifier import Classifier

OnBad = Annotated[
    Literal["error", "skip"],
    typer.Option(help="bad rows: error stops at the first, skip leaves them out and lists them on stderr"),
]


def evaluate(
    bundle: BundlePath,
    csv: Annotated[Path, typer.Argument(help="CSV with Labels")],
    images: Pictures = None,
    on_bad: OnBad = "error",
    as_json: AsJson = False,
) -> None:
    """Scores a bundle on labelled rows."""
    from captune.model.metrics import METRICS

    classifier = _load(bundle)
    scores = classifier.evaluate(csv, images, on_bad=on_bad)
    if as_json:
        print_json(scores)
        return
    for name in METRICS:
        tell(f"{name:9} {scores[name]:.4f}")
    for label, name in classifier.labels.items():
        tell(f"label {label:>3} {scores['per_label'][str(label)]:.4f}  {name}")
    tell(f"examples  {scores['examples']}")
    constant = scores["commonest_label"]
    tell(f"for nothing: commonest label of these rows {constant:.4f}")
    if scores["mean_f1"] <= constant:
        say(f"note: the bundle is no better on these rows than their commonest label: {NO_BETTER}")


def predict(
    bundle: BundlePath,
    csv: Annotated[Path, typer.Argument(help="CSV; its Labels are not looked at")],
    images: Pictures = None,
    out: Annotated[Path, typer.Option(help="CSV to write: ImageID,Labels")] = ...,  # type: ignore[assignment]
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="a further column for each label: its calibrated probability")
    ] = False,
    on_bad: OnBad = "error",
) -> None:
    """Writes the labels that a bundle gives, one row for each row of the CSV."""
    from captune.tuner.api.classifier import check_new

    check_new(out)  # before what takes seconds
    count = _load(bundle).predict_file(csv, images, out=out, probabilities=probabilities, on_bad=on_bad)
    tell(f"{out}: {count} rows")


def _load(bundle: Path) -> Classifier:
    from captune.tuner.api.classifier import load

    with bar("loading the classifier", ""):
        return load(bundle)
