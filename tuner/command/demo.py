"""The demonstration: every verb in turn, on drawn data, through the command itself."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from captune.data_prep.demo import draw
from captune.errors import WorkError, shell_word
from captune.results.run_folder import RunError
from captune.tuner.api.progress import say
from captune.tuner.command.console import tell

SEARCH = """\
# A small search for the drawn scenes: the compact preset with less of everything.
preset: compact
trials: 8
seed: 0
halving: {grace: 2, reduction: 2}
fixed:
  train.epochs: 12
  train.batch_size: 16
  text.units: 64
space:
  image.width: [8, 16]
  image.stages: [2, 3]
  text.embedding: [32, 64]
  text.kernel: {low: 1, high: 3}
  image.pooling: [average, both]
  head_units: [0, 64]
  train.learning_rate: {low: 1.0e-3, high: 6.0e-3, log: true}
"""
OWN_DATA = """\
With your own data (columns ImageID,Labels,Caption; labels are numbers; `captune space` prints a search.yaml to edit):
  captune prepare YOUR.csv YOUR_PICTURES --out data
  captune search data --run run --time-limit 30m
  captune trials run --sort mean_f1
  captune refit run
  captune predict run/winner/bundle NEW.csv PICTURES --out submission.csv"""


def run_demo(out: Path) -> None:
    """Draws scenes into `out` and runs prepare, search, trials, refit, export, evaluate and predict on them.

    Raises:
        RunError: `out` holds something already.
        DemoError: a step failed; its own message stands before.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists; name another folder with --out, or delete it")
    pictures = out / "pictures"
    say(f"drawing 600 labelled scenes and 60 without labels into {pictures}")
    draw(pictures)
    (out / "search.yaml").write_text(SEARCH)
    train, test, images = pictures / "train.csv", pictures / "test.csv", pictures / "images"
    data, run = out / "data", out / "run"
    steps: list[list[str | Path]] = [
        ["prepare", train, images, "--out", data, "--side", "48"],
        ["size", "--preset", "compact"],
        ["search", data, "--run", run, "--config", out / "search.yaml"],
        ["trials", run, "--sort", "mean_f1"],
        ["refit", run],
        ["export", run, "--to", out / "winner.keras", "--format", "keras"],
        ["evaluate", run / "winner" / "bundle", train, images],
        ["predict", run / "winner" / "bundle", test, images, "--out", out / "submission.csv"],
    ]
    for step in steps:
        arguments = [str(part) for part in step]
        if arguments[0] == "evaluate":
            tell("\nMost of these rows were trained on: what follows shows the verb, the proof above is the score.")
        tell(f"\n$ captune {shlex.join(arguments)}")
        # Each verb in a process of its own, as a person would run it.
        if subprocess.run([sys.executable, "-P", "-m", "captune", *arguments]).returncode != 0:
            raise DemoError(f"captune {arguments[0]} failed; the folder {out} shows how far it came")
    (out / "trials.csv").write_bytes(
        subprocess.run(
            [sys.executable, "-P", "-m", "captune", "trials", str(run), "--format", "csv"],
            capture_output=True,
            check=True,
        ).stdout
    )
    tell(f"\nIn {out}:")
    for name, meaning in (
        ("pictures/", "the drawn scenes, train.csv and test.csv"),
        ("data/", "the prepared data set"),
        ("run/study.journal", "every trial"),
        ("run/winner/proof.json", "the winner's scores: in the search, on test, reloaded"),
        ("run/winner/bundle/", "the classifier that is shipped"),
        ("winner.keras", "the same network as a Keras file"),
        ("trials.csv", "the table of trials"),
        ("submission.csv", "labels for test.csv"),
    ):
        tell(f"  {name:24} {meaning}")
    tell("\nTo look further:")
    tell(f"  captune trials {shell_word(run)} --columns all")
    tell(f"  captune show {shell_word(run)} 0")
    tell(f"\n{OWN_DATA}")


class DemoError(WorkError):
    """A step of the demonstration failed."""
