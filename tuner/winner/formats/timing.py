"""Exported files timed in a process that has their runtime and nothing else: one row, one thread."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from captune.tuner.winner.formats.answer import Inputs, check_kept_out, keep_out, median_milliseconds
from captune.tuner.winner.formats.declarations import FORMATS

ROW = ".row.npz"
"""Added to the name of a file: the inputs of one row."""


def _main(name: str, facts: Path, *files: Path) -> None:
    """Writes the median milliseconds of each file, as JSON.

    They are of the thread's own time, in which nothing counts that other programs do: a limit would else be kept on an
    idle machine and broken on a busy one.
    """
    keep_out(FORMATS[name].absent)
    session = FORMATS[name].functions().session
    medians = []
    for file in files:
        with np.load(file.with_name(file.name + ROW)) as arrays:
            row: Inputs = dict(arrays)
        medians.append(median_milliseconds(session(file, 1), row, time.thread_time))
    check_kept_out(FORMATS[name].absent)
    facts.write_text(json.dumps(medians))


if __name__ == "__main__":
    kind, out, *others = sys.argv[1:]
    _main(kind, Path(out), *map(Path, others))
