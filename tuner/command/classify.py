"""The verbs of a bundle: evaluate, predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captune.errors import ArgumentError, shell_word
from captune.tuner.api.progress import bar, say
from captune.tuner.command.arguments import AsJson, BundlePath, Pictures
from captune.tuner.command.console import NO_BETTER, print_json, tell

if TYPE_CHECKING:
    from captune.tuner.api.classifier import Classifier
    from captune.tuner.winner.answers import Answer

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
        low, high = scores["low"], scores["high"]
        interval = f" (95 % {low:.4f} to {high:.4f})" if name == "mean_f1" and low < high else ""
        tell(f"{name:9} {scores[name]:.4f}{interval}")
    tell("label          F1   rows")
    for label, name in classifier.labels.items():
        f1, rows = (scores[of][str(label)] for of in ("per_label", "rows_per_label"))
        said = f"{f1:.4f}" if rows else "     -"
        tell(f"{label:<9} {said} {rows:6}" + f"  {name}" * (name != str(label)))
    tell(f"examples  {scores['examples']}")
    constant = scores["commonest_label"]
    tell(f"baseline: commonest label of these rows {constant:.4f}")
    if scores["mean_f1"] <= constant:
        say(f"note: the bundle is no better on these rows than their commonest label: {NO_BETTER}")


def predict(
    bundle: BundlePath,
    csv: Annotated[
        Path | None, typer.Argument(help="CSV; its Labels are not looked at; leave out with --image, --caption")
    ] = None,
    images: Pictures = None,
    out: Annotated[Path | None, typer.Option(help="file to write: ImageID,Labels, as CSV or .parquet")] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="a further column for each label, or one with --top: calibrated probabilities"
        ),
    ] = False,
    top: Annotated[
        int | None, typer.Option(help="so many of the likeliest labels, instead of those that the rule gives")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="names of labels instead of numbers")] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            help="rows that go through the network together, 1 to 1024; by itself 256, and fewer of large pictures"
        ),
    ] = None,
    on_bad: OnBad = "error",
    image: Annotated[Path | None, typer.Option(help="a picture to answer on the terminal, without a CSV")] = None,
    caption: Annotated[str | None, typer.Option(help="its caption")] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="of that answer")] = "table",  # noqa: A002
) -> None:
    """Writes the labels that a bundle gives, one row for each row of the CSV; or says those of one picture."""
    from captune.tuner.api.classifier import check_new

    if csv is None:
        if image is None and caption is None:
            raise typer.BadParameter("give a CSV and --out, or --image and --caption")
        if out is not None:
            raise ArgumentError("out", "goes with a CSV; one answer is printed")
        captions, pictures = None if caption is None else [caption], None if image is None else [image]
        (labels,) = _load(bundle).answers(captions, pictures, top=top)
        if format == "json":
            print_json([asdict(label) for label in labels])
        else:
            _tell_answer(labels)
        return
    if image is not None or caption is not None:
        raise ArgumentError("caption" if image is None else "image", "is answered alone; leave the CSV out")
    if out is None:
        picture = "" if csv.suffix.lower() == ".csv" else f"; a picture is given by --image {shell_word(csv)}"
        raise ArgumentError("out", f"is needed with a CSV: the file to write{picture}")
    check_new(out)  # before what takes seconds
    count = _load(bundle).predict_file(
        csv, images, out=out, probabilities=probabilities, top=top, names=names, batch=batch, on_bad=on_bad
    )
    tell(f"{out}: {count} rows")


def _tell_answer(labels: Sequence[Answer]) -> None:
    width = max(len(label.name) for label in labels)
    for label in labels:
        name = label.name if label.name == str(label.id) else f"{label.name:{width}}  ({label.id})"
        tell(f"{label.probability:.4f}  {name}{'' if label.decided else '  not given'}")


def _load(bundle: Path) -> Classifier:
    with bar("loading the classifier", "", at_once=True):
        from captune.tuner.api.classifier import load

        return load(bundle)
