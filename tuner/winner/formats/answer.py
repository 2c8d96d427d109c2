"""An exported file at work in a process that has its own runtime and nothing else: the other half of its proof."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.store import PreparedData
from captune.tuner.winner.formats.declarations import FORMATS

Inputs = Mapping[str, NDArray[Any]]
Answer = Callable[[Inputs], NDArray[np.float32]]
"""From inputs of n rows by their names to probabilities (n, num_labels)."""
ROWS = (1, 32)
"""Of the batches that are timed."""
CAPTIONS, ANSWERS, FACTS = "caption.npy", "probabilities.npy", "facts.json"
"""Files in the folder that both processes see: token ids; what comes back."""
_BATCH = 64
_RUNS, _SECONDS, _LEAST_RUNS = 50, 5.0, 5


def median_milliseconds(answer: Answer, inputs: Inputs, clock: Callable[[], float] = time.perf_counter) -> float:
    """Of one call, of up to 50 in five seconds and five at least, after two that warm up."""
    for _ in range(2):
        answer(inputs)
    seconds: list[float] = []
    while len(seconds) < _LEAST_RUNS or (len(seconds) < _RUNS and sum(seconds) < _SECONDS):
        start = clock()
        answer(inputs)
        seconds.append(clock() - start)
    return statistics.median(seconds) * 1000


def keep_out(packages: Iterable[str]) -> None:
    """Lets imports of packages fail from now on: TensorFlow, for one, imports Keras wherever it is installed."""
    for package in packages:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]


def check_kept_out(packages: Collection[str]) -> None:
    """Raises RuntimeError where a module of the packages is loaded."""
    if loaded := [module for module, there in sys.modules.items() if there and module.split(".")[0] in packages]:
        raise RuntimeError(f"{loaded[0]} is loaded, without which it should answer")


def _main(name: str, artefact: Path, folder: Path, data: Path, split: str, *reads: str) -> None:
    """Answers the rows of a split of prepared data, and times it.

    Args:
        folder: of CAPTIONS, and what is written: ANSWERS, FACTS.
        reads: names of the inputs.
    """
    prepared = PreparedData.open(data)
    rows = prepared.rows(split)
    tokens = np.load(folder / CAPTIONS) if "caption" in reads else None

    def inputs(places: NDArray[np.intp]) -> Inputs:
        batch: dict[str, NDArray[Any]] = {}
        if "image" in reads:
            batch["image"] = prepared.pixels(rows[places])
        if tokens is not None:
            batch["caption"] = tokens[places]
        return batch

    keep_out(FORMATS[name].absent)
    session = FORMATS[name].functions().session
    answer = session(artefact, os.cpu_count() or 1)
    places = np.arange(len(rows))
    batches = [answer(inputs(places[start : start + _BATCH])) for start in range(0, len(rows), _BATCH)]
    on_one_thread = session(artefact, 1)
    times = {count: median_milliseconds(on_one_thread, inputs(np.resize(places, count))) for count in ROWS}
    check_kept_out(FORMATS[name].absent)
    np.save(folder / ANSWERS, np.concatenate(batches))
    (folder / FACTS).write_text(json.dumps({"milliseconds": times}))


if __name__ == "__main__":
    kind, file, beside, of_data, *others = sys.argv[1:]
    _main(kind, Path(file), Path(beside), Path(of_data), *others)
